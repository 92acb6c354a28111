"""One step of the optimizer: the gradient of a whole batch over all its parts and processes."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from evar.finetuning import optim, streams
from evar.finetuning.batches import Batches, Part
from evar.finetuning.model import summed_loss
from evar.finetuning.state import TrainingState
from evar.finetuning.streams import Purpose


class Stepper:
    """Makes the steps of one training on its state."""

    def __init__(self, state: TrainingState, batches: Batches, device: str):
        self.state, self.batches, self.device = state, batches, device
        self.settings, self.world = batches.settings, batches.world
        self.multi_label = batches.waveforms.manifest.task.multi_label
        self.parameters = [p for p in state.model.parameters() if p.requires_grad]

    def step(self, epoch: int, step: int, parts: Iterable[tuple[Part, Tensor]]) -> Tensor:
        """Makes one step; returns the loss of the whole batch before it, 0-d on the device.

        parts: this process' parts of the batch with their waveforms (M, S).
        """
        model, optimizer = self.state.model, self.state.optimizer
        optimizer.zero_grad(set_to_none=True)
        key = (self.batches.job.seed, self.batches.job.stream, epoch, step)
        total = torch.zeros((), device=self.device)
        for number, (part, x) in enumerate(parts):
            streams.seed_all(Purpose.DROPOUT, *key, number, self.world.rank)
            model.augment.key, model.augment.places = key, part.places
            logits = self._logits(part, x.to(self.device, non_blocking=True))
            y = part.y.to(self.device, non_blocking=True)
            loss = summed_loss(logits, y, multi_label=self.multi_label) / part.of
            loss.backward()
            total += loss.detach()
        self._all_reduce(total)
        if self.settings.clip_grad:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_grad)
        rate = self.rate(epoch, step)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        optimizer.step()
        if self.state.ema is not None:
            self.state.ema.update()
        return total

    def _logits(self, part: Part, x: Tensor) -> Tensor:
        """Mixes a part's clips (M, S) into its rows, as waveforms or spectrograms; (B', C)."""
        mixing = None if part.mixing is None else part.mixing.to(self.device)
        if self.settings.domain == "waveform":
            return self.state.model(x if mixing is None else mixing @ x)
        self.state.model.augment.mixing = mixing
        return self.state.model(x, self.batches.waveforms.lengths([row for row, _ in part.wanted]))

    def rate(self, epoch: int, step: int) -> float:
        """Returns the learning rate of a step: the schedule's value one step earlier.

        The original sets it after each step, so that the first two steps are made at the rate of
        time 0, which with a warm-up is 0.
        """
        s, steps = self.settings, self.batches.steps
        before = max(0, epoch * steps + step - 1)
        return optim.learning_rate(before / steps, lr=s.lr, warmup=s.warmup, epochs=s.epochs)

    def weights_are_finite(self) -> bool:
        """Returns whether every trained parameter is finite."""
        return all(bool(torch.isfinite(p).all()) for p in self.parameters)

    def _all_reduce(self, loss: Tensor) -> None:
        """Sums gradients and loss over the processes."""
        if self.world.size == 1:
            return
        gradients = []
        for parameter in self.parameters:
            if parameter.grad is None:  # of a process without a row in this batch
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        self.world.all_reduce([*gradients, loss])
