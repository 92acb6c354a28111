"""The state of one training: network, optimizer and how far it is; saved after every epoch."""

import contextlib
import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evar.adapter import Adapter
from evar.finetuning import optim, streams
from evar.finetuning.batches import Batches
from evar.finetuning.model import Classifier
from evar.finetuning.settings import Settings
from evar.finetuning.streams import Purpose


@dataclass(eq=False)
class TrainingState:
    """All that an interrupted training continues from.

    statistics: what the adapter was fitted to. epoch: how many have ended. best, best_epoch: the
    best validation score and its epoch, from 1. curve: training loss and validation score of every
    epoch. seconds: wall-clock time of training and validation.
    """

    model: Classifier
    optimizer: torch.optim.Optimizer
    ema: optim.Ema | None
    statistics: dict[str, float]
    epoch: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    curve: list[dict] = field(default_factory=list)
    seconds: float = 0.0

    def ended(self, settings: Settings) -> bool:
        """Returns whether the last epoch, or that of early stopping, has been reached."""
        patience = settings.early_stop or math.inf
        waited = self.epoch - self.best_epoch if self.best_epoch else 0
        return self.epoch >= settings.epochs or waited >= patience

    def averaged(self) -> AbstractContextManager[None]:
        """Returns a context in which the model has its averaged weights, where there are any."""
        return self.ema.applied() if self.ema else contextlib.nullcontext()

    def checkpoint(self) -> dict:
        """Returns plain values and tensors for `load`: only what training changes."""
        changing: dict[str, Tensor] = {
            n: p for n, p in self.model.named_parameters() if p.requires_grad
        }
        changing |= dict(self.model.named_buffers())  # running statistics, of an encoder too
        return {
            "statistics": self.statistics,
            "model": {name: tensor.detach() for name, tensor in changing.items()},
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "epoch": self.epoch,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "curve": self.curve,
            "seconds": self.seconds,
        }

    def load(self, saved: dict) -> None:
        """Restores what `checkpoint` returned."""
        own: dict[str, Tensor] = {**dict(self.model.named_parameters())}
        own |= dict(self.model.named_buffers())
        with torch.no_grad():
            for name, tensor in saved["model"].items():
                if not torch.equal(own[name].cpu(), tensor):
                    own[name].copy_(tensor)
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(saved["ema"])
        self.epoch, self.best, self.best_epoch = (saved[k] for k in ("epoch", "best", "best_epoch"))
        self.curve, self.seconds = saved["curve"], saved["seconds"]


def initial_state(
    encoder: Adapter, statistics: dict[str, float], batches: Batches, device: str
) -> TrainingState:
    """Returns the state before the first step; `encoder` becomes part of it and is trained."""
    job, settings = batches.job, batches.settings
    if statistics:
        encoder.fitted(statistics)
    seconds = batches.waveforms.manifest.task.seconds
    assert seconds is not None  # `targets.folds_of` refuses tasks without a segment length
    model = Classifier(
        encoder,
        batches.classes,
        settings,
        seconds=seconds,
        generator=streams.generator(Purpose.HEAD, job.seed, job.stream),
    ).to(device)
    groups = optim.parameter_groups(
        model.layers,
        model.head.parameters(),
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        layer_decay=settings.layer_decay,
        decay_bias=settings.decay_bias,
    )
    optimizer = optim.build(settings.optimizer, groups, lr=settings.lr)
    ema = optim.Ema(model, settings.ema) if settings.ema else None
    return TrainingState(model, optimizer, ema, statistics)
