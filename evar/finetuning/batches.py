"""What a run computes, step by step: which clips, how they are mixed, whose share they are.

B is the batch of a step, whatever number of processes and parts it is taken in.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evar.data import audio
from evar.data.targets import Fold
from evar.finetuning import augment, sampling, streams
from evar.finetuning.checkpoint import Place
from evar.finetuning.settings import Settings
from evar.finetuning.streams import For
from evar.finetuning.waveforms import Want, Waveforms
from evar.parallel import World


@dataclass(frozen=True, eq=False)
class Job:
    """One model to train: rows of the manifest on each side, and what its chance hangs on.

    `valid` chooses the epoch; None: the last one counts. `stream` numbers the folds.
    """

    fold: Fold
    train: NDArray
    valid: NDArray | None
    held_out: str
    seed: int
    stream: int
    place: Place


@dataclass(frozen=True, eq=False)
class Part:
    """What one process computes at once of a step: clips, how they are mixed, and their labels."""

    wanted: list[Want]  # (M) clips
    mixing: Tensor | None  # (B', M): each row's shares of the clips; None: the clips themselves
    y: Tensor  # (B', C)
    places: list[int]  # (B') in the step's batch
    of: int  # B


class Batches:
    """The training clips of a job, epoch by epoch: a function of its seed and fold alone.

    y: targets of the whole manifest, (N,) classes or (N, C) of 0 and 1. `steps` is how many
    batches each epoch has, `classes` is C.
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
        """This process' parts of an epoch's steps, in order: (step, part)."""
        for step, rows in enumerate(self._rows(number)):
            for part in self._parts(number, step, rows):
                yield step, part

    def _rows(self, epoch: int) -> list[NDArray]:
        """Rows of the manifest, batch by batch."""
        order = sampling.epoch_order(
            len(self.job.train),
            streams.rng(For.ORDER, self.job.seed, self.job.stream, epoch),
            weights=self.weights,
            draws=self.settings.epoch_clips,
        )
        return sampling.batches(self.job.train[order], self.settings.batch_size)

    def _targets(self, rows: NDArray) -> Tensor:
        """(B, C) float of 0 and 1."""
        y = torch.from_numpy(self.y[rows])
        return (y if y.ndim == 2 else torch.nn.functional.one_hot(y, self.classes)).float()

    def _parts(self, epoch: int, step: int, rows: NDArray) -> Iterator[Part]:
        """This process' shares of a step's batch, in as many parts as the settings say."""
        size = len(rows)
        y, mixing = self._targets(rows), torch.eye(size)
        alpha = self.settings.mixup
        if alpha:  # mixing the unit matrix shows who is mixed with whom
            chosen = streams.generator(For.MIXUP, self.job.seed, self.job.stream, epoch, step)
            mixing, y = augment.mixup(mixing, y, alpha, generator=chosen)
        parts = max(1, min(self.settings.accumulate, size // 2))
        for part in np.array_split(np.arange(size), parts):
            mine = self.world.share(part)
            shares = mixing[mine]  # (B', B)
            clips = np.flatnonzero(shares.any(dim=0).numpy()) if alpha else mine
            yield Part(
                wanted=[self.want(epoch, rows[i]) for i in clips],
                mixing=shares[:, clips] if alpha else None,
                y=y[mine],
                places=mine.tolist(),
                of=size,
            )

    def want(self, epoch: int, row: int) -> Want:
        """A training clip as an epoch crops it."""
        crop = f"{epoch}:{self.waveforms.names[row]}"
        return int(row), audio.random_start(self.job.seed, crop)
