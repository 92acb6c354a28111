"""The linear probe: many small classifiers on frozen embeddings, trained as one computation.

The protocol is that of docs/protocols.md, "Linear probe". All folds, seeds and learning rates train
together (`evar.probing.stacked`); each probe keeps its own order of samples, optimiser state and
early stopping. Letters: M probes, N rows, D embedding, C classes, B batch.
"""

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evar.probing import holdout
from evar.probing.stacked import InputScale, Layer, StackedNetworks
from evar.scoring.metrics import METRICS, Metric

DROPOUT = 0.5  # after each hidden layer
_DIVERGED = "the probe diverged: its scores are not numbers. Give a smaller --lr"
_CORES = os.cpu_count() or 1
_CHUNK = 4096  # rows per product outside of training
_COLUMNS = 1024  # of the embeddings that a thread sums at a time, at most
_NUMBERS = 2**18  # that a thread standardises at a time: 2 MB of float64 stay in its cache
_TOGETHER = 2**24  # numbers in one product over several probes' held-out rows
Scaler = tuple[NDArray, NDArray]  # mean and scale, (D,) float64


@dataclass(frozen=True)
class ProbeSettings:
    """Hyper-parameters of a probe.

    lr: Adam's learning rate, constant. hidden: widths of hidden layers (ReLU, dropout 0.5); none
    is the linear probe. epochs: maximum number of epochs. patience: epochs after the last best (or
    equally good) one until training stops. batch_size: rows per step, at most all training rows.
    """

    lr: float = 3e-4
    hidden: tuple[int, ...] = ()
    epochs: int = 200
    patience: int = 20
    batch_size: int = 200


