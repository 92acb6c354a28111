"""The optimizers, learning rates and weight averages of fine-tuning."""

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from evar.errors import unknown
from evar.finetuning.settings import OPTIMIZERS

_FLOOR = 1e-7  # where the cosine ends


def learning_rate(t: float, *, lr: float, warmup: float, epochs: float) -> float:
    """Returns the rate at time t in epochs (epoch + i / n): linear warm-up, then half a cosine.

    The cosine counts the warm-up as well, so that the rate falls a little below `lr` where the
    warm-up ends.
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
    decay_bias: bool = False,
) -> list[dict]:
    """Returns the optimizer's groups for an adapter's `layer_parameters()` and a head.

    Layer i of n learns at `lr_scale` = layer_decay ** (n - i) times the rate, the head at the rate
    itself; a scheduler that sets a group's "lr" multiplies by its "lr_scale". Biases and other
    one-dimensional parameters have no weight decay, unless `decay_bias`. Parameters that need no
    gradient are left out.
    """
    groups: dict[tuple[float, bool], dict] = {}
    for i, layer in enumerate([*layers, head]):
        scale = layer_decay ** (len(layers) - i)
        for parameter in layer:
            if not parameter.requires_grad:
                continue
            decays = parameter.ndim > 1 or decay_bias
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
    """Returns the optimizer of that name for the groups that `parameter_groups` made.

    "lars" scales the step of every parameter by its trust ratio, 0.001 ||w|| / (||g|| + weight
    decay ||w||), biases and other one-dimensional ones excepted (You et al., "Large batch training
    of convolutional networks", 2017). "lars_m2d" is what M2D's AudioSet runs made of it: only
    parameters with weight decay get a trust ratio, so that without weight decay it is SGD with
    momentum. Raises UserError for an unknown name.
    """
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9)
    if name in ("lars", "lars_m2d"):
        from timm.optim.lars import Lars

        for group in groups:  # timm's Lars adapts groups with weight decay, and those marked so
            weights = all(p.ndim > 1 for p in group["params"])
            group["always_adapt"] = name == "lars" and weights
        return Lars(groups, lr=lr, momentum=0.9, trust_coeff=0.001, eps=0.0)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), amsgrad=True)
    raise unknown("optimizer", name, OPTIMIZERS)


class Ema:
    """A moving average of a model's trained parameters: decay * average + (1 - decay) * current.

    Buffers, such as the statistics of batch normalisation, are not averaged.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay = model, decay
        self.averages = {
            name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad
        }

    @torch.no_grad()
    def update(self) -> None:
        """Updates the averages; called after every step of the optimizer."""
        own = dict(self.model.named_parameters())
        # One launch on a GPU for all parameters; on a CPU the same as one after the other.
        current: list[Tensor] = [own[name] for name in self.averages]
        torch._foreach_lerp_(list(self.averages.values()), current, 1 - self.decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Gives the model the averages as parameters inside the context."""
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
        """Returns the averages by the names of their parameters."""
        return dict(self.averages)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores what `state_dict` returned."""
        for name, average in self.averages.items():
            average.copy_(state[name])
