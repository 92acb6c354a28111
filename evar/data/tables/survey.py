"""Looks at and listens to the recordings of a folder: lengths, rates, copies, silence, clipping."""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evar.data import audio
from evar.errors import BadAudio

LONG = 300.0  # seconds; longer recordings are not decoded here, their headers are read
_FULL = 0.99  # of full scale
_RUN = 3  # successive samples at the same peak: a flattened wave


@dataclass(frozen=True)
class Sound:
    """What is known of a file: rate (Hz), seconds, digest of its samples, or the problem.

    digest: "" for digital silence; of a recording that is longer than LONG, a hash of its file.
    """

    rate: int = 0
    seconds: float = 0.0
    digest: str = ""
    clipped: bool = False
    heard: bool = True
    problem: str = ""

    @property
    def silent(self) -> bool:
        return not self.problem and not self.digest


def survey(folder: Path, names: Sequence[str], progress=None) -> dict[str, Sound]:
    """Returns what each file is; those that cannot be used say why in `problem`.

    progress: wraps the files, as tqdm does.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        looked = pool.map(lambda name: _look(folder / name), names)
        found = list(progress(looked, total=len(names)) if progress else looked)
    return dict(zip(names, found, strict=True))


def _look(path: Path) -> Sound:
    try:
        header = audio.read_header(path)
        seconds = header.frames / header.sample_rate
        if seconds > LONG:
            return Sound(header.sample_rate, seconds, audio.fingerprint(path), heard=False)
        mono, rate = audio.decode(path)
    except BadAudio as error:
        return Sound(problem=error.reason)
    return Sound(rate, len(mono) / rate, audio.digest_of(mono), _clipped(mono))


def _clipped(mono: np.ndarray) -> bool:
    """Whether a wave is cut off: several samples in a row at its peak, near full scale."""
    peak = np.abs(mono).max(initial=0)
    if peak < _FULL:
        return False
    at = np.flatnonzero(np.abs(mono) >= peak * (1 - 1e-4))
    return len(at) >= _RUN and bool((at[_RUN - 1 :] - at[: 1 - _RUN] == _RUN - 1).any())


def histogram(seconds: Sequence[float], width: int = 40) -> list[str]:
    """Returns the lines of a histogram of lengths: bounds in seconds, a bar, a count."""
    edges = np.array([0, 0.25, 0.5, 1, 2, 3, 5, 10, 30, 60, 300, 1800, np.inf])
    counts, _ = np.histogram(seconds, edges)
    there = np.flatnonzero(counts)
    lines = []
    for i in range(there[0], there[-1] + 1) if len(there) else ():
        low, high = (f"{edge:g}" for edge in edges[i : i + 2])
        name = f"over {low}" if high == "inf" else f"{low}-{high}"
        lines.append(f"{name:>9} s  {bar(counts[i], counts.max(), width):<{width}} {counts[i]:,}")
    return lines


def class_lines(labels: Sequence[str], width: int = 40, most: int = 30) -> list[str]:
    """Returns a line for each class, the largest first: its name, a bar, its clips."""
    counts = Counter(part for label in labels for part in label.split(","))
    shown = counts.most_common(most)
    long = max((len(name) for name, _ in shown), default=0)
    top = max(counts.values(), default=1)
    lines = [f"{name:<{long}}  {bar(n, top, width):<{width}} {n:,}" for name, n in shown]
    rest = len(counts) - len(shown)
    return [*lines, f"and {rest:,} more classes"] if rest else lines


def bar(count: int, top: int, width: int) -> str:
    """Returns a bar whose length is the count's share of the largest one; at least one sign."""
    return "#" * (max(1, round(width * count / top)) if count else 0)