@dataclass(frozen=True, eq=False)
class Job:
    """One probe to train: its rows of the embeddings and its random seed.

    `valid=None` holds out a random tenth of `train`. `stream` (the fold) gives jobs with the same
    seed random numbers of their own. `lr` overrides that of the settings. `features` is the number
    of the job's embedding matrix, where there are several (the layers of an encoder, say).
    """

    train: NDArray
    valid: NDArray | None
    test: NDArray
    seed: int
    stream: int = 0
    lr: float | None = None
    features: int = 0


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained probe: logits of its test rows (n_test, C), and how its training went."""

    logits: NDArray
    best_epoch: int  # from 1
    epochs: int
    valid_score: float
    held_out: str  # "valid split", "random tenth", "stratified tenth"
    layers: tuple[tuple[NDArray, NDArray], ...]  # weight (out, in), bias (out,), for scaled input


@dataclass(frozen=True)
class _How:
    """What `fit` was asked for, for all of its jobs."""

    settings: ProbeSettings
    metric: Metric | None
    device: str
    overwrite_x: bool


def fit(
    x: NDArray | Sequence[NDArray],
    y: NDArray,
    jobs: Sequence[Job],
    settings: ProbeSettings = ProbeSettings(),
    *,
    metric: Metric | None = None,
    device: str = "cpu",
    overwrite_x: bool = False,
    on_epoch: Callable[[int, int], object] | None = None,
) -> list[Fitted]:
    """Trains all jobs and computes the logits of their test rows.

    x: float32 (N, D), or a sequence of such matrices, each looked up when its jobs (`Job.features`)
    begin. y: int (N,) classes, or (N, C) of 0 and 1 for multi-label. `metric` selects the epoch, as
    in `score`. `overwrite_x` allows standardising x in place. `on_epoch(epoch, running)` reports
    the epoch of the jobs that are being trained and the number of jobs that have not ended.

    A job's result depends on its own seed, rows, matrix and learning rate. On a CPU, jobs of one
    rate and matrix give the same bits with any other rates and matrices in the call. Raises
    ValueError for input of a wrong shape and for probes that diverge.
    """
    if isinstance(x, np.ndarray):
        _require_shapes(x, y)
        x = [x]
    fitted: dict[int, Fitted] = {}
    for features in sorted({job.features for job in jobs}):
        members = [i for i, job in enumerate(jobs) if job.features == features]
        waiting = len(jobs) - len(fitted) - len(members)

        def report(epoch: int, running: int, waiting=waiting) -> None:
            if on_epoch:
                on_epoch(epoch, running + waiting)

        own = [jobs[i] for i in members]
        how = _How(settings, metric, device, overwrite_x)
        results = _fit_matrix(x[features], y, own, how, report)
        fitted |= zip(members, results, strict=True)
    return [fitted[i] for i in range(len(jobs))]


def scaler(x: NDArray, rows: NDArray) -> Scaler:
    """Returns mean and scale (D,) of some rows, float64, as scikit-learn's StandardScaler does.

    A feature that is constant up to rounding gets the scale 1.
    """
    count = len(rows)
    offset = x[rows[0]].astype(np.float64)  # so that squares of large values do not cancel
    total, squares = np.zeros_like(offset), np.zeros_like(offset)

    def add(columns: slice) -> None:  # columns are independent: threads share them, not rows
        for at in range(0, count, _CHUNK):
            part = x[:, columns][rows[at : at + _CHUNK]].astype(np.float64)
            part -= offset[columns]
            total[columns] += part.sum(axis=0)
            squares[columns] += np.square(part, out=part).sum(axis=0)

    share = -(-x.shape[1] // _CORES)  # threads then walk over the rows together
    _in_threads(add, x.shape[1], min(_COLUMNS, share))
    shift = total / count
    mean = offset + shift
    variance = np.maximum(squares / count - shift**2, 0.0)
    return mean, deviation(mean, variance, count)


def _in_threads(work: Callable[[slice], None], total: int, most: int) -> None:
    """Does `work` on all of range(total), in parts of `most`, on every core."""
    parts = [slice(at, min(at + most, total)) for at in range(0, total, most)]
    with ThreadPoolExecutor(_CORES) as pool:
        deque(pool.map(work, parts), maxlen=0)


def deviation(mean: NDArray, variance: NDArray, count: int) -> NDArray:
    """Returns the scale of features (D,): 1 where one is constant up to rounding."""
    eps = np.finfo(np.float64).eps
    constant = variance <= count * eps * variance + (count * mean * eps) ** 2
    return np.where(constant, 1.0, np.sqrt(variance))


def predicted_scores(logits: NDArray) -> NDArray:
    """Returns the float32 sigmoid of logits, which the protocol ranks by.

    It saturates at logits of about 16.6; equal scores go to the class that comes first.
    """
    return torch.sigmoid(torch.from_numpy(np.asarray(logits, np.float32))).numpy()


def score(logits: NDArray, y: NDArray, metric: Metric | None = None) -> float:
    """Returns the value of a metric, by default accuracy, or macro mAP for targets of 0 and 1."""
    metric = metric or METRICS["accuracy" if y.ndim == 1 else "mAP"]
    return metric.value(y, predicted_scores(logits))


def _require_shapes(x: NDArray, y: NDArray) -> None:
    if x.ndim != 2 or len(x) != len(y) or y.ndim not in (1, 2):
        raise ValueError(f"x must be (N, D), y (N,) or (N, C); they are {x.shape} and {y.shape}")


def _fit_matrix(
    x: NDArray,
    y: NDArray,
    jobs: Sequence[Job],
    how: _How,
    on_epoch: Callable[[int, int], None],
) -> list[Fitted]:
    """Trains the jobs of one matrix.

    All rows are standardised once for a stack, by the scaler of its first job. What another fold's
    scaler differs by is a small affine map, an InputScale of the networks.
    """
    _require_shapes(x, y)
    training = {id(job.train): job.train for job in jobs}
    scalers = {key: scaler(x, rows) for key, rows in training.items()}
    stacks = _stacks(jobs, how.settings, how.device)
    overwrite = how.overwrite_x and len({id(jobs[stack[0]].train) for stack in stacks}) == 1
    fitted: dict[int, Fitted] = {}
    base, standardised = None, torch.empty(0)
    for stack in stacks:
        own = [jobs[i] for i in stack]
        if base is not scalers[id(own[0].train)]:
            base = scalers[id(own[0].train)]
            standardised = _standardised(x, base, overwrite).to(how.device)
        scale = _input_scale(base, [scalers[id(job.train)] for job in own], how.device)
        waiting = len(jobs) - len(fitted) - len(own)

        def report(epoch: int, running: int, waiting: int = waiting) -> None:
            on_epoch(epoch, running + waiting)

        results = _Training(standardised, scale, y, own, how).run(report)
        fitted |= zip(stack, results, strict=True)
    return [fitted[i] for i in range(len(jobs))]


def _stacks(jobs: Sequence[Job], settings: ProbeSettings, device: str) -> list[list[int]]:
    """Returns the positions of the jobs that are trained as one computation.

    On a CPU, jobs of different learning rates are separate stacks: the shape of a stack decides the
    last bits, and a grid of rates must give what a run at each rate gives. On a GPU, where bits
    depend on the device anyway, they share one stack and its kernel launches.
    """
    found: dict[float | None, list[int]] = {}
    for i, job in enumerate(jobs):
        found.setdefault(_rate(job, settings) if device == "cpu" else None, []).append(i)
    return list(found.values())


def _rate(job: Job, settings: ProbeSettings) -> float:
    return settings.lr if job.lr is None else job.lr


def _standardised(x: NDArray, by: Scaler, overwrite: bool) -> Tensor:
    mean, scale = by
    out = x if overwrite else np.empty_like(x)

    def work(part: slice) -> None:
        values = x[part] - mean  # float64 in between
        values /= scale
        out[part] = values

    _in_threads(work, len(x), max(1, _NUMBERS // x.shape[1]))
    return torch.from_numpy(out)


def _input_scale(base: Scaler, own: Sequence[Scaler], device: str) -> InputScale | None:
    """Returns what is left to do to input that was standardised by `base`; None if nothing is."""
    if all(scaler is base for scaler in own):
        return None
    mean, scale = base
    shift = np.stack([(m - mean) / scale for m, _ in own])  # (M, D)
    gain = np.stack([scale / s for _, s in own])
    return InputScale(
        torch.tensor(shift, dtype=torch.float32, device=device),
        torch.tensor(gain, dtype=torch.float32, device=device),
    )


class _Draws:
    """All random draws of one job: held-out rows, initial weights, batches, dropout."""

    def __init__(self, job: Job, y: NDArray):
        rng = np.random.default_rng([job.seed, job.stream])
        train, valid, self.held_out = job.train, job.valid, "valid split"
        if valid is None:
            kept, held, self.held_out = holdout.random_tenth(y[job.train], rng)
            train, valid = job.train[kept], job.train[held]
        self.train = torch.from_numpy(np.asarray(train, np.int64))
        self.valid = np.asarray(valid, np.int64)
        self.generator = torch.Generator().manual_seed(int(rng.integers(2**62)))

    def initial_layers(self, sizes: Sequence[int]) -> list[Layer]:
        """Returns layers D -> ... -> C as torch.nn.Linear initialises them."""
        layers = []
        for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
            bound = fan_in**-0.5  # for weight and bias
            weight = torch.empty(fan_out, fan_in).uniform_(-bound, bound, generator=self.generator)
            bias = torch.empty(fan_out).uniform_(-bound, bound, generator=self.generator)
            layers.append((weight, bias))
        return layers

    def order(self) -> Tensor:
        """Returns the training rows of an epoch, shuffled."""
        return self.train[torch.randperm(len(self.train), generator=self.generator)]

    def dropout(self, rows: int, width: int) -> Tensor:
        """Returns (H, rows): 0 where a unit is dropped, else 1 / (1 - DROPOUT)."""
        kept = torch.rand(rows, width, generator=self.generator) >= DROPOUT
        return kept.T / (1 - DROPOUT)


@dataclass(eq=False)
class _Progress:
    """How far one probe is, and the tensors of its best epoch so far."""

    best: float = -np.inf
    best_epoch: int = 0
    epochs: int = 0
    wait: int = 0
    tensors: list[Tensor] | None = None


class _Training:
    """Trains one stack: draws the batches, scores held-out rows, stops each probe early."""

    def __init__(
        self,
        x: Tensor,  # (N, D) standardised, on the device
        scale: InputScale | None,
        y: NDArray,
        jobs: Sequence[Job],
        how: _How,
    ):
        self.x, self.y, self.jobs = x, y, jobs
        self.settings, self.metric = how.settings, how.metric
        self.device = x.device
        classes = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
        self.targets = torch.from_numpy(y.astype(np.float32) if y.ndim == 2 else y).to(x.device)
        self.draws = [_Draws(job, y) for job in jobs]
        sizes = (x.shape[1], *how.settings.hidden, classes)
        self.networks = StackedNetworks(
            [draws.initial_layers(sizes) for draws in self.draws],
            lr=[_rate(job, how.settings) for job in jobs],
            scale=scale,
            device=str(x.device),
        )
        self.progress = [_Progress() for _ in jobs]

    def run(self, on_epoch: Callable[[int, int], None]) -> list[Fitted]:
        # Longest first: then the probes that have a batch left are always a prefix.
        running = sorted(range(len(self.jobs)), key=lambda m: -len(self.draws[m].train))
        for epoch in range(1, self.settings.epochs + 1):
            self._epoch(running)
            logits = zip(running, self._valid_logits(running), strict=True)
            running = [m for m, of_probe in logits if self._goes_on(m, epoch, of_probe)]
            on_epoch(epoch, len(running))
            if not running:
                break
        return [self._fitted(m) for m in range(len(self.jobs))]

    def _goes_on(self, m: int, epoch: int, logits: NDArray) -> bool:
        """Scores an epoch by its held-out logits (n, C); False where the probe's training ends."""
        if not np.isfinite(logits).all():
            raise ValueError(_DIVERGED)
        own, value = self.progress[m], score(logits, self.y[self.draws[m].valid], self.metric)
        own.epochs = epoch
        if value >= own.best:  # an equal epoch is a better one: it has trained longer
            own.best, own.best_epoch, own.wait = value, epoch, 1
            own.tensors = self.networks.copy_of(m)
            return True
        own.wait += 1
        return own.wait <= self.settings.patience

    def _fitted(self, m: int) -> Fitted:
        own = self.progress[m]
        if own.tensors is None:
            raise ValueError(_DIVERGED)
        self.networks.restore(m, own.tensors)
        logits = self._logits(m, np.asarray(self.jobs[m].test, np.int64))
        pairs = zip(own.tensors[::2], own.tensors[1::2], strict=True)
        layers = tuple((w.cpu().numpy(), b[:, 0].cpu().numpy()) for w, b in pairs)
        held_out = self.draws[m].held_out
        return Fitted(logits, own.best_epoch, own.epochs, own.best, held_out, layers)

    def _epoch(self, running: list[int]) -> None:
        """Trains the running probes on each of their rows once, in a new order."""
        # The size of a batch counts the rows before any were held out.
        sizes = [min(self.settings.batch_size, len(self.jobs[m].train)) for m in running]
        counts = [len(self.draws[m].train) for m in running]
        steps = [-(-n // size) for n, size in zip(counts, sizes, strict=True)]
        index = torch.zeros(len(running), max(steps), max(sizes), dtype=torch.int64)
        for i, m in enumerate(running):
            order = self.draws[m].order()
            for step in range(steps[i]):
                batch = order[step * sizes[i] : (step + 1) * sizes[i]]
                index[i, step, : len(batch)] = batch
        index = index.to(self.device)
        for step in range(max(steps)):
            ready = sum(n > step for n in steps)  # the longest come first
            rows = [min(sizes[i], counts[i] - step * sizes[i]) for i in range(ready)]
            batch = index[:ready, step, : max(rows)]  # (M', B)
            probes = running[:ready]
            masks = self._dropout(probes, rows)
            self.networks.step(probes, self._rows(batch), self.targets[batch], rows, masks)

    def _dropout(self, probes: list[int], counts: list[int]) -> list[Tensor]:
        """Returns for each hidden layer the masks (M', H, B), 0 in rows that are padding."""
        masks = []
        for width in self.settings.hidden:
            mask = torch.zeros(len(probes), width, max(counts))
            for i, m in enumerate(probes):  # no draws for padding, which depends on other probes
                mask[i, :, : counts[i]] = self.draws[m].dropout(counts[i], width)
            masks.append(mask.to(self.device))
        return masks

    def _rows(self, index: Tensor) -> Tensor:
        """(M', B) rows -> (M', B, D)."""
        return self.x.index_select(0, index.reshape(-1)).view(*index.shape, -1)

    def _valid_logits(self, running: list[int]) -> list[NDArray]:
        """Returns logits (n, C) of each probe's held-out rows, by one product where they fit."""
        valid = [self.draws[m].valid for m in running]
        sizes = {len(rows) for rows in valid}
        if len(sizes) > 1 or len(running) * max(sizes) * self.x.shape[1] > _TOGETHER:
            return [self._logits(m, rows) for m, rows in zip(running, valid, strict=True)]
        x = self._rows(torch.from_numpy(np.stack(valid)).to(self.device))
        return list(self.networks.logits(running, x).contiguous().cpu().numpy())

    def _logits(self, m: int, rows: NDArray) -> NDArray:
        parts = []
        for at in range(0, len(rows), _CHUNK):
            index = torch.from_numpy(rows[at : at + _CHUNK]).to(self.device)
            logits = self.networks.logits([m], self._rows(index[None]))[0]
            parts.append(np.ascontiguousarray(logits.cpu().numpy()))
        return np.concatenate(parts)
