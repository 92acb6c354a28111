"""Clips of a task as waveforms: decoded ahead by threads, cached in memory up to a limit."""

import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evar.data import audio
from evar.data.manifest import Manifest
from evar.errors import BadAudio

KEEP_BYTES = 2**30  # of decoded clips in memory
_PART = 500  # clips submitted to the pool at once
_AHEAD = 3  # batches that are being decoded while one is computed
Want = tuple[int, int]  # a clip's row in the manifest; where its unit begins (audio.random_start)


class Waveforms:
    """Units of (S,) samples at the encoder's rate, by row of the manifest.

    `keep_bytes` limits the cache for later epochs. Whole clips are cached, since each epoch draws
    its own crops.
    """

    def __init__(self, manifest: Manifest, sample_rate: int, *, keep_bytes: int = KEEP_BYTES):
        self.manifest, self.sample_rate = manifest, sample_rate
        self.samples = manifest.task.unit_samples(sample_rate)
        self.names = manifest.clips.tolist()
        self._kept: dict[int, np.ndarray] = {}
        self._lengths: dict[int, int] = {}
        self._room = keep_bytes
        self._lock = Lock()

    def load(self, row: int, start: int = 0) -> np.ndarray:
        """Returns one unit (S,); `start` as in `evar.data.audio.load_clip`. Raises BadAudio."""
        clip = self._kept.get(row)
        if clip is None:
            clip = audio.load_clip(
                self.manifest.root / self.manifest.table.file[row],
                sample_rate=self.sample_rate,
                samples=None,
                span=self.manifest.span(row),
                silence=self.manifest.task.silence,
            )
            with self._lock:
                self._lengths[row] = min(len(clip), self.samples)
                if clip.nbytes <= self._room and row not in self._kept:
                    self._kept[row] = clip
                    self._room -= clip.nbytes
        room = len(clip) - self.samples
        if room <= 0:
            return np.pad(clip, (0, -room))
        first = start % room
        return clip[first : first + self.samples]

    def lengths(self, rows: Sequence[int]) -> Tensor:
        """Returns how many samples of each clip's unit (N,) are sound, before padding."""
        for row in rows:
            if row not in self._lengths:
                self.load(row)
        return torch.tensor([self._lengths[row] for row in rows])

    def bad(
        self, rows: Sequence[int] | None = None, *, progress: Callable | None = None
    ) -> dict[int, str]:
        """Decodes clips once, by default all in use; returns those that fail (row: reason)."""
        rows = self.manifest.good.index.tolist() if rows is None else rows
        found = {}

        def look(row: int) -> None:
            try:
                self.load(row)
            except BadAudio as error:
                found[row] = error.reason

        with ThreadPoolExecutor(_workers()) as pool:
            # Part by part: a pool keeps a kilobyte for every clip that waits in it.
            parts = (rows[at : at + _PART] for at in range(0, len(rows), _PART))
            looked = itertools.chain.from_iterable(pool.map(look, part) for part in parts)
            for _ in progress(looked, total=len(rows)) if progress else looked:
                pass
        return dict(sorted(found.items()))

    def stream(self, wanted: Iterable[Sequence[Want]], *, pin: bool = False) -> Generator[Tensor]:
        """Yields the wanted batches (B, S) in order, and decodes the next ones meanwhile.

        `pin`: in page-locked memory, from which a GPU copies while it computes.
        """
        pool, ahead = ThreadPoolExecutor(_workers()), deque[list[Future[NDArray]]]()
        wanted = iter(wanted)
        try:
            while True:
                while len(ahead) < _AHEAD and (wants := next(wanted, None)) is not None:
                    ahead.append([pool.submit(self.load, *want) for want in wants])
                if not ahead:
                    return
                clips = [future.result() for future in ahead.popleft()]
                stacked = np.stack(clips) if clips else np.empty((0, self.samples), np.float32)
                batch = torch.from_numpy(stacked)
                yield batch.pin_memory() if pin else batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _workers() -> int:
    return os.cpu_count() or 1
