"""Training one model on one fold: epochs, validation, checkpoints.

B is the batch of a step, in however many processes and parts it is computed.
"""

import contextlib
import copy
import functools
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evar.adapter import Adapter
from evar.errors import UserError
from evar.finetuning import streams
from evar.finetuning.batches import Batches
from evar.finetuning.jobs import Job
from evar.finetuning.model import Classifier
from evar.finetuning.settings import Settings
from evar.finetuning.state import TrainingState, initial_state
from evar.finetuning.stepping import Stepper
from evar.finetuning.waveforms import Want, Waveforms
from evar.parallel import SINGLE_PROCESS, World
from evar.precision import full_precision
from evar.scoring import summary

_LOOK_EVERY = 10  # steps between checks of the loss on a GPU, each of which waits for it


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
    world: World = SINGLE_PROCESS,
    device: str = "cpu",
    about: dict[str, str] | None = None,
    on_step: Callable[[Report], None] | None = None,
) -> None:
    """Fine-tunes a copy of the adapter and leaves weights, test logits and a record in `job.place`.

    y: targets of the whole manifest, (N,) classes or (N, C) of 0 and 1. An interrupted training is
    resumed and gives what an uninterrupted one would have given (on a CPU, to the bit). `about`
    goes into the header of the weights' file. Raises UserError where the loss is not finite or
    memory runs out; the checkpoint of the last whole epoch stays on disk.
    """
    devices = [torch.device(device)] if device.startswith("cuda") else []
    with streams.forked(devices), full_precision(), _out_of_memory():
        saved = job.place.state()
        encoder = copy.deepcopy(adapter).to(device)
        batches = Batches(job, waveforms, y, settings, world)
        statistics = saved["statistics"] if saved else _fit(encoder, batches)
        state = initial_state(encoder, statistics, batches, device)
        if saved:
            state.load(saved)
        _Loop(state, batches, device, about or {}, on_step).train()


def score_exported(
    job: Job,
    adapter: Adapter,
    waveforms: Waveforms,
    y: NDArray,
    settings: Settings,
    *,
    world: World = SINGLE_PROCESS,
    device: str = "cpu",
) -> tuple[NDArray, dict]:
    """Scores the weights that an earlier run left in `job.place`, without training.

    Returns test logits (N, C), and the record of that run with the score of these. Raises UserError
    where no run has ended.
    """
    if not job.place.ended:
        raise UserError(
            f"{job.place.path}: no run that has ended. Train first, without --eval_only: an "
            "interrupted run is resumed"
        )
    with torch.random.fork_rng(devices=[]), full_precision(), _out_of_memory():
        tensors, header = job.place.weights()
        encoder = copy.deepcopy(adapter).to(device)
        batches = Batches(job, waveforms, y, settings, world)
        state = initial_state(encoder, json.loads(header["fit"]), batches, device)
        state.model.load_exported(tensors)
        found = logits_of(state.model, job.fold.test, batches, device)
    metric = waveforms.manifest.task.metric
    value = float(summary.fold_score(metric, y[job.fold.test], found))
    return found, job.place.outcome()[1] | {"score": value}


def logits_of(
    model: Classifier,
    rows: NDArray,
    batches: Batches,
    device: str,
    *,
    crops: Callable[[int], Want] | None = None,
) -> NDArray:
    """Returns logits (N, C) of clips, of which each process computes a part.

    A clip longer than the task's unit gives its first unit, or the one that `crops` returns for its
    row. Raises UserError where a logit is not finite.
    """
    mine, size = batches.world.shard(rows), batches.settings.batch_size
    parts = [mine[at : at + size] for at in range(0, len(mine), size)]
    wanted = [[crops(row) if crops else (int(row), 0) for row in part] for part in parts]
    model.eval()
    found = [np.empty((0, batches.classes), np.float32)]
    with torch.no_grad():
        for part, clips in zip(wanted, batches.waveforms.stream(wanted), strict=True):
            lengths = None
            if batches.settings.domain == "spectrogram":
                lengths = batches.waveforms.lengths([row for row, _ in part])
            found.append(model(clips.to(device), lengths).cpu().numpy())
    gathered = batches.world.all_gather_rows(np.concatenate(found))
    if not np.isfinite(gathered).all():
        raise UserError(
            f"logits that are not finite (seed {batches.job.seed}, fold {batches.job.fold.name}): "
            "give a smaller --lr or --clip_grad=1"
        )
    return gathered


