"""The optimisers, learning rates and weight averages of fine-tuning."""

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from evar.errors import unknown

NAMES = ("sgd", "lars", "adamw")
_FLOOR = 1e-7  # where the cosine ends


def learning_rate(t: float, *, lr: float, warmup: float, epochs: float) -> float:
    """The rate at time t, in epochs (epoch + i / n): up in a straight line, then half a cosine.

    The cosine counts the warm-up as well, so that the rate falls a little below `lr` where the
    line hands over to it.
    """
    if t < warmup:
        return lr * t / warmup
    return _FLOOR + (lr - _FLOOR) / 2 * (1 + math.cos(math.pi * t / epochs))


def parameter_groups(
    layers: Sequence[Iterable[nn.Parameter]],
    head: Iterable[nn.Parameter],
    *,
    lr: float,
    weight_decay: float,
    layer_decay: float = 1.0,
) -> list[dict]:
    """Groups for an optimiser, from an adapter's `layer_parameters()` and the parameters of a head.

    Layer i of n learns at `lr_scale` = layer_decay ** (n - i) times the rate, the head at the rate
    itself; whoever sets a group's "lr" later multiplies by its "lr_scale". Biases and other
    one-dimensional parameters have no weight decay. Parameters that need no gradient are left out.
    """
    groups: dict[tuple[float, bool], dict] = {}
    for i, layer in enumerate([*layers, head]):
        scale = layer_decay ** (len(layers) - i)
        for parameter in layer:
            if not parameter.requires_grad:
                continue
            decays = parameter.ndim > 1
            group = groups.setdefault(
                (scale, decays),
                {
                    "params": [],
                    "lr": lr * scale,
                    "lr_scale": scale,
                    "weight_decay": weight_decay if decays else 0.0,
                },
            )
            group["params"].append(parameter)
    return list(groups.values())


def build(name: str, groups: list[dict], *, lr: float) -> torch.optim.Optimizer:
    """The optimiser of that name for the groups that `parameter_groups` made.

    LARS scales the step of every parameter by 0.001 ||w|| / (||g|| + weight decay ||w||), biases
    and other one-dimensional ones excepted (You et al., "Large batch training of convolutional
    networks", 2017).
    """
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9)
    if name == "lars":
        from timm.optim.lars import Lars

        for group in groups:  # of timm's own accord, weight decay would decide
            group["always_adapt"] = all(p.ndim > 1 for p in group["params"])
        return Lars(groups, lr=lr, momentum=0.9, trust_coeff=0.001, eps=0.0)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), amsgrad=True)
    raise unknown("optimiser", name, NAMES)


class Ema:
    """A moving average of a model's trainable parameters: decay * average + (1 - decay) * now.

    Buffers, such as the statistics of batch normalisation, are not averaged.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay = model, decay
        self.averages = {
            name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are now: after every step of the optimiser."""
        own = dict(self.model.named_parameters())
        for name, average in self.averages.items():
            average.lerp_(own[name], 1 - self.decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the averages for parameters."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        own = dict(self.model.named_parameters())
        for name, average in self.averages.items():
            now = own[name].clone()
            own[name].copy_(average)
            average.copy_(now)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the names of their parameters."""
        return dict(self.averages)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        for name, average in self.averages.items():
            average.copy_(state[name])
