"""Adam for tensors that stack many networks, of which some stand still or have ended.

It calls the function behind torch.optim.Adam; the class would import a compiler for a second.
Letters: M networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor
from torch.optim.adam import adam

WEIGHT_DECAY = 1e-8  # L2 inside Adam
# PyTorch's fused kernel for CPUs divides a tensor by cache lines of 16 float32 numbers. Whole ones
# go through vector instructions; the numbers that are left go through others, and their second
# moment can differ in its last bit.
_CACHE_LINE = 16


@dataclass(eq=False)
class _Call:
    """What one call of the fused kernel updates: parts of tensors at one learning rate."""

    parts: list[tuple[int, slice]] = field(default_factory=list)  # which tensor, which networks
    values: list[Tensor] = field(default_factory=list)
    first: list[Tensor] = field(default_factory=list)
    second: list[Tensor] = field(default_factory=list)
    steps: list[Tensor] = field(default_factory=list)

    def update(self, gradients: Sequence[Tensor], lr: float) -> None:
        adam(
            self.values,
            [gradients[which][networks] for which, networks in self.parts],
            self.first,
            self.second,
            [],
            self.steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=lr,
            weight_decay=WEIGHT_DECAY,
            eps=1e-8,
            maximize=False,
        )


class StackedAdam:
    """Updates tensors (M, ...) in place; each network has a learning rate and steps of its own.

    A step is made by the first networks, as many as have a batch. paces: of each network a number;
    consecutive ones with the same make all their steps together, and are updated as one tensor if
    their rate is the same. By default all do.

    On a CPU that decides the last bits of tensors whose networks do not fill cache lines
    (`_CACHE_LINE`): once a network has missed a step or ended, those of the others are updated one
    by one; `whole=False` does so from the beginning.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        lr: Sequence[float],
        *,
        paces: Sequence[int] | None = None,
        whole: bool = True,
    ):
        self.tensors, self.lr = list(tensors), list(lr)
        self._paces = [0] * len(lr) if paces is None else list(paces)
        self._whole = whole and len(set(self.lr)) == 1
        self._first = [torch.zeros_like(t) for t in self.tensors]
        self._second = [torch.zeros_like(t) for t in self.tensors]
        # Steps made, by tensor and network. Of networks that are updated as one the first counts.
        self._steps = torch.zeros(len(tensors), len(lr), device=self.tensors[0].device)
        self._calls: dict[int, dict[float, _Call]] = {}  # by how many networks make the step

    @property
    def state(self) -> list[Tensor]:
        """Returns all that a step changes."""
        return [*self.tensors, *self._first, *self._second, self._steps]

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Updates the first networks by their gradients, each (M', ...)."""
        count = len(gradients[0])
        if count not in self._calls:
            self._prepare(count)
        for lr, call in self._calls[count].items():
            call.update(gradients, lr)

    def keep(self, at: Tensor) -> None:
        """Drops all networks but those at some positions, which must ascend."""
        self._end_whole()
        for tensors in (self.tensors, self._first, self._second):
            tensors[:] = [t.index_select(0, at) for t in tensors]
        self._steps = self._steps.index_select(1, at)
        kept = at.tolist()
        self.lr, self._paces = [self.lr[m] for m in kept], [self._paces[m] for m in kept]

    def _prepare(self, count: int) -> None:
        """Makes the calls for steps of `count` networks."""
        if count < len(self.lr):
            if self._paces[count - 1] == self._paces[count]:
                raise ValueError(f"networks {count - 1} and {count} have one pace: both must step")
            if self._whole:
                self._end_whole()
        calls: dict[float, _Call] = {}
        for which, tensor in enumerate(self.tensors):
            for begin, end in self._parts(tensor[0].numel(), count):
                call, networks = calls.setdefault(self.lr[begin], _Call()), slice(begin, end)
                call.parts.append((which, networks))
                call.values.append(tensor[networks])
                call.first.append(self._first[which][networks])
                call.second.append(self._second[which][networks])
                call.steps.append(self._steps[which, begin])
        self._calls[count] = calls

    def _parts(self, size: int, count: int) -> list[tuple[int, int]]:
        """Returns which of the first networks, of `size` numbers each, are updated as one."""
        if self._steps.device.type == "cpu" and size % _CACHE_LINE:
            ends = {0, count} if self._whole else set(range(count + 1))
        else:
            kinds = list(zip(self.lr, self._paces, strict=True))
            ends = {0, count} | {m for m in range(1, count) if kinds[m] != kinds[m - 1]}
        return list(pairwise(sorted(ends)))

    def _end_whole(self) -> None:
        """Writes to each network how many steps it made; the calls are made anew."""
        for calls in self._calls.values():
            for call in calls.values():
                for (which, networks), steps in zip(call.parts, call.steps, strict=True):
                    self._steps[which, networks] = steps.clone()
        self._calls.clear()
        self._whole = False
