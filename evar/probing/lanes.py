"""A stack of probes in training at one learning rate, of which any may end before the others.

Letters: L lines (probes' rows and random numbers), B rows of a batch, D embedding, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from evar.probing.stacked import StackedNetworks


@dataclass(eq=False)
class Progress:
    """How far one probe is, and the tensors of its best epoch so far."""

    best: float = -np.inf  # the larger the better
    best_epoch: int = 0
    epochs: int = 0
    wait: int = 0
    tensors: list[Tensor] | None = None
    diverged: bool = False

    @property
    def goodness(self) -> float:
        """Returns the best score, the larger the better; -inf where there is none that counts."""
        return -np.inf if self.diverged or self.tensors is None else self.best


@dataclass(eq=False)
class Lane:
    """One stack: the networks of the lines that are still trained, and how far each line is.

    at: of the lines that any lane trains the positions of this one's. logits_by: what computes a
    line's logits once its training has ended.
    """

    networks: StackedNetworks
    progress: list[Progress]
    running: list[int]
    at: list[int] = field(default_factory=list)
    logits_by: dict[int, list[Tensor]] = field(default_factory=dict)

    def step(self, x: Tensor, targets: Tensor, counts: list[int], masks: list[Tensor]) -> None:
        """Makes a step of its lines on their batches among those of all lines, (L, B, ...)."""
        own = [i for i in self.at if i < len(counts)]
        if own:
            width = max(counts[i] for i in own)  # as if other lines were not there
            if len(own) < len(counts):
                targets = targets[own, :width]
                masks = [mask[own, :, :width] for mask in masks]
                counts = [counts[i] for i in own]
            self.networks.step(consecutive(x, own, width), targets, counts, masks)

    def keep(self, goes_on: Sequence[bool]) -> None:
        """Drops the lines whose training has ended."""
        for i, m in enumerate(self.running):
            if not goes_on[i]:
                self.logits_by[m] = self.progress[m].tensors or self.networks.copy_of(i)
        if not all(goes_on):
            at = [i for i, own in enumerate(goes_on) if own]
            self.networks.keep(at)
            self.running = [self.running[i] for i in at]


def consecutive(x: Tensor, at: Sequence[int], width: int) -> list[Tensor]:
    """Returns x[at, :width] (L, B, D) as views, one for each run of consecutive numbers in `at`."""
    starts = [i for i in range(len(at)) if i == 0 or at[i] != at[i - 1] + 1]
    ends = [*starts[1:], len(at)]
    pairs = zip(starts, ends, strict=True)
    return [x[at[begin] : at[end - 1] + 1, :width] for begin, end in pairs]
