"""Trains probes that are torch modules: layer weights, attentive pooling.

The schedule is the linear probe's (`evar.probing.probe`): Adam, weight decay 1e-8, early stopping
on held-out rows, an equal epoch is a better one. All learning rates of a grid go through the same
batches, which are read and standardised once; each module's arithmetic is its own, so that a grid
gives the bits of single runs. The letters: N rows, B batch, C classes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from evar.probing import holdout, probe, rates
from evar.probing.lanes import Progress
from evar.probing.probe import ProbeSettings
from evar.probing.training import Selection
from evar.scoring.metrics import Metric

WEIGHT_DECAY = 1e-8  # L2 inside Adam, as the linear probe's
USUAL = ProbeSettings()


class BatchSource(Protocol):
    """Where batches come from: clips of which any rows can be read."""

    def scaled_by(self, rows: NDArray) -> Callable[[NDArray], tuple[Tensor, ...]]:
        """Returns a reader of rows that standardises by the statistics of `rows`.

        The reader takes (B,) row numbers and returns what a probe's forward() takes.
        """


@dataclass(frozen=True, eq=False)
class Job:
    """One set of probes to train on the same rows with the same seed, one for each rate.

    `valid=None` holds out a random tenth of `train`. `stream` (the fold) gives jobs with the same
    seed random numbers of their own.
    """

    train: NDArray
    valid: NDArray | None
    test: NDArray
    seed: int
    stream: int = 0
    rates: tuple[float, ...] = (3e-4,)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained probe: logits of its test rows (n_test, C), and how its training went.

    valid_score: the metric of the held-out rows at the best epoch. goodness: the same, the larger
    the better; -inf where training diverged: the logits then mean nothing. `module` holds the
    weights of the best epoch.
    """

    rate: float
    logits: NDArray
    best_epoch: int
    epochs: int
    valid_score: float
    goodness: float
    held_out: str
    module: nn.Module


@dataclass(eq=False)
class _Run:
    """One module in training: its optimiser, and how far it is."""

    rate: float
    module: nn.Module
    optimiser: torch.optim.Optimizer
    progress: Progress = field(default_factory=Progress)

    def weights(self) -> list[Tensor]:
        return [value.clone() for value in self.module.state_dict().values()]

    def restore(self) -> None:
        """Sets the module to its weights of the best epoch, if there is one."""
        if self.progress.tensors is not None:
            names = self.module.state_dict()
            self.module.load_state_dict(dict(zip(names, self.progress.tensors, strict=True)))


def fit(
    source: BatchSource,
    y: NDArray,
    job: Job,
    make: Callable[[torch.Generator], nn.Module],
    settings: ProbeSettings = USUAL,
    *,
    metric: Metric | None = None,
    device: str = "cpu",
    on_epoch: Callable[[int, int], object] = lambda epoch, running: None,
) -> list[Fitted]:
    """Trains one probe for each of the job's rates and scores its test rows.

    y: int (N,) classes, or (N, C) of 0 and 1. `make(generator)` builds a probe on the CPU; all
    rates begin with the same weights. `metric` selects the epoch, as in `probe.score`.
    `settings.hidden` and `settings.lr` are not used.
    `on_epoch(epoch, running)` reports the number of probes whose training has not ended. Raises
    ValueError where no rate gives finite scores.
    """
    rng = np.random.default_rng([job.seed, job.stream])
    train, valid, held_out = job.train, job.valid, "valid split"
    if valid is None:
        kept, held, held_out = holdout.random_tenth(y[job.train], rng)
        train, valid = job.train[kept], job.train[held]
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    initial = make(generator)
    runs = [_begin(initial, make, rate, device) for rate in job.rates]
    read = source.scaled_by(job.train)
    selection = probe.selection(y, metric, settings.patience)
    targets = torch.from_numpy(y.astype(np.float32) if y.ndim == 2 else y).to(device)
    size = min(settings.batch_size, len(job.train))
    running = list(runs)
    for epoch in range(1, settings.epochs + 1):
        order = np.asarray(train)[torch.randperm(len(train), generator=generator).numpy()]
        for at in range(0, len(order), size):
            rows = order[at : at + size]
            inputs, wanted = read(rows), targets[torch.from_numpy(rows)]
            for run in running:
                _step(run, inputs, wanted)
        logits = _logits(read, [run.module for run in running], valid, size)
        running = [
            run
            for run, of_run in zip(running, logits, strict=True)
            if selection.goes_on(run.progress, epoch, of_run, y[valid], run.weights)
        ]
        on_epoch(epoch, len(running))
        if not running:
            break
    for run in runs:
        run.restore()
    logits = _logits(read, [run.module for run in runs], job.test, size)
    fitted = [_result(*pair, selection, held_out) for pair in zip(runs, logits, strict=True)]
    rates.require_any(fitted)
    return fitted


def _result(run: _Run, logits: NDArray, selection: Selection, held_out: str) -> Fitted:
    own = run.progress
    return Fitted(
        run.rate,
        logits,
        own.best_epoch,
        own.epochs,
        selection.signed(own.goodness),
        own.goodness,
        held_out,
        run.module,
    )


def _begin(initial: nn.Module, make, rate: float, device: str) -> _Run:
    module = make(torch.Generator())
    module.load_state_dict(initial.state_dict())
    module.to(device)
    weights = module.parameters()
    optimiser = torch.optim.Adam(weights, lr=rate, weight_decay=WEIGHT_DECAY, fused=True)
    return _Run(rate, module, optimiser)


def _step(run: _Run, inputs: tuple[Tensor, ...], targets: Tensor) -> None:
    with torch.enable_grad():
        logits = run.module(*inputs)  # (B, C)
        run.optimiser.zero_grad()
        loss_of(logits, targets).backward()
    run.optimiser.step()


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns the linear probe's loss: a mean over classes, of a batch of (B, C) logits.

    targets: int (B,): cross entropy / C; 0/1 (B, C): binary cross entropy.
    """
    if targets.ndim == 2:
        return binary_cross_entropy_with_logits(logits, targets)
    return cross_entropy(logits, targets) / logits.shape[1]


def _logits(read, modules: Sequence[nn.Module], rows: NDArray, size: int) -> Iterator[NDArray]:
    """Yields the logits (n, C) of each module; every batch is read once for all of them."""
    parts: list[list[NDArray]] = [[] for _ in modules]
    with torch.no_grad():
        for at in range(0, len(rows), size):
            inputs = read(np.asarray(rows[at : at + size]))
            for module, own in zip(modules, parts, strict=True):
                own.append(module(*inputs).cpu().numpy())
    return iter(np.concatenate(own) for own in parts)


def linear(sizes: tuple[int, ...], fan_in: int, generator: torch.Generator) -> nn.Parameter:
    """Returns a parameter drawn as torch.nn.Linear draws its own: uniform, +-1 / sqrt(fan_in)."""
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(sizes).uniform_(-bound, bound, generator=generator))
