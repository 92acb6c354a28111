"""The batches of a training: which clips each step has, how they are mixed, who computes them.

B is the batch of a step, in however many processes and parts it is computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evar.data import audio
from evar.finetuning import augment, sampling, streams
from evar.finetuning.jobs import Job
from evar.finetuning.settings import Settings
from evar.finetuning.streams import Purpose
from evar.finetuning.waveforms import Want, Waveforms
from evar.parallel import World


@dataclass(frozen=True, eq=False)
class Part:
    """The part of a batch that one process computes at once: B' of its B rows."""

    wanted: list[Want]  # (M) clips to load
    mixing: Tensor | None  # (B', M) weights of the clips in each row; None: the clips are the rows
    y: Tensor  # (B', C) targets of the rows
    places: list[int]  # (B') positions of the rows in the batch
    of: int  # B


class Batches:
    """The training clips of a job, epoch by epoch; a function of its seed and fold alone.

    y: targets of the whole manifest, (N,) classes or (N, C) of 0 and 1. `steps` is the number of
    batches per epoch, `classes` is C.
    """

    def __init__(
        self, job: Job, waveforms: Waveforms, y: NDArray, settings: Settings, world: World
    ):
        self.job, self.waveforms, self.y = job, waveforms, y
        self.settings, self.world = settings, world
        self.classes = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
        self.weights = sampling.balanced_weights(y[job.train]) if settings.balanced else None
        self.steps = len(self._rows(0))

    def epoch(self, number: int) -> Iterator[tuple[int, Part]]:
        """Yields this process' parts of an epoch's steps, in order: (step, part)."""
        for step, rows in enumerate(self._rows(number)):
            for part in self._parts(number, step, rows):
                yield step, part

    def _rows(self, epoch: int) -> list[NDArray]:
        """Returns the rows of the manifest in each batch."""
        order = sampling.epoch_order(
            len(self.job.train),
            streams.rng(Purpose.ORDER, self.job.seed, self.job.stream, epoch),
            weights=self.weights,
            draws=self.settings.epoch_clips,
        )
        return sampling.batches(self.job.train[order], self.settings.batch_size)

    def _targets(self, rows: NDArray) -> Tensor:
        """Returns (B, C) floats of 0 and 1."""
        y = torch.from_numpy(self.y[rows])
        return (y if y.ndim == 2 else torch.nn.functional.one_hot(y, self.classes)).float()

    def _parts(self, epoch: int, step: int, rows: NDArray) -> Iterator[Part]:
        """Yields this process' rows of a batch, in as many parts as `accumulate` says."""
        size = len(rows)
        y, mixing = self._targets(rows), torch.eye(size)
        alpha = self.settings.mixup
        if alpha:  # mixing the unit matrix gives the weights of the clips
            drawn = streams.generator(Purpose.MIXUP, self.job.seed, self.job.stream, epoch, step)
            mixing, y = augment.mixup(mixing, y, alpha, generator=drawn)
        parts = max(1, min(self.settings.accumulate, size // 2))
        for part in np.array_split(np.arange(size), parts):
            mine = self.world.shard(part)
            shares = mixing[mine]  # (B', B)
            clips = np.flatnonzero(shares.any(dim=0).numpy()) if alpha else mine
            yield Part(
                wanted=[self.want(epoch, rows[i]) for i in clips],
                mixing=shares[:, clips] if alpha else None,
                y=y[mine],
                places=mine.tolist(),
                of=size,
            )

    def want(self, epoch: int, row: int, *, side: str = "") -> Want:
        """Returns a clip with its random crop in this epoch; each side has its own crops."""
        crop = f"{side}{epoch}:{self.waveforms.names[row]}"
        return int(row), audio.random_start(self.job.seed, crop)
