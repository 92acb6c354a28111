"""Many small networks of one shape, stacked: one batched matrix product does the work of all.

Linear layers with ReLU and dropout between them, the gradient written out, Adam. Letters: M
networks, M' of them in a step, B rows of a batch, D inputs, H hidden units, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evar.probing.adam import StackedAdam

Layer = tuple[Tensor, Tensor]  # weight (out, in) and bias (out,)
Batches = Tensor | Sequence[Tensor]  # (M', B, D), or consecutive parts of it


@dataclass(frozen=True, eq=False)
class InputScale:
    """An affine map of each network's input, x -> (x - shift) * gain; both (M, D).

    It is applied to the first layer's weights, which is far cheaper than to every batch.
    """

    shift: Tensor
    gain: Tensor

    def of(self, networks: slice | Tensor) -> "InputScale":
        """Returns the maps of some networks."""
        return InputScale(self.shift[networks], self.gain[networks])


@dataclass(frozen=True, eq=False)
class Stack:
    """What networks compute. tensors: of each layer weights (M, out, in), biases (M, out, 1)."""

    tensors: Sequence[Tensor]
    scale: InputScale | None = None

    def first(self, count: int) -> "Stack":
        """Returns the first networks, which share their tensors with these."""
        own = slice(count)
        return Stack([t[own] for t in self.tensors], self.scale and self.scale.of(own))

    def logits(self, x: Batches) -> Tensor:
        """Returns the logits (M, B, C) on x (M, B, D), without dropout."""
        return self.forward([x] if isinstance(x, Tensor) else x)[1].transpose(1, 2)

    def forward(
        self, parts: Sequence[Tensor], masks: Sequence[Tensor] = ()
    ) -> tuple[list[Tensor], Tensor]:
        """Returns the input of each layer but the first, then the logits.

        Parts of (M, B, D); (M, H, B), ..., (M, C, B): weight times input, not input times weight,
        since the matrix product is a sixth faster so.
        """
        weight, bias = self.tensors[:2]
        if self.scale is not None:
            weight = weight * self.scale.gain[:, None]
            shifted = (weight * self.scale.shift[:, None]).sum(dim=2, keepdim=True)
            bias = bias - shifted
        inputs, values = [], _product(bias, weight, parts)
        for at in range(2, len(self.tensors), 2):
            hidden = torch.relu(values)
            inputs.append(hidden.mul_(masks[at // 2 - 1]) if masks else hidden)
            values = torch.baddbmm(self.tensors[at + 1], self.tensors[at], inputs[-1])
        return inputs, values

    def gradients(
        self,
        parts: Sequence[Tensor],
        inputs: Sequence[Tensor],
        gradient: Tensor,
        masks: Sequence[Tensor],
    ) -> list[Tensor]:
        """Returns the gradients of weights (M, out, in) and biases (M, out, 1), layer by layer.

        parts: of the first layer's input. inputs: of the others, as `forward` gave them. gradient:
        that of the logits, (M, C, B).
        """
        found: list[Tensor] = []
        for layer in reversed(range(1, len(inputs) + 1)):
            of_weight = torch.bmm(gradient, inputs[layer - 1].transpose(1, 2))
            found[:0] = [of_weight, gradient.sum(dim=2, keepdim=True)]
            # Where a unit was dropped or negative its input to the next layer is 0.
            gradient = torch.bmm(self.tensors[2 * layer].transpose(1, 2), gradient)
            gradient *= (inputs[layer - 1] > 0) * masks[layer - 1]
        of_weight, of_bias = _products(gradient, parts), gradient.sum(dim=2, keepdim=True)
        if self.scale is not None:
            of_weight.baddbmm_(of_bias, self.scale.shift[:, None], alpha=-1)
            of_weight *= self.scale.gain[:, None]
        return [of_weight, of_bias, *found]


def loss_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the gradient of each row's loss with respect to its logits, (M, C, B).

    logits (M, C, B), targets (M, B) classes or (M, B, C) of 0 and 1. The loss of a row is a mean
    over classes: of the binary cross entropies, or cross entropy divided by C.
    """
    if targets.ndim == 3:
        gradient = torch.sigmoid(logits).sub_(targets.transpose(1, 2))
    else:
        gradient = torch.softmax(logits, dim=1)
        index = targets[:, None]
        gradient.scatter_add_(1, index, gradient.new_full(index.shape, -1.0))
    return gradient.div_(logits.shape[1])


