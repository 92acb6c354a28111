"""Training one model on one fold: epochs, steps, validation, checkpoints.

B is the batch of a step, whatever number of processes and parts it is taken in.
"""

import contextlib
import copy
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evar.adapter import Adapter
from evar.errors import UserError
from evar.finetuning import optim, streams
from evar.finetuning.batches import Batches, Job, Part
from evar.finetuning.model import Classifier, scores_of, summed_loss
from evar.finetuning.settings import Settings
from evar.finetuning.streams import For
from evar.finetuning.waveforms import Waveforms
from evar.parallel import ALONE, World
from evar.precision import full_precision
from evar.scoring import summary

_LOOK_EVERY = 10  # steps between looks at the loss on a GPU, which wait for it


@dataclass(frozen=True)
class Report:
    """How far training is; `valid` is the score of an epoch that has just ended, else None."""

    job: Job
    epoch: int  # from 1
    epochs: int
    step: int  # of this epoch, from 1
    steps: int
    loss: float
    lr: float
    valid: float | None = None


def train(
    job: Job,
    adapter: Adapter,
    waveforms: Waveforms,
    y: NDArray,
    settings: Settings,
    *,
    world: World = ALONE,
    device: str = "cpu",
    about: dict[str, str] | None = None,
    on_step: Callable[[Report], None] | None = None,
) -> None:
    """Fine-tune a copy of the adapter; `job.place` has weights, scores and a record afterwards.

    y: targets of the whole manifest, (N,) classes or (N, C) of 0 and 1. Goes on from what an
    interrupted run left there, and gives what that would have given (on a CPU, to the bit).
    `about` goes into the header of the weights' file. Raises UserError where the loss is not
    finite or memory runs out; the last whole epoch stays on disk.
    """
    devices = [torch.device(device)] if device.startswith("cuda") else []
    with streams.forked(devices), full_precision(), _out_of_memory():
        state = job.place.state()
        encoder = copy.deepcopy(adapter).to(device)
        batches = Batches(job, waveforms, y, settings, world)
        statistics = state["statistics"] if state else _fit(encoder, batches)
        run = _Run(encoder, statistics, batches, device)
        run.about, run.on_step = about or {}, on_step
        if state:
            run.resume(state)
        run.train()


def score_exported(
    job: Job,
    adapter: Adapter,
    waveforms: Waveforms,
    y: NDArray,
    settings: Settings,
    *,
    world: World = ALONE,
    device: str = "cpu",
) -> NDArray:
    """Test scores (N, C) of the weights that lie in `job.place`."""
    with torch.random.fork_rng(devices=[]), full_precision(), _out_of_memory():
        tensors, header = job.place.weights()
        encoder = copy.deepcopy(adapter).to(device)
        statistics = json.loads(header["fit"])
        batches = Batches(job, waveforms, y, settings, world)
        run = _Run(encoder, statistics, batches, device)
        run.model.load_exported(tensors)
        return run.scores(job.fold.test)


