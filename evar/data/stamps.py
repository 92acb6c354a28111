"""Stamps of files: size in bytes and both times of change in ns, by which a change is noticed."""

import functools
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evar.data import packed

Stamp = tuple[int, int, int]
ABSENT: Stamp = (0, 0, 0)  # of a file that is not there
_TRIED, _TOGETHER = 200, 2000  # files whose stamps are read to measure the disk; by one thread
_SLOW, _THREADS = 1e-4, 16  # seconds per file from which on so many threads read stamps


def stamp_of(status: os.stat_result) -> Stamp:
    """Returns the stamp of a file that is there."""
    # The second time changes with every edit, also where the first was set back.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def stamps_of(root: Path, names: Sequence[str]) -> NDArray:
    """Returns the stamps of files, (N, 3); ABSENT where there is none.

    A local disk answers sooner than a thread is switched to; of one that does not (a network's),
    many are asked at a time.
    """
    first, rest = names[:_TRIED], names[_TRIED:]
    started = time.perf_counter()
    found = [_stamps(root, first)]
    if rest:
        slow = time.perf_counter() - started > _SLOW * len(first)
        parts = [rest[at : at + _TOGETHER] for at in range(0, len(rest), _TOGETHER)]
        with ThreadPoolExecutor(_THREADS if slow else 1) as pool:
            found += pool.map(functools.partial(_stamps, root), parts)
    return np.concatenate(found)


def _stamps(root: Path, names: Sequence[str]) -> NDArray:
    folder = str(root)

    def numbers() -> Iterator[int]:
        for name in names:
            try:
                yield from stamp_of(packed.status(f"{folder}/{name}"))
            except OSError:
                yield from ABSENT

    return np.fromiter(numbers(), np.int64, 3 * len(names)).reshape(-1, 3)
