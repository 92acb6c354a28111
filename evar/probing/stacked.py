"""Many small networks of one shape, stacked: one batched matrix product does the work of all.

Linear layers with ReLU and dropout between them, the gradient written out, Adam. Letters: M
networks, M' of them in a step, B rows of a batch, D inputs, H hidden units, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adam import adam

_COUNTS = 64  # sizes of batches that are kept on the device; few are different
WEIGHT_DECAY = 1e-8  # L2 inside Adam
Layer = tuple[Tensor, Tensor]  # weight (out, in) and bias (out,)
Batches = Tensor | Sequence[Tensor]  # (M', B, D), or consecutive parts of it


@dataclass(frozen=True, eq=False)
class InputScale:
    """An affine map of each network's input, x -> (x - shift) * gain; both (M, D).

    It is applied to the first layer's weights, which is far cheaper than to every batch.
    """

    shift: Tensor
    gain: Tensor


class StackedNetworks:
    """M networks with their Adam states, each with its own learning rate.

    initial: for each network its layers, from input to output. lr: for each network its constant
    learning rate. scale: what each network's input goes through first; None leaves it as it is.
    """

    def __init__(
        self,
        initial: Sequence[Sequence[Layer]],
        *,
        lr: Sequence[float],
        scale: InputScale | None = None,
        device: str = "cpu",
    ):
        self.count, self.device = len(initial), device
        self.lr, self.scale = list(lr), scale
        weights_and_biases = [
            (
                torch.stack([layers[i][0] for layers in initial]).to(device),
                torch.stack([layers[i][1] for layers in initial])[..., None].to(device),
            )
            for i in range(len(initial[0]))
        ]
        # Of each layer: weights (M, out, in), then biases (M, out, 1).
        self.stacked = [t for layer in weights_and_biases for t in layer]
        self.classes = self.stacked[-1].shape[1]
        self._states = [_State(t, torch.zeros_like(t), torch.zeros_like(t)) for t in self.stacked]
        # Each network's slices are parameters of their own: one that has no batch in a step stands
        # still, and one whose training has ended is left out.
        self._slices = [[t[m] for t in self.stacked] for m in range(self.count)]
        self._steps = [0] * self.count
        self._counts: dict[tuple[int, ...], Tensor] = {}

    def copy_of(self, m: int) -> list[Tensor]:
        """Returns a copy of one network's tensors, for `restore`: weight, bias, weight, ..."""
        return [t.clone() for t in self._slices[m]]

    def restore(self, m: int, tensors: Sequence[Tensor]) -> None:
        """Sets one network's tensors to those that `copy_of` returned."""
        for current, kept in zip(self._slices[m], tensors, strict=True):
            current.copy_(kept)

    def step(
        self,
        networks: Sequence[int],
        x: Batches,
        targets: Tensor,
        counts: Sequence[int],
        masks: Sequence[Tensor] = (),
    ) -> None:
        """Makes one Adam step of some networks, each on its own batch.

        x: (M', B, D), or parts of it, which are then not copied. targets: (M', B) classes or (M',
        B, C) of 0 and 1. counts: how many of its B rows belong to each network's batch; the others
        are padding. masks: for each hidden layer (M', H, B), 0 where dropout drops a unit.
        """
        parts = [x] if isinstance(x, Tensor) else x
        size = parts[0].shape[1]
        stacked = [t if self._are_all(networks) else t[networks] for t in self.stacked]
        weights, biases = stacked[::2], stacked[1::2]
        count = self._count(tuple(counts))
        inputs, logits = self.forward(weights, biases, parts, networks, masks)
        gradient = self.loss_gradient(logits, targets) / count  # (M', C, B)
        if min(counts) < size:
            gradient *= torch.arange(size, device=self.device) < count
        self._adam(networks, self.backward(weights, parts, inputs, gradient, networks, masks))

    def _count(self, counts: tuple[int, ...]) -> Tensor:
        """Returns counts as (M', 1, 1), kept on the device: sending them would wait for a GPU."""
        if counts not in self._counts:
            if len(self._counts) > _COUNTS:
                self._counts.clear()
            self._counts[counts] = torch.tensor(counts, device=self.device)[:, None, None]
        return self._counts[counts]

    def logits(self, networks: Sequence[int], x: Batches) -> Tensor:
        """Returns the logits (M', B, C) of some networks on x (M', B, D), without dropout."""
        own = [t if self._are_all(networks) else t[networks] for t in self.stacked]
        parts = [x] if isinstance(x, Tensor) else x
        return self.forward(own[::2], own[1::2], parts, networks)[1].transpose(1, 2)

    def forward(self, weights, biases, parts, networks, masks=()) -> tuple[list[Tensor], Tensor]:
        """Returns the input of each layer but the first, then the logits.

        Parts of (M', B, D); (M', H, B), ..., (M', C, B): weight times input, not input times
        weight, since the matrix product is a sixth faster so.
        """
        weight, bias = weights[0], biases[0]
        if self.scale is not None:
            weight = weight * self.scale.gain[networks][:, None]
            shift = self.scale.shift[networks][:, None]
            bias = bias - (weight * shift).sum(dim=2, keepdim=True)
        inputs, values = [], _product(bias, weight, parts)
        for at in range(1, len(weights)):
            hidden = torch.relu(values)
            inputs.append(hidden * masks[at - 1] if masks else hidden)
            values = torch.baddbmm(biases[at], weights[at], inputs[-1])
        return inputs, values

    def loss_gradient(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Returns the gradient of each row's loss with respect to its logits, (M', C, B).

        logits (M', C, B), targets (M', B) or (M', B, C). The loss of a row is a mean over classes:
        of the binary cross entropies, or cross entropy divided by C.
        """
        if targets.ndim == 3:
            return (torch.sigmoid(logits) - targets.transpose(1, 2)) / self.classes
        gradient = torch.softmax(logits, dim=1)
        gradient.scatter_add_(1, targets[:, None], -torch.ones_like(gradient[:, :1]))
        return gradient / self.classes

    def backward(self, weights, parts, inputs, gradient, networks, masks) -> list[Tensor]:
        """Returns the gradients of weights (M', out, in) and biases (M', out, 1), layer by layer.

        parts: of the first layer's input. inputs: of the others, as `forward` gave them. gradient:
        that of the logits, (M', C, B).
        """
        found: list[Tensor] = []
        for at in reversed(range(len(weights))):
            if at:
                of_weight = torch.bmm(gradient, inputs[at - 1].transpose(1, 2))
            else:
                of_weight = _products(gradient, parts)
            of_bias = gradient.sum(dim=2, keepdim=True)
            if at == 0 and self.scale is not None:
                shift, gain = (
                    self.scale.shift[networks][:, None],
                    self.scale.gain[networks][:, None],
                )
                of_weight = torch.baddbmm(of_weight, of_bias, shift, alpha=-1)
                of_weight *= gain
            found[:0] = [of_weight, of_bias]
            if at > 0:
                # Where a unit was dropped or negative its input to the next layer is 0.
                gradient = torch.bmm(weights[at].transpose(1, 2), gradient)
                gradient *= (inputs[at - 1] > 0) * masks[at - 1]
        return found

    def _are_all(self, networks: Sequence[int]) -> bool:
        return list(networks) == list(range(self.count))

    def _adam(self, networks: Sequence[int], gradients: list[Tensor]) -> None:
        """Updates the networks' tensors: one fused call for each learning rate."""
        taken, rates = [self._steps[m] for m in networks], {self.lr[m] for m in networks}
        if len(rates) == 1 and len(set(taken)) == 1 and self._are_all(networks):
            whole = zip(self._states, gradients, strict=True)
            _fused_adam([(*pair, taken[0]) for pair in whole], rates.pop(), self.device)
        for rate in sorted(rates):  # none is left where all went together
            parts = [
                (state.of(m), gradient[i], taken[i])
                for state, gradient in zip(self._states, gradients, strict=True)
                for i, m in enumerate(networks)
                if self.lr[m] == rate
            ]
            _fused_adam(parts, rate, self.device)
        for m in networks:
            self._steps[m] += 1


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


@dataclass(frozen=True, eq=False)
class _State:
    """A tensor of all networks, with Adam's moments."""

    value: Tensor
    first: Tensor
    second: Tensor

    def of(self, m: int) -> "_State":
        return _State(self.value[m], self.first[m], self.second[m])


def _fused_adam(parts: list[tuple[_State, Tensor, int]], lr: float, device: str) -> None:
    """Updates states by their gradients after so many steps each.

    The function behind torch.optim.Adam; the class would import a compiler for a second.
    """
    adam(
        [state.value for state, _, _ in parts],
        [gradient for _, gradient, _ in parts],
        [state.first for state, _, _ in parts],
        [state.second for state, _, _ in parts],
        [],
        _steps_taken([steps for _, _, steps in parts], device),
        fused=True,
        amsgrad=False,
        beta1=0.9,
        beta2=0.999,
        lr=lr,
        weight_decay=WEIGHT_DECAY,
        eps=1e-8,
        maximize=False,
    )


def _steps_taken(steps: list[int], device: str) -> list[Tensor]:
    """Returns numbers of steps as 0-d tensors; equal ones without a copy from the host."""
    if len(set(steps)) == 1:
        together = torch.full((len(steps),), float(steps[0]), device=device)
    else:
        together = torch.tensor(steps, dtype=torch.float32, device=device)
    return list(together.unbind())
