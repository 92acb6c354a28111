"""The random numbers of one probe: held-out rows, initial weights, batches, dropout."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evar.probing import holdout
from evar.probing.stacked import Layer

if TYPE_CHECKING:
    from evar.probing.probe import Job

DROPOUT = 0.5  # after each hidden layer


class Draws:
    """All random draws of one line (a probe's rows and seed), from generators of its own."""

    def __init__(self, job: "Job", y: NDArray, batch_size: int):
        rng = np.random.default_rng([job.seed, job.stream])
        train, valid, self.held_out = job.train, job.valid, "valid split"
        if valid is None:
            kept, held, self.held_out = _random_tenth(job, y, rng)
            train, valid = job.train[kept], job.train[held]
        self.train = torch.from_numpy(np.asarray(train, np.int64))
        self.valid = np.asarray(valid, np.int64)
        self.generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        self._next: Tensor | None = None
        # The size of a batch counts the rows before any were held out.
        self.batch_size = min(batch_size, len(job.train))
        self.rows = len(self.train)
        self.steps = -(-self.rows // self.batch_size)  # of an epoch

    def initial_layers(self, sizes: Sequence[int]) -> list[Layer]:
        """Returns layers D -> ... -> C as torch.nn.Linear initialises them."""
        layers = []
        for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
            bound = fan_in**-0.5  # for weight and bias
            weight = torch.empty(fan_out, fan_in).uniform_(-bound, bound, generator=self.generator)
            bias = torch.empty(fan_out).uniform_(-bound, bound, generator=self.generator)
            layers.append((weight, bias))
        return layers

    def order(self) -> Tensor:
        """Returns the training rows of the next epoch, shuffled."""
        order = self._shuffled() if self._next is None else self._next
        self._next = None
        return order

    def draw_ahead(self) -> None:
        """Shuffles the rows of the next epoch, when all of the last one's dropout is drawn."""
        self._next = self._shuffled()

    def _shuffled(self) -> Tensor:
        return self.train.index_select(0, torch.randperm(self.rows, generator=self.generator))

    def dropout(self, rows: int, width: int) -> Tensor:
        """Returns (H, rows): 0 where a unit is dropped, else 1 / (1 - DROPOUT)."""
        kept = torch.rand(rows, width, generator=self.generator) >= DROPOUT
        return kept.T / (1 - DROPOUT)


def _random_tenth(job: "Job", y: NDArray, rng: np.random.Generator) -> holdout.Sides:
    """Holds out a tenth of the training rows, or of the recordings that they are of."""
    if job.recordings is None:
        return holdout.random_tenth(y[job.train], rng)
    recordings, first = np.unique(job.recordings, return_index=True)
    _, held, how = holdout.random_tenth(y[job.train[first]], rng)
    is_held = np.isin(job.recordings, recordings[held])
    return np.flatnonzero(~is_held), np.flatnonzero(is_held), f"{how} of the recordings"


class Batches:
    """The batches of some lines, those with the most rows first, epoch by epoch.

    counts: for each step of an epoch how many rows the lines have that have a batch left; they come
    first.
    """

    def __init__(self, lines: Sequence[Draws]):
        self.lines = lines
        self.counts = [
            [
                min(line.batch_size, line.rows - step * line.batch_size)
                for line in lines
                if line.steps > step
            ]
            for step in range(lines[0].steps)
        ]

    def epoch(self) -> Tensor:
        """Returns the rows (S, L, B) of all steps of the next epoch, 0 where a batch ends."""
        widest = max(line.batch_size for line in self.lines)
        rows = torch.zeros(len(self.counts), len(self.lines), widest, dtype=torch.int64)
        for i, line in enumerate(self.lines):
            order, size = line.order(), line.batch_size
            full = line.rows // size
            rows[:full, i, :size] = order[: full * size].view(full, size)
            if full < line.steps:
                rows[full, i, : line.rows - full * size] = order[full * size :]
        return rows
