"""The linear probe: many small classifiers on frozen embeddings, trained as one computation.

The protocol is that of docs/protocols.md, "Linear probe". All folds, seeds and learning rates train
together (`evar.probing.stacked`); each probe keeps its own order of samples, optimiser state and
early stopping. Letters: M probes, N rows, D embedding, C classes, B batch.
"""

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evar.probing import graphs
from evar.probing.stacked import InputScale
from evar.probing.training import CHUNK, Fitted, Scaler, Selection, Training, rate_of
from evar.scoring.metrics import METRICS, Metric

_CORES = os.cpu_count() or 1
_COLUMNS = 128  # of the embeddings that a thread sums at a time, at most
_FEWEST = 16  # columns that a thread sums: NumPy adds the numbers of a single one in another order
_NUMBERS = 2**18  # that a thread standardises at a time: 2 MB of float64 stay in its cache


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
    `recordings` (n_train,) says which training rows are of one recording and held out together.
    """

    train: NDArray
    valid: NDArray | None
    test: NDArray
    seed: int
    stream: int = 0
    lr: float | None = None
    features: int = 0
    recordings: NDArray | None = None


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
    rate and matrix give the same bits with any other rates and matrices in the call. A probe that
    diverges has the goodness -inf (`rates.grouped` raises for a job without any other). Raises
    ValueError for input of a wrong shape.
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
        for at in range(0, count, CHUNK):
            part = x[:, columns][rows[at : at + CHUNK]].astype(np.float64)
            part -= offset[columns]
            total[columns] += part.sum(axis=0)
            squares[columns] += np.square(part, out=part).sum(axis=0)

    wanted = max(_CORES, -(-x.shape[1] // _COLUMNS))  # threads then walk over the rows together
    _in_threads(add, _equal_parts(x.shape[1], min(wanted, x.shape[1] // _FEWEST)))
    shift = total / count
    mean = offset + shift
    variance = np.maximum(squares / count - shift**2, 0.0)
    return mean, deviation(mean, variance, count)


def _in_threads(work: Callable[[slice], None], parts: Iterable[slice]) -> None:
    """Does `work` on every part, on every core."""
    with ThreadPoolExecutor(_CORES) as pool:
        deque(pool.map(work, parts), maxlen=0)


def _equal_parts(total: int, count: int) -> list[slice]:
    """Returns `count` parts (one at least) of range(total), of about one size."""
    ends = [total * i // max(count, 1) for i in range(max(count, 1) + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(ends)]


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
    return (metric or usual_metric(y)).value(y, predicted_scores(logits))


def selection(y: NDArray, metric: Metric | None, patience: int) -> Selection:
    """Returns how the epoch is chosen: by a metric, in the direction that it declares."""
    metric = metric or usual_metric(y)
    return Selection(
        lambda logits, truth: score(logits, truth, metric), metric.higher_is_better, patience
    )


def usual_metric(y: NDArray) -> Metric:
    """Returns accuracy for classes (N,), macro mAP for targets (N, C) of 0 and 1."""
    return METRICS["accuracy" if y.ndim == 1 else "mAP"]


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

    All rows are standardised once for jobs that train together, by the scaler of the first. What
    another fold's scaler differs by is a small affine map, an InputScale of the networks.
    """
    _require_shapes(x, y)
    training = {id(job.train): job.train for job in jobs}
    scalers = {key: scaler(x, rows) for key, rows in training.items()}
    chosen = selection(y, how.metric, how.settings.patience)
    groups = _groups(jobs, how.settings, how.device)
    overwrite = how.overwrite_x and len({id(jobs[group[0][0]].train) for group in groups}) == 1
    fitted: dict[int, Fitted] = {}
    base, prepared = None, torch.empty(0)
    replays = graphs.replays_on(torch.device(how.device))
    for group in groups:
        lanes = [[jobs[i] for i in lane] for lane in group]
        if base is not scalers[id(lanes[0][0].train)]:
            base = scalers[id(lanes[0][0].train)]
            prepared = standardised(x, base, overwrite=overwrite).to(how.device)
        scale = input_scale(base, [scalers[id(job.train)] for job in lanes[0]], how.device)
        waiting = len(jobs) - len(fitted) - sum(map(len, lanes))

        def report(epoch: int, running: int, waiting: int = waiting) -> None:
            on_epoch(epoch, running + waiting)

        together = Training(prepared, scale, y, lanes, how.settings, chosen, replays=replays)
        for lane, results in zip(group, together.run(report), strict=True):
            for i, found in zip(lane, results, strict=True):
                fitted[i] = replace(found, scaler=scalers[id(jobs[i].train)], base=base)
    return [fitted[i] for i in range(len(jobs))]


def _groups(jobs: Sequence[Job], settings: ProbeSettings, device: str) -> list[list[list[int]]]:
    """Returns the positions of the jobs that are trained together, by lanes (`Training`).

    On a CPU, jobs of different learning rates are separate lanes: the shape of a stack decides the
    last bits, and a grid of rates must give what a run at each rate gives. Rates that are tried on
    the same rows with the same seeds share batches. On a GPU, where bits depend on the device
    anyway, all share one lane and its kernel launches.
    """
    if device != "cpu":
        return [[list(range(len(jobs)))]]
    of_rates: dict[float, list[int]] = {}
    for i, job in enumerate(jobs):
        of_rates.setdefault(rate_of(job, settings), []).append(i)
    found: dict[tuple, list[list[int]]] = {}
    for lane in of_rates.values():
        found.setdefault(tuple(_line(jobs[i]) for i in lane), []).append(lane)
    return list(found.values())


def _line(job: Job) -> tuple[int, ...]:
    """What a job is but for its learning rate."""
    return (id(job.train), id(job.valid), id(job.test), job.seed, job.stream)


def standardised(x: NDArray, by: Scaler, *, overwrite: bool = False) -> Tensor:
    """Returns embeddings (N, D) less a mean and divided by a scale, in place where asked for."""
    mean, scale = by
    out = x if overwrite else np.empty_like(x)

    def work(part: slice) -> None:
        values = x[part] - mean  # float64 in between
        values /= scale
        out[part] = values

    size = max(1, _NUMBERS // x.shape[1])
    _in_threads(work, (slice(at, at + size) for at in range(0, len(x), size)))
    return torch.from_numpy(out)


def input_scale(base: Scaler, own: Sequence[Scaler], device: str) -> InputScale | None:
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