class StackedNetworks:
    """M networks with their Adam states, each with its own learning rate.

    initial: for each network its layers, from input to output. lr: for each network its constant
    learning rate. scale: what each network's input goes through first; None leaves it as it is.
    paces, whole: what is updated as one (`StackedAdam`).
    """

    def __init__(
        self,
        initial: Sequence[Sequence[Layer]],
        *,
        lr: Sequence[float],
        scale: InputScale | None = None,
        paces: Sequence[int] | None = None,
        whole: bool = True,
        device: str = "cpu",
    ):
        self.device, self._scale = device, scale
        tensors = [t.to(device) for t in stacked(initial)]
        self.adam = StackedAdam(tensors, lr, paces=paces, whole=whole)
        self._counts: dict[tuple[int, ...], Tensor] = {}
        self._stacks: dict[int, Stack] = {}

    def __len__(self) -> int:
        return len(self.adam.lr)

    def first(self, count: int) -> Stack:
        """Returns the first networks as they are and will be, until some are dropped."""
        if count not in self._stacks:
            self._stacks[count] = Stack(self.adam.tensors, self._scale).first(count)
        return self._stacks[count]

    def copy_of(self, m: int) -> list[Tensor]:
        """Returns a copy of one network's tensors: weight (out, in), bias (out, 1), weight, ..."""
        return [t[m].clone() for t in self.adam.tensors]

    def keep(self, at: Sequence[int]) -> None:
        """Drops all networks but those at some positions, which must ascend."""
        rows = torch.tensor(at, dtype=torch.int64, device=self.device)
        self.adam.keep(rows)
        self._scale = self._scale and self._scale.of(rows)
        self._stacks.clear()
        self._counts.clear()

    def step(
        self,
        x: Batches,
        targets: Tensor,
        counts: Sequence[int],
        masks: Sequence[Tensor] = (),
    ) -> None:
        """Makes one Adam step of the first networks, each on its own batch.

        x: (M', B, D), or parts of it, which are then not copied. targets: (M', B) classes or (M',
        B, C) of 0 and 1. counts: how many of its B rows belong to each network's batch; the others
        are padding. masks: for each hidden layer (M', H, B), 0 where dropout drops a unit.
        """
        parts = [x] if isinstance(x, Tensor) else x
        size, count = parts[0].shape[1], self._count(tuple(counts))
        stack = self.first(len(counts))
        inputs, logits = stack.forward(parts, masks)
        gradient = loss_gradient(logits, targets).div_(count)  # (M', C, B)
        if min(counts) < size:
            gradient *= torch.arange(size, device=self.device) < count
        self.adam.step(stack.gradients(parts, inputs, gradient, masks))

    def _count(self, counts: tuple[int, ...]) -> Tensor:
        """Returns counts as (M', 1, 1), kept on the device: sending them would wait for a GPU."""
        if counts not in self._counts:
            self._counts[counts] = torch.tensor(counts, device=self.device)[:, None, None]
        return self._counts[counts]


def stacked(networks: Sequence[Sequence[Layer]]) -> list[Tensor]:
    """Returns of each layer weights (M, out, in), then biases (M, out, 1)."""
    return [
        tensor
        for layer in zip(*networks, strict=True)
        for tensor in (
            torch.stack([weight for weight, _ in layer]),
            torch.stack([bias for _, bias in layer])[..., None],
        )
    ]


def _product(bias: Tensor, weight: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """Returns weight x^T + bias, (M', out, B), for parts of x (M', B, in)."""
    if len(parts) == 1:
        return torch.baddbmm(bias, weight, parts[0].transpose(1, 2))
    out, at = weight.new_empty(*weight.shape[:2], parts[0].shape[1]), 0
    for part in parts:
        own = slice(at, at + len(part))
        torch.baddbmm(bias[own], weight[own], part.transpose(1, 2), out=out[own])
        at += len(part)
    return out


def _products(gradient: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """Returns gradient x, (M', out, in), of gradients (M', out, B) and parts of x (M', B, in)."""
    if len(parts) == 1:
        return torch.bmm(gradient, parts[0])
    out, at = gradient.new_empty(*gradient.shape[:2], parts[0].shape[2]), 0
    for part in parts:
        own = slice(at, at + len(part))
        torch.bmm(gradient[own], part, out=out[own])
        at += len(part)
    return out
