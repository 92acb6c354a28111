"""Windows: a recording is heard in steps, and scored by the class scores of all of its windows."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from evar.data.manifest import Manifest
from evar.task import Task, Windows

_REST = 0.01  # of a window; a rest no longer than that gets no window of its own


def of_task(task: Task, windows: Windows) -> Task:
    """Returns the task whose recordings are scored by windows; a window is its unit."""
    return replace(task, windows=windows, seconds=windows.seconds)


def spans(frames: int, rate: int, windows: Windows) -> list[tuple[int, int]]:
    """Returns the windows of a clip of so many frames at `rate` Hz: [first, last) of each.

    They begin a hop after one another. What is left behind the last one gets a window that ends
    with the clip, and overlaps more. A clip that is shorter than a window is one by itself.
    """
    length, hop = round(windows.seconds * rate), (windows.hop or windows.seconds) * rate
    if frames <= length:
        return [(0, frames)]
    count = 1 + int((frames - length) / hop)
    firsts = [round(i * hop) for i in range(count)]
    firsts = [first for first in firsts if first + length <= frames]
    if frames - (firsts[-1] + length) > _REST * length:
        firsts.append(frames - length)
    return [(first, first + length) for first in firsts]


def of_clip(manifest: Manifest, row: int) -> list[tuple[int, int]]:
    """Returns the windows of a clip, in frames of its file."""
    frames, rate = int(manifest.table.frames[row]), int(manifest.table.sample_rate[row])
    begin = (manifest.span(row) or (0, 0))[0]
    assert manifest.task.windows is not None
    return [(begin + a, begin + b) for a, b in spans(frames, rate, manifest.task.windows)]


def pooled(scores: NDArray, owner: NDArray, clips: NDArray, how: str) -> NDArray:
    """Returns the scores of recordings (n, C) from those of their windows (V, C).

    owner: (V,) the recording of each window; clips: (n,) the recordings, in the order that is
    wanted. how: "mean" or "max" over windows.
    """
    order = np.argsort(clips, kind="stable")
    place = order[np.searchsorted(clips[order], owner)]
    if how == "max":
        best = np.full((len(clips), scores.shape[1]), -np.inf, scores.dtype)
        np.maximum.at(best, place, scores)
        return best
    total = np.zeros((len(clips), scores.shape[1]), np.float64)
    np.add.at(total, place, scores)
    counts = np.bincount(place, minlength=len(clips))
    return (total / counts[:, None]).astype(scores.dtype)
