"""How long a linear evaluation takes: `python benchmarks/linear.py [--clips=2000] [--many=20000]`.

Prints, for a generated set shaped like ESC-50 (5 s clips at 44.1 kHz, five folds, 50 classes):
the time from raw files to the score of three runs, Python's start included; a second run with
another learning rate on kept embeddings, and one with --lr=auto; fifteen probes together against
one after the other with an ordinary DataLoader loop, and their matrix products alone; --lr=auto
against single rates in turns (`--auto` prints this alone); how busy decoding keeps the cores; peak
memory with few and many clips.
"""

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parent.parent
RATE, SECONDS, CLASSES, FOLDS = 44100, 5.0, 50, 5
COMPARED = (3e-5, 1e-3)  # of the grid of --lr=auto: the rate that trains longest, and a usual one
Cost = tuple[float, float]  # seconds, CPU seconds


def make_set(folder: Path, clips: int, files: int, seconds: float = SECONDS) -> Path:
    """A CSV of `clips` clips over `files` different WAV files (the rest are hard links)."""
    for name in ("audio", "data", "cache", "results"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    t = np.arange(int(RATE * seconds)) / RATE
    with (folder / "clips.csv").open("w", newline="") as out:
        table = csv.writer(out)
        table.writerow(["file", "label", "fold"])
        for i in range(clips):
            name, label = f"audio/{i:06d}.wav", i % CLASSES
            if i < files:
                tone = np.sin(
                    2 * np.pi * (100 + 97 * label) * t * (1 + 0.02 * rng.standard_normal())
                )
                sound = 0.2 * tone + 0.2 * rng.standard_normal(len(t))
                soundfile.write(folder / name, sound, RATE, subtype="PCM_16")
            else:
                source = folder / f"audio/{i % files:06d}.wav"
                os.link(source, folder / name)
            table.writerow([name, f"class{label:02d}", 1 + (i % files) // CLASSES % FOLDS])
    return folder / "clips.csv"


def run(task: Path, folder: Path, *options: str) -> tuple[float, float, float]:
    """One `lineareval.py logmel` in a process of its own: (seconds, CPU seconds, peak MB)."""
    command = [sys.executable, str(ROOT / "lineareval.py"), "logmel", str(task), "--quiet"]
    places = [f"--data={folder}/data", f"--cache={folder}/cache", f"--results={folder}/results"]
    started = time.perf_counter()
    with subprocess.Popen(
        [*command, *places, *options], stdout=subprocess.PIPE, text=True
    ) as process:
        last = process.stdout.read().strip().splitlines()[-1]
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed")
    print(f"    {last}")
    seconds = time.perf_counter() - started
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def problem(rows: int, dim: int) -> tuple[np.ndarray, np.ndarray, list]:
    """Noisy embeddings (rows, dim), their classes, and the (training, test) rows of five folds."""
    rng = np.random.default_rng(0)
    y = np.arange(rows) % CLASSES
    x = rng.standard_normal((CLASSES, dim))[y] + 6.0 * rng.standard_normal((rows, dim))
    x = x.astype(np.float32)
    fold = np.arange(rows) // CLASSES % FOLDS
    sides = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(FOLDS)]
    return x, y, sides


def fifteen_probes(rows: int = 2000, dim: int = 768) -> tuple[float, float]:
    """Seconds for 5 folds x 3 seeds: together, and one by one with a DataLoader."""
    import naive_probe

    sys.path.insert(0, str(ROOT))
    from evar.probing import probe

    x, y, sides = problem(rows, dim)
    seeds, lr = (42, 43, 44), 3e-5
    jobs = [probe.Job(a, None, b, s, i) for s in seeds for i, (a, b) in enumerate(sides)]
    started = time.perf_counter()
    together = probe.fit(x, y, jobs, probe.ProbeSettings(lr=lr))
    middle = time.perf_counter()
    scores = [naive_probe.fit(x, y, a, None, b, lr=lr, seed=s) for s in seeds for a, b in sides]
    ended = time.perf_counter()
    ours = np.mean([probe.score(f.logits, y[j.test]) for f, j in zip(together, jobs, strict=True)])
    print(f"    mean accuracy together {ours:.3f}, one by one {np.mean(scores):.3f}")
    return middle - started, ended - middle


def probes_at(grid: Sequence[float], rows: int = 2000, dim: int = 768) -> Cost:
    """Seconds and CPU seconds of those probes, at each of the rates."""
    sys.path.insert(0, str(ROOT))
    from evar.probing import probe

    x, y, sides = problem(rows, dim)
    jobs = [
        probe.Job(a, None, b, seed, i, lr=rate)
        for seed in (42, 43, 44)
        for i, (a, b) in enumerate(sides)
        for rate in grid
    ]
    started = time.perf_counter(), time.process_time()
    probe.fit(x, y, jobs)
    return time.perf_counter() - started[0], time.process_time() - started[1]


def cost_of_auto(folder: Path, clips: int, rounds: int = 2) -> None:
    """Print what --lr=auto costs against one rate, in turns: commands, then the probes alone.

    The clips are short, since the commands begin with their embeddings kept.
    """
    from evar.probing.rates import RATES

    task = make_set(folder, clips, clips, seconds=0.5)
    run(task, folder, "--epochs=1")  # embeds
    command = {f"--lr={rate:g}": (f"--lr={rate:g}",) for rate in COMPARED}
    in_turns(
        "lineareval logmel, embeddings kept",
        {name: lambda o=options: run(task, folder, *o)[:2] for name, options in command.items()},
        lambda: run(task, folder, "--lr=auto")[:2],
        rounds,
    )
    in_turns(
        "15 probes of 2,000 x 768 alone",
        {f"rate {rate:g}": lambda rate=rate: probes_at((rate,)) for rate in COMPARED},
        lambda: probes_at(RATES),
        1,  # they are slow: all rates take a minute
    )


def in_turns(
    title: str, ones: dict[str, Callable[[], Cost]], auto: Callable[[], Cost], rounds: int
) -> None:
    """Run each of some single rates, then all five, `rounds` times; print means and ratios."""
    measures = {**ones, "auto": auto}
    costs = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            costs[name].append(measure())
            print(f"    {name}: {costs[name][-1][1]:.1f} CPU s", flush=True)  # if it is stopped
    mean = {name: np.mean(found, axis=0) for name, found in costs.items()}
    print(f"  {title}, rounds: {rounds}")
    for name, (wall, cpu) in mean.items():
        print(f"    {name}: {wall:.1f} s, {cpu:.1f} CPU s")
    for name in ones:
        wall, cpu = mean["auto"] / mean[name]
        print(f"    auto / {name}: {cpu:.2f} times the CPU time, {wall:.2f} times the time")


def products_alone(dim: int = 768, batch: int = 200, steps: int = 1600) -> float:
    """Seconds of PyTorch's matrix products of those fifteen probes, two a step."""
    import torch

    weights, x = torch.randn(15, CLASSES, dim), torch.randn(15, batch, dim)
    slope = torch.randn(15, CLASSES, batch)
    started = time.perf_counter()
    for _ in range(steps):
        torch.bmm(weights, x.transpose(1, 2))
        torch.bmm(slope, x)
    return time.perf_counter() - started


def main(*, clips: int = 2000, many: int = 20000, auto: bool = False) -> None:
    """Print every figure; `many=0` leaves out the run with many clips; `auto`: only --lr=auto's."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if auto:
            cost_of_auto(folder, clips)
            return
        print(f"{clips:,} clips of {SECONDS:g} s at {RATE} Hz, {FOLDS} folds, 3 seeds, logmel")
        task = make_set(folder / "few", clips, clips)
        cold, cpu, few_mb = run(task, folder / "few")
        print(
            f"  raw files to score: {cold:.1f} s, {cpu / cold:.2f} cores busy, peak {few_mb:.0f} MB"
        )
        warm, warm_cpu, _ = run(task, folder / "few", "--lr=1e-3")
        print(f"  again with another --lr, embeddings kept: {warm:.1f} s")
        grid, grid_cpu, _ = run(task, folder / "few", "--lr=auto")
        print(
            f"  again with --lr=auto: {grid:.1f} s; from raw files "
            f"{(cpu - warm_cpu + grid_cpu) / cpu:.1f} times one rate's CPU time"
        )
        for dim in (64, 768):
            together, apart = fifteen_probes(dim=dim)
            print(
                f"  15 probes of 2,000 x {dim}: together {together:.1f} s, "
                f"DataLoader loop {apart:.1f} s, ratio {apart / together:.1f}"
            )
            print(f"    of which their matrix products: {products_alone(dim):.1f} s")
        cost_of_auto(folder / "auto", clips)
        if many:
            task = make_set(folder / "many", many, clips)
            seconds, _, many_mb = run(task, folder / "many", "--epochs=3")
            print(
                f"  {many:,} clips: {seconds:.1f} s, peak {many_mb:.0f} MB "
                f"({many_mb - few_mb:+.0f} MB)"
            )


if __name__ == "__main__":
    import fire

    fire.Fire(main)
