"""The endless stream of clips that training reads.

Position k of the stream is clip permutation(seed, k // N)[k % N]: every clip comes once in N
positions, with any batch size. The random crop and caption of a clip are a function of seed, pass
and clip, so that a resumed run, or one on another number of processes, sees the same data.
"""

import math
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evar.errors import UserError

from .captions import CaptionTable
from .shards import ShardSet

_AHEAD = 4  # batches that are read while one is computed
SILENCE = math.log(torch.finfo(torch.float32).eps)  # of a log-mel
SAMPLE_RATE, HOP = 16000, 160


@dataclass(frozen=True)
class Batch:
    """The part of a step's batch that one process computes.

    inputs: (b, S) float32 waveforms, or (b, F, T) float16 log-mel. captions: (b, E) float32, zeros
    where `captioned` (b,) is False. clips: (b,) numbers in the shard set.
    """

    inputs: Tensor
    captions: Tensor
    captioned: Tensor
    clips: Tensor

    def pinned(self) -> "Batch":
        """Returns a copy in page-locked memory, from which a GPU copies while it computes."""
        tensors = (self.inputs, self.captions, self.captioned, self.clips)
        return Batch(*(tensor.pin_memory() for tensor in tensors))


class ClipStream:
    """Reads crops of `frames` frames of the clips in a folder of shards, with their captions.

    captions: a file that `python -m pretrain.captions` wrote for the same shards. Raises UserError
    for captions of other shards.
    """

    def __init__(self, folder, *, frames: int, bands: int = 80, seed: int = 0, captions=None):
        self.shards = ShardSet.open(folder)
        self.frames, self.bands, self.seed = frames, bands, seed
        self.kind = self.shards.kind
        if self.shards.sample_rate != SAMPLE_RATE:
            raise UserError(f"{folder}: shards of {self.shards.sample_rate} Hz, not {SAMPLE_RATE}")
        self.captions = None if captions is None else CaptionTable.open(Path(captions), self.shards)
        self.caption_dim = 0 if self.captions is None else self.captions.dim
        self.identity = self.shards.identity
        if self.captions is not None:
            self.identity += f" {self.captions.identity}"
        self._pass, self._order = -1, np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.shards)

    def batches(
        self,
        batch_size: int,
        *,
        steps: range,
        rank: int,
        world: int,
        workers: int = 0,
        pin: bool = False,
    ) -> Generator[Batch]:
        """Yields the batches of some steps: of each, the `rank`-th of `world` equal parts.

        workers: threads that read ahead; their number changes no value. pin: use page-locked
        memory.
        """
        size = batch_size // world
        if size * world != batch_size:
            raise ValueError(f"a batch of {batch_size} does not divide by {world}")

        def wanted(step: int) -> list[tuple[int, int]]:
            first = step * batch_size + rank * size
            return [self._at(position) for position in range(first, first + size)]

        if workers < 1:
            for step in steps:
                batch = self._batch([self._load(*want) for want in wanted(step)])
                yield batch.pinned() if pin else batch
            return
        readers, builder = ThreadPoolExecutor(workers), ThreadPoolExecutor(1)
        waiting, ahead = iter(steps), deque[Future[Batch]]()

        def built(reading: list[Future]) -> Batch:
            batch = self._batch([future.result() for future in reading])
            return batch.pinned() if pin else batch

        try:
            while True:
                while len(ahead) < _AHEAD and (following := next(waiting, None)) is not None:
                    reading = [readers.submit(self._load, *want) for want in wanted(following)]
                    ahead.append(builder.submit(built, reading))
                if not ahead:
                    return
                yield ahead.popleft().result()
        finally:
            readers.shutdown(cancel_futures=True)
            builder.shutdown(cancel_futures=True)

    def _at(self, position: int) -> tuple[int, int]:
        """Returns (pass, clip) of a position of the stream."""
        number, place = divmod(position, len(self))
        if number != self._pass:
            rng = np.random.default_rng([self.seed, number])
            self._pass, self._order = number, rng.permutation(len(self))
        return number, int(self._order[place])

    def _load(self, number: int, clip: int) -> tuple[np.ndarray, np.ndarray | None, int]:
        rng = np.random.default_rng([self.seed, number, clip])
        whole = self.shards.read(clip)
        length = self.frames if self.kind == "logmel" else (self.frames - 1) * HOP
        if self.kind == "logmel" and len(whole) != self.bands:
            raise UserError(
                f"{self.shards.folder}: log-mel of {len(whole)} bands, not {self.bands}"
            )
        crop = _crop(whole, length, rng, fill=SILENCE if self.kind == "logmel" else 0.0)
        caption = None if self.captions is None else self.captions.draw(clip, rng)
        return crop, caption, clip

    def _batch(self, loaded: list) -> Batch:
        crops, captions, clips = zip(*loaded, strict=True)
        none = np.zeros(self.caption_dim, np.float32)
        rows = [none if caption is None else caption for caption in captions]
        return Batch(
            torch.from_numpy(np.stack(crops)),
            torch.from_numpy(np.stack(rows)),
            torch.tensor([caption is not None for caption in captions]),
            torch.tensor(clips),
        )


def _crop(whole: np.ndarray, length: int, rng: np.random.Generator, *, fill: float) -> np.ndarray:
    """Returns a random crop (..., length); shorter clips are padded at the end."""
    room = whole.shape[-1] - length
    start = int(rng.integers(room + 1)) if room > 0 else 0
    part = whole[..., start : start + length]
    if room >= 0:
        return part
    margin = [(0, 0)] * (part.ndim - 1) + [(0, -room)]
    return np.pad(part, margin, constant_values=fill)


class Unread(ClipStream):
    """Stands for a set that `--dry_run` has not been given: AudioSet, with captions if wanted.

    2,005,132 clips are those of the authors' copy; 768 is the width of GTE-base.
    """

    def __init__(self, objective: str):
        self.captions = None
        self.caption_dim = 768 if objective == "m2d_clap" else 0

    def __len__(self) -> int:
        return 2_005_132
