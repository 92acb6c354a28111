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

    A step is made by the first networks, as many as have a batch. Those that take their steps
    together at one rate are updated as one tensor. whole: whether all networks are, as long as
    none has missed a step. On a CPU that decides the last bits (`_CACHE_LINE`) of tensors whose
    networks do not fill cache lines: once some have ended, each of the others is updated alone.
    """

    def __init__(self, tensors: Sequence[Tensor], lr: Sequence[float], *, whole: bool = True):
        self.tensors, self.lr = list(tensors), list(lr)
        self._first = [torch.zeros_like(t) for t in self.tensors]
        self._second = [torch.zeros_like(t) for t in self.tensors]
        # Steps made, by tensor and network. Of networks that are updated as one the first counts.
        self._steps = torch.zeros(len(tensors), len(lr), device=self.tensors[0].device)
        self._whole = whole and len(set(self.lr)) == 1
        self._ends = {0, len(lr)}  # where a part of the networks must end
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
        self._spread_steps()
        for tensors in (self.tensors, self._first, self._second):
            tensors[:] = [t.index_select(0, at) for t in tensors]
        self._steps = self._steps.index_select(1, at)
        kept = at.tolist()
        self.lr = [self.lr[m] for m in kept]
        self._ends = {sum(m < end for m in kept) for end in self._ends}
        self._whole = False

    def _prepare(self, count: int) -> None:
        """Makes the calls for steps of `count` networks."""
        if count not in self._ends:
            self._spread_steps()
            self._ends.add(count)
            self._whole = False
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
        on_cpu = self._steps.device.type == "cpu"
        if on_cpu and not self._whole and size % _CACHE_LINE:
            return [(m, m + 1) for m in range(count)]
        rates = {m for m in range(1, count) if self.lr[m] != self.lr[m - 1]}
        return list(pairwise(sorted({end for end in self._ends if end <= count} | rates)))

    def _spread_steps(self) -> None:
        """Writes to each network how many steps it made; other parts can be formed then."""
        for calls in self._calls.values():
            for call in calls.values():
                for (which, networks), steps in zip(call.parts, call.steps, strict=True):
                    self._steps[which, networks] = steps.clone()
        self._calls.clear()