@contextlib.contextmanager
def _out_of_memory() -> Iterator[None]:
    """A GPU without memory left as a UserError."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            "out of GPU memory: --accumulate=2 (or more) takes each batch in so many parts, "
            "--precision=bf16 halves most of what is kept"
        ) from error


def _fit(encoder: Adapter, batches: Batches) -> dict[str, float]:
    """Show an adapter that wants it training clips of this fold, without their labels."""
    train = batches.job.train
    count = min(encoder.fit_clips, len(train))
    if not count:
        return {}
    rows = [train[i * len(train) // count] for i in range(count)]
    size = batches.settings.batch_size
    parts = [rows[at : at + size] for at in range(0, count, size)]
    wanted = ([batches.want(0, row) for row in part] for part in parts)
    device = next((p.device for p in encoder.parameters()), "cpu")
    with torch.no_grad():
        return encoder.fit(clips.to(device) for clips in batches.waveforms.stream(wanted))


class _Run:
    def __init__(self, encoder: Adapter, statistics: dict, batches: Batches, device: str):
        self.batches, self.device = batches, device
        self.job, self.settings, self.world = batches.job, batches.settings, batches.world
        self.waveforms, self.y = batches.waveforms, batches.y
        self.task = batches.waveforms.manifest.task
        self.about: dict[str, str] = {}
        self.on_step: Callable[[Report], None] | None = None
        self.key = (self.job.seed, self.job.stream)
        self.statistics = statistics  # what the adapter was fitted to
        if statistics:
            encoder.fitted(statistics)
        self.model = Classifier(
            encoder,
            batches.classes,
            self.settings,
            seconds=self.task.seconds,
            generator=streams.generator(For.HEAD, *self.key),
        ).to(device)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        own = self.settings
        groups = optim.parameter_groups(
            self.model.layers,
            self.model.head.parameters(),
            lr=own.lr,
            weight_decay=own.weight_decay,
            layer_decay=own.layer_decay,
        )
        self.optimizer = optim.build(own.optimizer, groups, lr=own.lr)
        self.ema = optim.Ema(self.model, own.ema) if own.ema else None
        self.steps = self.batches.steps
        self.epoch = 0  # how many have ended
        self.best, self.best_epoch = -math.inf, 0
        self.curve: list[dict] = []
        self.seconds = 0.0

    def train(self) -> None:
        while not self._ended():
            started = perf_counter()
            self._train_epoch()
            self._validate()
            self.seconds += perf_counter() - started
            if self.world.first:
                self.job.place.save_state(self._state())
        self._load_best()
        test = self.scores(self.job.fold.test)
        if self.world.first:
            self.job.place.finish(self.best_epoch, test, self._record(test))
        self.world.wait()

    def _ended(self) -> bool:
        patience = self.settings.early_stop or math.inf
        waited = self.epoch - self.best_epoch if self.best_epoch else 0
        return self.epoch >= self.settings.epochs or waited >= patience

    def resume(self, state: dict) -> None:
        """Take back what `_state` gave."""
        own = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
        with torch.no_grad():
            for name, tensor in state["model"].items():
                if not torch.equal(own[name].cpu(), tensor):
                    own[name].copy_(tensor)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.epoch, self.best, self.best_epoch = (state[k] for k in ("epoch", "best", "best_epoch"))
        self.curve, self.seconds = state["curve"], state["seconds"]

    def _state(self) -> dict:
        changing = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
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

    def _record(self, test: NDArray) -> dict:
        fold = self.job.fold
        return {
            "fold": fold.name,
            "score": float(summary.fold_score(self.task.metric, self.y[fold.test], test)),
            "best_epoch": self.best_epoch,
            "epochs": self.epoch,
            "valid_score": self.best if self.job.valid is not None else None,
            "held_out": self.job.held_out,
            "curve": self.curve,
            "seconds": round(self.seconds, 2),
        }

    def _train_epoch(self) -> None:
        epoch = self.epoch
        plan, ahead = itertools.tee(self.batches.epoch(epoch))
        pin = self.device.startswith("cuda")
        stream = self.waveforms.stream((part.wanted for _, part in ahead), pin=pin)
        self.model.train()
        losses: list[Tensor] = []
        with contextlib.closing(stream):
            clips = zip(plan, stream, strict=True)
            for step, parts in itertools.groupby(clips, key=lambda item: item[0][0]):
                pairs = ((part, waveforms) for (_, part), waveforms in parts)
                losses.append(self._step(epoch, step, pairs))
                if not pin or step % _LOOK_EVERY == 0 or step + 1 == self.steps:
                    self._look(epoch, losses)
        self.world.of_first(list(self.model.encoder.buffers()))
        self.epoch += 1
        self.curve.append({"loss": torch.stack(losses).mean().item(), "valid": None})

    def _step(self, epoch: int, step: int, parts: Iterable[tuple[Part, Tensor]]) -> Tensor:
        """One step of the optimiser; returns the whole batch's loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        key = (*self.key, epoch, step)
        total = torch.zeros((), device=self.device)
        for number, (part, x) in enumerate(parts):
            streams.seed_all(For.DROPOUT, *key, number, self.world.rank)
            self.model.augment.key, self.model.augment.places = key, part.places
            x = x.to(self.device, non_blocking=True)
            if part.mixing is not None:
                x = part.mixing.to(self.device) @ x
            logits = self.model(x)
            y = part.y.to(self.device, non_blocking=True)
            loss = summed_loss(logits, y, multi_label=self.task.multi_label) / part.of
            loss.backward()
            total += loss.detach()
        self._reduce(total)
        if self.settings.clip_grad:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_grad)
        rate = self._rate(epoch, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update()
        return total

    def _reduce(self, loss: Tensor) -> None:
        """Sum gradients and loss over the processes."""
        if self.world.size == 1:
            return
        for parameter in self.parameters:
            if parameter.grad is None:  # of a process without a row in this batch
                parameter.grad = torch.zeros_like(parameter)
        self.world.sum([*(p.grad for p in self.parameters), loss])

    def _rate(self, epoch: int, step: int) -> float:
        """The learning rate of a step: the schedule one step earlier, since it is set after each.

        So the first two steps are made at the rate of time 0, which with a warm-up is 0.
        """
        before = max(0, epoch * self.steps + step - 1)
        s = self.settings
        return optim.learning_rate(before / self.steps, lr=s.lr, warmup=s.warmup, epochs=s.epochs)

    def _look(self, epoch: int, losses: list[Tensor]) -> None:
        """Stop where a loss is not finite; tell of progress."""
        finite = torch.isfinite(torch.stack(losses)).tolist()
        if all(finite) and len(losses) == self.steps:  # what the last step has made of them
            finite.append(all(torch.isfinite(p).all() for p in self.parameters))
        if not all(finite):
            kept = f"epoch {self.epoch} is kept" if self.epoch else "no epoch had ended"
            step = min(finite.index(False) + 1, self.steps)
            raise UserError(
                f"the loss is not finite at epoch {epoch + 1}, step {step} of {self.steps} (seed "
                f"{self.job.seed}, fold {self.job.fold.name}; {kept}). Give a smaller --lr, "
                "--clip_grad=1 or --precision=fp32"
            )
        self._tell(epoch, len(losses), losses[-1].item())

    def _tell(self, epoch: int, step: int, loss: float, valid: float | None = None) -> None:
        if self.on_step:
            rate = self._rate(epoch, step - 1)
            epochs, steps = self.settings.epochs, self.steps
            self.on_step(Report(self.job, epoch + 1, epochs, step, steps, loss, rate, valid))

    def _validate(self) -> None:
        """Score the epoch that has just ended, and keep its weights if they are the best so far."""
        if self.job.valid is None:
            better, value = self.epoch == self.settings.epochs, None
        else:
            with self.ema.applied() if self.ema else contextlib.nullcontext():
                scores = self.scores(self.job.valid)
            value = float(summary.fold_score(self.task.metric, self.y[self.job.valid], scores))
            better = value > self.best
            self.curve[-1]["valid"] = value
        if better:
            self.best, self.best_epoch = value if value is not None else self.best, self.epoch
            if self.world.first:
                with self.ema.applied() if self.ema else contextlib.nullcontext():
                    tensors = self.model.exported()
                about = self.about | {"fit": json.dumps(self.statistics)}
                self.job.place.save_weights(self.epoch, tensors, about)
        self._tell(self.epoch - 1, self.steps, self.curve[-1]["loss"], value)

    def scores(self, rows: NDArray) -> NDArray:
        """Probabilities (N, C) of the first unit of clips."""
        mine = self.world.share(rows)
        size = self.settings.batch_size
        parts = [mine[at : at + size] for at in range(0, len(mine), size)]
        wanted = ([(int(row), 0) for row in part] for part in parts)
        self.model.eval()
        found = [np.empty((0, self.batches.classes), np.float32)]
        with torch.no_grad():
            for clips in self.waveforms.stream(wanted):
                logits = self.model(clips.to(self.device))
                found.append(scores_of(logits, multi_label=self.task.multi_label).cpu().numpy())
        scores = self.world.joined(np.concatenate(found))
        if not np.isfinite(scores).all():
            raise UserError(
                f"scores that are not finite after epoch {self.epoch} (seed {self.job.seed}, fold "
                f"{self.job.fold.name}): give a smaller --lr or --clip_grad=1"
            )
        return scores

    def _load_best(self) -> None:
        """Take the best epoch's weights from the disk."""
        self.world.wait()
        self.model.load_exported(self.job.place.weights(self.best_epoch)[0])
