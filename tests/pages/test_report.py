"""The run report: numbers of the record, sounds that play, names that are markup, small files."""

import csv
import json
import re

import numpy as np
import pandas as pd
import pytest

import evar
from evar.pages import details, report
from evar.results import record
from helpers import made_results as made

LABELS = ("low", '<b>high</b>{{7*7}}"')
FILE = "<i>{{1+1}}&'NUMBER.wav"


def adapter():
    import torch

    class Crossings(evar.Adapter):
        """Level, peak and zero crossings: enough to tell most low tones from high ones."""

        sample_rate = 16000
        embed_dim = 3
        lr = 0.05

        def embed(self, audio):
            crossings = (audio[:, 1:].sign() != audio[:, :-1].sign()).float().mean(dim=1)
            parts = [audio.square().mean(dim=1), audio.abs().amax(dim=1), crossings]
            return torch.stack(parts, 1)

    return Crossings


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Low and high tones, some of them with the other's label, so that there are mistakes."""
    import soundfile

    root = tmp_path_factory.mktemp("sounds")
    rows, time, rng = [], np.arange(4800) / 16000, np.random.default_rng(0)
    for side, count in (("train", 6), ("valid", 3), ("test", 8)):
        for i in range(count):
            for label, hertz in zip(LABELS, (300, 3000), strict=True):
                file = FILE.replace("NUMBER", f"{side}{i}{hertz}")
                wrong = side == "test" and i < 2
                tone = np.sin(2 * np.pi * (3300 - hertz if wrong else hertz + 5 * i) * time)
                noise = 0.01 * rng.standard_normal(len(time))
                soundfile.write(root / file, 0.3 * tone + noise, 16000)
                group = f"{side}{i}" if i < 4 else f"{side}{i}{label}"  # 12 of the test clips
                rows.append((file, label, side, group))
    with (root / "sounds.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "label", "split", "group"), *rows])
    return root


@pytest.fixture(scope="module")
def folders(sounds, tmp_path_factory):
    """A real run of these sounds: its id, and the folders of results, data and cache."""
    base = tmp_path_factory.mktemp("run")
    (base / "data").mkdir()
    ran = evar.evaluate(
        adapter(),
        str(sounds / "sounds.csv"),
        data=base / "data",
        cache=base / "cache",
        device="cpu",
        seeds=2,
    )
    ran.save(base / "results")
    return base, ran.record


@pytest.fixture(scope="module")
def path(folders):
    base, run = folders
    return report.write(run, base / "results", data=base / "data", cache=base / "cache")


def test_numbers_are_those_of_the_record(browser, folders, path):
    _, run = folders
    browser.open(path)
    score = run.score
    low, high = (f"{100 * end:.1f}" for end in score.test95)
    tiles = browser.text("#score dd")
    assert tiles[0].startswith(f"{100 * score.mean:.1f} %")
    assert tiles[1].startswith(f"± {100 * score.ci95:.1f}")
    assert tiles[2].startswith(f"{low} to {high}")
    names = browser.text("#class-table tbody th")
    values = browser.text("#class-table tbody td:nth-child(2)")
    shown = dict(zip(names, values, strict=True))
    assert shown == {name: f"{100 * value:.1f}" for name, value in run.per_class.items()}
    scores = browser.text("#run-table tbody td:nth-child(3)")
    assert scores == [f"{100 * r['folds'][0]['score']:.1f}" for r in run.runs]
    text = browser.one("#facts").text
    assert run.manifest in text.replace("\n", "")
    assert run.model.weights in text


def test_it_asks_for_nothing_and_is_accessible(browser, path):
    browser.open(path, width=820)
    browser.drawn(4)
    browser.require_sound(path)
    browser.open(path, width=390, dark=True)
    browser.require_sound(path)
    assert browser.accessibility() == []


def test_labels_and_files_that_are_markup_are_text(browser, path):
    browser.open(path)
    browser.drawn(4)
    assert LABELS[1] in browser.text("#class-table th")
    assert any(name.startswith("<i>{{1+1}}&'") for name in browser.text(".card .name"))
    assert "<b>" not in re.sub(r"<script.*?</script>", "", path.read_text(), flags=re.DOTALL)
    assert browser.all("main b, main i") == []


def test_sounds_play(browser, path):
    browser.open(path)
    players = browser.all("#mistakes audio")
    assert players
    seconds = browser.until(
        "const a = document.querySelector('#mistakes audio');"
        "return a.readyState >= 1 && Number.isFinite(a.duration) && a.duration"
    )
    assert 0.2 < seconds < 0.6
    played = browser.driver.execute_async_script(
        "const done = arguments[0], a = document.querySelector('#mistakes audio');"
        "a.muted = true; a.addEventListener('ended', () => done('ended'));"
        "a.addEventListener('error', () => done('error'));"
        "a.play().catch((e) => done(String(e)))"
    )
    assert played == "ended"
    assert browser.js("return document.querySelector('#mistakes audio').error") is None


def test_a_click_on_the_map_plays_the_clip(browser, path):
    from selenium.webdriver import ActionChains

    browser.open(path)
    browser.drawn(4)
    browser.until("return document.querySelector('[data-chart=map-PCA] svg')")
    marks = browser.all('[data-chart="map-PCA"] svg g.mark-symbol.role-mark path')
    assert len(marks) == 16
    browser.js("arguments[0].scrollIntoView({block: 'center'})", marks[0])
    ActionChains(browser.driver).move_to_element(marks[0]).click().perform()
    browser.until("return document.querySelector('#playing audio')")
    assert "true " in browser.one("#playing").text
    browser.one("[data-method='t-SNE']").click()
    browser.until("return document.querySelector('[data-chart=\"map-t-SNE\"] svg')")


def test_without_scripts_numbers_and_sounds_are_there(browser, path):
    browser.open(path, scripts=False)
    assert browser.one("#class-table").is_displayed()
    assert browser.one("#mistakes audio").is_displayed()
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_run_without_a_mistake_has_none_to_show():
    table = pd.DataFrame(
        {"clip": ["a", "b"], "true": ["x", "y"], "predicted": ["x", "y"], "score": [0.9, 0.8]}
    )
    assert details.mistakes(table) == []


def test_sounds_can_be_linked_or_left_out(browser, folders):
    base, run = folders
    where = {"data": base / "data", "cache": base / "cache"}
    path = report.write(run, base / "results", audio="none", **where)
    assert "<audio" not in path.read_text()
    path = report.write(run, base / "results", audio="link", **where)
    browser.open(path)
    browser.until("return document.querySelector('#mistakes audio').duration > 0.2")
    assert browser.console() == []
    assert all(url.startswith("file:") for url in browser.requests())
    report.write(run, base / "results", **where)  # as the other tests expect it


def test_without_the_data_set_it_says_so(browser, folders, tmp_path):
    base, run = folders
    path = report.write(run, base / "results", data=tmp_path, cache=base / "cache")
    browser.open(path)
    assert "was not found" in browser.one("#map").text
    assert "No sounds" in browser.one("#mistakes").text
    assert browser.all("audio") == []
    browser.require_sound(path)
    report.write(run, base / "results", data=base / "data", cache=base / "cache")


def test_sounds_are_not_passed_on_where_the_licence_forbids_it():
    from evar.pages import clips
    from evar.results.record import from_json

    def allowed(task: str) -> bool:
        return clips.may_be_passed_on(from_json(made.record(of=task)))[0]

    assert allowed("my_own_sounds")
    assert allowed("demo")
    assert allowed("esc50")
    assert not allowed("gtzan")  # none stated
    assert not allowed("audiocaps")  # the audio is not distributed
    assert not allowed("voxceleb1" if "voxceleb1" in evar.task.names() else "vc1")


def test_twenty_thousand_clips_are_five_megabytes_at_most(tmp_path):
    from evar.pages import embedding_map

    labels = tuple(f"class {i}" for i in range(50))
    table = made.predicted(0.7, clips=20_000, labels=labels, seeds=(42,))
    hit = (table.true == table.predicted).groupby(table.true).mean()
    made.save(
        tmp_path,
        made.record(mean=0.7, per_class=hit.to_dict()),
        predictions=table,
    )
    run = record.load_runs(tmp_path)[0][0]
    clips = sorted(set(table["clip"]))
    places = np.random.default_rng(0).normal(size=(len(clips), 2))
    found = embedding_map.Map(clips, {"PCA": places}, 0.5)
    original, embedding_map.of_run = embedding_map.of_run, lambda *_: found
    try:
        path = report.write(run, tmp_path)
    finally:
        embedding_map.of_run = original
    assert path.stat().st_size < 5_000_000


def test_zero_shot_shows_captions_and_the_nearest_ones(browser, tmp_path):
    labels = ("cat", "dog", made.NASTY)
    table = made.predicted(0.5, labels=labels, seeds=(0,)).drop(columns="seed")
    similar = pd.DataFrame(np.random.default_rng(0).random((40, 3)), columns=list(labels))
    similar.insert(0, "clip", table["clip"])
    run = made.record(
        made.NASTY,
        protocol="zeroshot",
        seeds=[],
        captions={label: [f"{label} can be heard"] for label in labels},
    )
    made.save(tmp_path, run, predictions=table, similarities=similar)
    path = report.write(record.load_runs(tmp_path)[0][0], tmp_path)
    browser.open(path)
    browser.require_sound(path)
    assert f"{made.NASTY} can be heard" in browser.text("#captions td")
    assert any(f"nearest: {labels[0]} can be heard" in t for t in browser.text(".card"))
    assert browser.driver.title.startswith(made.NASTY)


def test_retrieval_shows_the_worst_queries(browser, tmp_path):
    rows = [
        ("text_to_audio", f"{i}.wav", f"<u>caption</u> {i}", i + 1, 1 / (i + 1)) for i in range(20)
    ]
    rows += [("audio_to_text", f"{i}.wav", None, 21 - i, 0.1) for i in range(20)]
    table = pd.DataFrame(rows, columns=["direction", "clip", "caption", "rank", "mAP@10"])
    run = made.record(
        protocol="retrieval",
        seeds=[],
        score={"metric": "text-to-audio mAP@10", "test95": None, "ci95": None},
        metrics={"text_to_audio": {"mAP@10": 0.2, "medR": 10.5}},
        intervals={"text_to_audio": {"mAP@10": [0.1, 0.3], "medR": None}},
    )
    near = [
        ("text_to_audio", "19.wav", "<u>caption</u> 19", 1, "3.wav", "a <b>bell</b>", 0.812),
        ("text_to_audio", "19.wav", "<u>caption</u> 19", 2, "4.wav", "a dog", 0.7),
        ("audio_to_text", "0.wav", "", 1, "5.wav", "rain", 0.6),
    ]
    names = ["direction", "clip", "caption", "place", "near_clip", "near_caption", "similarity"]
    nearest = pd.DataFrame(near, columns=names)
    made.save(tmp_path, run, predictions=table, nearest=nearest)
    path = report.write(record.load_runs(tmp_path)[0][0], tmp_path)
    browser.open(path)
    browser.require_sound(path)
    assert browser.text("#queries tbody th")[0] == "<u>caption</u> 19"
    shown = browser.text("#queries td:last-child")
    assert shown[0] == "3.wav (a <b>bell</b>) 0.814.wav (a dog) 0.70"
    assert "rain 0.60" in shown
    assert browser.text("#metrics td")[:2] == ["20.0", "10.0 to 30.0"]
    assert "none" in browser.text("#score dd")[2]
    browser.require_readable(path, "#queries table")


CURVE = [
    {"layer": i, "mean": 0.5 + 0.1 * i, "ci95": 0.02, "std": 0.01, "valid": 0.7 - 0.1 * i}
    for i in range(3)
]


def _layers(results, **extra) -> str:
    run = made.record(protocol="layers", **extra)
    made.save(results, run)
    return report.write(record.load_runs(results)[0][0], results).read_text()


def test_layers_can_be_read_in_any_way(browser, tmp_path):
    _layers(tmp_path, curve=CURVE, chosen_layer=0)
    (path,) = tmp_path.glob("reports/*.html")
    browser.open(path)
    browser.drawn(1)
    browser.require_sound(path)
    browser.require_readable(path, "#layer-table")


def test_layers_have_their_own_chart_and_table(tmp_path):
    text = _layers(tmp_path, curve=CURVE, chosen_layer=0)
    assert "Layer 0, at the dashed line, is best by mean validation score" in text
    cells = re.findall(r'<td class="number">([^<]*)</td>', text[text.index("layer-table") :])
    assert cells[:6] == ["50.0 ± 2.0", "70.0", "60.0 ± 2.0", "60.0", "70.0 ± 2.0", "50.0"]
    data = re.search(r'id="data">(.*?)</script>', text)[1]
    values = json.loads(data)["charts"]["layers"]["data"]["values"]
    assert [row["value"] for row in values if row["side"] == "test"] == [50, 60, 70]
    assert [row["layer"] for row in values if row["chosen"]] == [0, 0]


def test_a_learned_mixture_shows_its_weights(tmp_path):
    text = _layers(tmp_path, layer_weights={"0": 0.25, "1": 0.75})
    assert "Mean weight of each layer" in text
    assert '<td class="number">0.750</td>' in text


def test_tagging_shows_the_classes_that_are_not_there(browser, tmp_path):
    rng = np.random.default_rng(0)
    names = ["cat", "dog", "clip"]
    truth = rng.integers(0, 2, (30, 3))
    truth[:, 0] |= truth.sum(axis=1) == 0
    labels = [",".join(np.array(names)[row == 1]) for row in truth]
    files = [f"{i:02d}.wav" for i in range(30)]
    table = pd.DataFrame({"clip": files, "fold": "test", "seed": 42, "true": labels})
    table = table.assign(predicted="cat", score=0.9)
    scores = pd.DataFrame(rng.random((30, 3)), columns=names)
    scores.insert(0, "clip", files, allow_duplicates=True)
    scores.insert(1, "fold", "test")
    run = made.record(
        seeds=[42], score={"metric": "mAP"}, per_class={"cat": 0.5, "dog": 0.4, "clip": None}
    )
    made.save(tmp_path, run, predictions=table, scores_42=scores)
    path = report.write(record.load_runs(tmp_path)[0][0], tmp_path)
    browser.open(path)
    assert "undefined" in browser.text("#class-table td")
    assert len(browser.all("#mistakes .card")) == 12
    browser.require_sound(path)


def test_the_command_takes_a_prefix_or_model_and_task(command, tmp_path):
    results = tmp_path / "results"
    run = made.run_of(results, "mine", 0.8)
    made.run_of(results, "mine", 0.8, of="gtzan")
    assert f"{run}.html" in command("report", run[:6], f"--results={results}").out
    assert f"{run}.html" in command("report", "mine", "esc50", f"--results={results}").out
    for words, said in (
        (("mine",), "name a task too"),
        (("zzz",), "unknown run"),
        (("mine", "speech"), "unknown task of mine"),
        (("mine", "esc50", "--audio=loud"), "not one of embed, link, none"),
    ):
        ran = command("report", *words, f"--results={results}")
        assert ran.code == 2
        assert said in ran.err
    assert "no such results folder" in command("report", "a", "--results=nowhere").err
