"""The page of predictions in a browser: it draws, plays, asks for nothing and runs no name."""

import numpy as np
import pytest
import soundfile

import evar
from evar.pages import predicted
from evar.predicting import model as of_run
from evar.predicting import scoring
from evar.runtime import Runtime
from evar.task import Windows

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def made(new_clips, tmp_path):
    clips = new_clips()
    for split, count in (("train", 6), ("test", 4)):
        for i in range(count):
            for label, hertz in ((EVIL, 300), ("high", 3000)):
                clips.add(f"{split}{i}{hertz}.wav", label, split, hertz=hertz + 10 * i)
    run = evar.evaluate("logmel", clips.csv, seeds=2, device="cpu", cache=None)
    run.save(tmp_path / "results")
    time = np.arange(4 * 16_000) / 16_000
    tone = np.sin(2 * np.pi * np.where(time < 2, 320, 3020) * time)
    tone = tone + 0.03 * np.random.default_rng(0).standard_normal(len(tone))
    (tmp_path / "field").mkdir()
    for name in ("night.wav", f"{EVIL.replace('/', '')}.wav"):
        soundfile.write(tmp_path / "field" / name, 0.3 * tone, 16_000)
    loaded, _ = of_run.load(run.record)
    manifest = scoring.open_sounds(tmp_path / "field", Windows(1), run.record, Runtime())
    probes = of_run.probes_of(run.record, tmp_path / "results")
    return run.record, scoring.predict(loaded, manifest, probes, Runtime())


@pytest.mark.parametrize("audio", ["embed", "link", "none"])
def test_the_page(audio, made, browser, tmp_path):
    record, found = made
    path = predicted.write(found, record, tmp_path / "page.html", audio=audio, notes=["note: <i>"])
    page = browser.open(path)
    page.drawn()
    if audio != "link":  # which asks for the sounds on this disk
        page.require_sound(path)
    assert page.text("h2") == ["What was found", "To listen to", "All windows"]
    assert page.text("#classes h3 span") == ["4", "4"]
    assert len(page.all("#all-table tbody tr")) == 8
    assert len(page.all("audio")) == (0 if audio == "none" else 8)
    if audio == "link":
        source = page.one("audio").get_attribute("src")
        assert source.startswith("file://")
        assert "#t=" in source
    assert page.all("img[src=x]") == []
    assert page.accessibility() == []


def test_without_scripts_everything_is_there_but_the_chart(made, browser, tmp_path):
    record, found = made
    path = predicted.write(found, record, tmp_path / "page.html", audio="none", notes=[])
    page = browser.open(path, scripts=False)
    assert len(page.all("#all-table tbody tr")) == 8
    browser.require_readable(path, "#all-table")


def test_printed_it_is_light_and_without_players(made, browser, tmp_path):
    record, found = made
    path = predicted.write(found, record, tmp_path / "page.html", audio="embed", notes=[])
    page = browser.open(path, width=700, dark=True)
    page.drawn()
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    page.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"media": "print", "features": [dark]}
    )
    assert not any(player.is_displayed() for player in page.all("audio"))
    assert all(row.is_displayed() for row in page.all("#all-table tbody tr"))
    assert page.js("return getComputedStyle(document.documentElement).colorScheme") == "light"
    wide = page.js("return document.documentElement.scrollWidth - innerWidth")
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert wide <= 0