@contextlib.contextmanager
def _out_of_memory() -> Iterator[None]:
    """Re-raises that a GPU is out of memory as a UserError with the remedies."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            "out of GPU memory: --accumulate=2 (or more) computes each batch in so many parts, "
            "--precision=bf16 halves most of what is kept"
        ) from error


def _fit(encoder: Adapter, batches: Batches) -> dict[str, float]:
    """Fits an adapter that learns statistics to training clips of this fold, without labels."""
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


class _Loop:
    """The epochs of one training."""

    def __init__(
        self,
        state: TrainingState,
        batches: Batches,
        device: str,
        about: dict[str, str],
        on_step: Callable[[Report], None] | None,
    ):
        self.state, self.batches, self.device = state, batches, device
        self.about, self.on_step = about, on_step
        self.job, self.settings, self.world = batches.job, batches.settings, batches.world
        self.steps = batches.steps
        self.metric = batches.waveforms.manifest.task.metric
        self.stepper = Stepper(state, batches, device)

    def train(self) -> None:
        state, place = self.state, self.job.place
        while not state.ended(self.settings):
            started = perf_counter()
            self._train_epoch()
            self._validate()
            state.seconds += perf_counter() - started
            if self.world.first:
                place.save_state(state.checkpoint())
        self.world.barrier()  # until the best weights are on disk
        state.model.load_exported(place.weights(state.best_epoch)[0])
        test = logits_of(state.model, self.job.fold.test, self.batches, self.device)
        if self.world.first:
            place.finish(state.best_epoch, test, self._record(test))
        self.world.barrier()

    def _train_epoch(self) -> None:
        state = self.state
        plan, ahead = itertools.tee(self.batches.epoch(state.epoch))
        pin = self.device.startswith("cuda")
        stream = self.batches.waveforms.stream((part.wanted for _, part in ahead), pin=pin)
        state.model.train()
        losses: list[Tensor] = []
        with contextlib.closing(stream):
            clips = zip(plan, stream, strict=True)
            for step, parts in itertools.groupby(clips, key=lambda item: item[0][0]):
                pairs = ((part, waveforms) for (_, part), waveforms in parts)
                losses.append(self.stepper.step(state.epoch, step, pairs))
                if not pin or step % _LOOK_EVERY == 0 or step + 1 == self.steps:
                    self._check_losses(losses)
        self.world.broadcast(list(state.model.encoder.buffers()))
        state.epoch += 1
        state.curve.append({"loss": torch.stack(losses).mean().item(), "valid": None})

    def _check_losses(self, losses: list[Tensor]) -> None:
        """Raises UserError where a loss of this epoch is not finite, else reports the last one."""
        epoch = self.state.epoch
        finite = torch.isfinite(torch.stack(losses)).tolist()
        if all(finite) and len(losses) == self.steps:  # no later loss shows what the last step did
            finite.append(self.stepper.weights_are_finite())
        if not all(finite):
            kept = f"epoch {epoch} is kept" if epoch else "no epoch had ended"
            step = min(finite.index(False) + 1, self.steps)
            raise UserError(
                f"the loss is not finite at epoch {epoch + 1}, step {step} of {self.steps} (seed "
                f"{self.job.seed}, fold {self.job.fold.name}; {kept}). Give a smaller --lr, "
                "--clip_grad=1 or --precision=fp32"
            )
        self._report(epoch, len(losses), losses[-1].item())

    def _validate(self) -> None:
        """Scores the epoch that has just ended; keeps its weights if they are the best so far."""
        state, valid = self.state, self.job.valid
        value = None
        if valid is None:
            better = state.epoch == self.settings.epochs
        else:
            with state.averaged():
                found = logits_of(
                    state.model, valid, self.batches, self.device, crops=self._valid_crops()
                )
            value = self._score(valid, found)
            better = value > state.best
            state.curve[-1]["valid"] = value
        if better:
            state.best_epoch = state.epoch
            state.best = state.best if value is None else value
            if self.world.first:
                with state.averaged():
                    tensors = state.model.exported()
                about = self.about | {"fit": json.dumps(state.statistics)}
                self.job.place.save_weights(state.epoch, tensors, about)
        self._report(state.epoch - 1, self.steps, state.curve[-1]["loss"], value)

    def _valid_crops(self) -> Callable[[int], Want] | None:
        """Returns the crops of this epoch's validation; None: first units, as in the test set."""
        if self.settings.valid_crop == "first" or self.job.held_out == "test set":
            return None
        return functools.partial(self.batches.want, self.state.epoch, side="valid ")

    def _score(self, rows: NDArray, found: NDArray) -> float:
        return float(summary.fold_score(self.metric, self.batches.y[rows], found))

    def _report(self, epoch: int, step: int, loss: float, valid: float | None = None) -> None:
        if self.on_step:
            rate = self.stepper.rate(epoch, step - 1)
            epochs, steps = self.settings.epochs, self.steps
            self.on_step(Report(self.job, epoch + 1, epochs, step, steps, loss, rate, valid))

    def _record(self, test: NDArray) -> dict:
        """Returns the fold's part of the run's record."""
        state, fold = self.state, self.job.fold
        return {
            "fold": fold.name,
            "score": self._score(fold.test, test),
            "best_epoch": state.best_epoch,
            "epochs": state.epoch,
            "valid_score": state.best if self.job.valid is not None else None,
            "held_out": self.job.held_out,
            "curve": state.curve,
            "seconds": round(state.seconds, 2),
        }
