"""Makes the pictures of README: `python docs/make_screenshots.py`.

Evaluates three models on the demo task, writes the leaderboard and a report, and photographs them
with Chromium (Debian's packages chromium and chromium-driver, and `pip install selenium`). Nothing
is downloaded.
"""

import io
import shutil
import tempfile
import time
from pathlib import Path

import torch
import torchaudio
from PIL import Image

import evar
from evar.pages import board, report

IMAGES = Path(__file__).resolve().parent / "images"
_MOST = 300_000  # bytes of a picture


class Moments(evar.Adapter):
    """Mean, deviation and mean change of 40 log-mel bands."""

    sample_rate = 16000
    embed_dim = 120
    lr = 0.01

    def __init__(self):
        super().__init__()
        self.mel = torchaudio.transforms.MelSpectrogram(16000, 1024, hop_length=160, n_mels=40)

    def embed(self, audio):
        bands = (self.mel(audio) + 1e-6).log()  # (B, F, T)
        change = bands.diff(dim=2).abs()
        return torch.cat([bands.mean(2), bands.std(2), change.mean(2)], dim=1)


class Envelope(evar.Adapter):
    """Level of 64 stretches of a clip, in dB: rhythm without timbre."""

    sample_rate = 16000
    embed_dim = 64
    lr = 0.01

    def embed(self, audio):
        level = torch.nn.functional.adaptive_avg_pool1d(audio.square(), 64)
        return (level + 1e-8).log10()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        results, where = Path(folder) / "results", {"cache": Path(folder) / "cache"}
        data = Path(folder) / "data"
        data.mkdir()
        for model in ("logmel", Moments(), Envelope()):
            ran = evar.evaluate(model, "demo", data=data, device="cpu", **where)
            ran.save(results)
            written = report.write(ran.record, results, data=data, **where)
            if isinstance(model, Moments):
                shown = written
        driver = _driver(folder)
        try:
            _photograph(driver, board.write(results), "leaderboard.png", width=1560, height=1080)
            _photograph(driver, shown, "report.png", width=1280, height=1180)
        finally:
            driver.quit()


def _driver(folder: str):
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for option in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--disable-gpu"):
        options.add_argument(option)
    options.add_argument(f"--user-data-dir={folder}/profile")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    return webdriver.Chrome(options=options, service=service)


def _photograph(driver, page: Path, name: str, *, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(page.as_uri())
    time.sleep(3)  # charts are drawn
    picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    file = io.BytesIO()
    picture.quantize(128).save(file, "PNG", optimize=True)
    if len(file.getvalue()) > _MOST:
        raise SystemExit(f"{name} has {len(file.getvalue()):,} bytes, more than {_MOST:,}")
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / name).write_bytes(file.getvalue())
    print(IMAGES / name, f"{len(file.getvalue()):,} bytes")


if __name__ == "__main__":
    main()
