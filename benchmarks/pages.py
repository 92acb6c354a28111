"""Measures the leaderboard of 60 models x 20 tasks: how long it takes to build, and to open.

python benchmarks/pages.py [--models=60] [--tasks=20] [--clips=400] [--nobrowser]

Results are made up: three seeds and `clips` test clips for each run. CPU seconds of this process;
the page is opened in headless Chromium, where times count from the start of
navigation, and Task is all that its main thread did until then.
"""

import gzip
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import numpy as np
import pandas as pd

from evar.pages import board
from evar.results import leaderboard
from helpers import made_results as made

_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
_ON_LOAD = """
addEventListener("DOMContentLoaded", () => setTimeout(() => {
  window.usable = performance.now();
  const head = document.querySelectorAll("#board-0 thead th")[5];
  head.click();
  const wait = setInterval(() => {
    if (!head.ariaSort) return;
    clearInterval(wait);
    document.body.getBoundingClientRect();
    window.sorted = performance.now();
  });
}));
"""


def write_runs(folder: Path, models: int, tasks: int, clips: int) -> None:
    """Writes records and predictions of models x tasks runs of accuracy."""
    rng, labels, seeds = np.random.default_rng(0), np.arange(10).astype(str), 3
    names = [f"{i:05d}.wav" for i in range(clips)] * seeds
    base = {"clip": names, "fold": "test", "seed": np.repeat([42, 43, 44], clips)}
    for task in range(tasks):
        true = np.tile(rng.choice(labels, clips), seeds)
        for model in range(models):
            right = rng.random(clips * seeds) < 0.3 + 0.6 * model / models
            said = np.where(right, true, rng.choice(labels, clips * seeds))
            table = pd.DataFrame({**base, "true": true, "predicted": said, "score": 0.5})
            record = made.record(f"model_{model}", f"task{task:02d}", float(right.mean()))
            path = folder / "runs" / f"{record['id']}.predictions.csv.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(table.to_csv(index=False).encode(), 1))
            path.with_name(f"{record['id']}.json").write_text(json.dumps(record))


def peak() -> float:
    """Returns the peak memory of this process so far in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1000
    return float("nan")


def measured(name: str, call: Callable[[], object]) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"  {name:<34} {cpu:6.1f} s CPU, {wall:6.1f} s wall, peak {peak():,.0f} MB", flush=True)


def open_page(path: Path) -> None:
    """Opens the page and sorts it by a column as soon as it can be used."""
    from selenium import webdriver
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for option in _OPTIONS:
        options.add_argument(option)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        call = driver.execute_cdp_cmd
        call("Performance.enable", {"timeDomain": "threadTicks"})
        call("Page.addScriptToEvaluateOnNewDocument", {"source": _ON_LOAD})
        for _ in range(5):
            driver.get(path.resolve().as_uri())
            wait = WebDriverWait(driver, 60)
            wait.until(lambda driver: driver.execute_script("return window.sorted"))
            usable, sorted_ = driver.execute_script("return [usable, sorted]")
            metrics = call("Performance.getMetrics", {})["metrics"]
            spent = {m["name"]: m["value"] for m in metrics}
            parts = ("Task", "Script", "Layout", "RecalcStyle")
            shares = ", ".join(f"{p} {spent[f'{p}Duration']:.2f}" for p in parts)
            print(f"  usable after {usable:.0f} ms, sorted after {sorted_:.0f} ms;")
            print(f"    CPU of the page's main thread in s: {shares}")
    finally:
        driver.quit()


def main(*, models: int = 60, tasks: int = 20, clips: int = 400, browser: bool = True) -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        made.published(folder)
        write_runs(folder, models, tasks, clips)
        print(f"{models} models x {tasks} tasks, {clips} test clips, three seeds")
        measured("tables (leaderboard.rebuild)", lambda: leaderboard.rebuild(folder))
        measured("page, for the first time", lambda: board.write(folder))
        measured("page, again", lambda: board.write(folder))
        path = folder / board.NAME
        print(f"  the page has {path.stat().st_size / 1e6:.2f} MB")
        if browser:
            open_page(path)


if __name__ == "__main__":
    import fire

    fire.Fire(main)
