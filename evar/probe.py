"""The linear probe: many small classifiers on one set of embeddings, trained as one computation.

The protocol is that of docs/protocols.md, "Linear probe". All folds and seeds of a run train
together: their weights are stacked, a step is one batched matrix product, and each keeps its own
order of samples, optimiser state and early stopping. The letters: M probes, N rows, D embedding,
C classes, B batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evar import metrics

WEIGHT_DECAY = 1e-8  # L2 inside Adam
DROPOUT = 0.5  # after each hidden layer
HELD_OUT = 0.1  # share of the training rows that stop the training, without a valid split
REDRAWS = 100  # of the held-out rows, until every class is among them
_CHUNK = 4096  # rows that are looked at together outside of training


@dataclass(frozen=True)
class ProbeSettings:
    """Hyper-parameters of one probe.

    lr: Adam's learning rate, constant. hidden: widths of hidden layers (ReLU, dropout 0.5); none
    is the linear probe. epochs: at most so many. patience: stop so many epochs after the last
    best or equal one. batch_size: rows a step, at most the number of training rows.
    """

    lr: float = 3e-4
    hidden: tuple[int, ...] = ()
    epochs: int = 200
    patience: int = 20
    batch_size: int = 200


@dataclass(frozen=True, eq=False)
class Job:
    """One probe to train: its rows of the embeddings, and the seed of all its chance.

    `valid=None` holds out a random tenth of `train`. `stream` (the fold) keeps the chance of jobs
    with one seed apart.
    """

    train: NDArray
    valid: NDArray | None
    test: NDArray
    seed: int
    stream: int = 0


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained probe: logits of its test rows (n_test, C), and how its training went."""

    logits: NDArray
    best_epoch: int  # from 1
    epochs: int
    valid_score: float
    held_out: str  # "valid split", "random tenth", "stratified tenth"
    layers: tuple[tuple[NDArray, NDArray], ...]  # weight (out, in), bias (out,), for scaled input


def fit(
    x: NDArray,
    y: NDArray,
    jobs: Sequence[Job],
    settings: ProbeSettings = ProbeSettings(),
    *,
    device: str = "cpu",
    overwrite_x: bool = False,
    on_epoch: Callable[[int, int], None] | None = None,
) -> list[Fitted]:
    """Train all jobs and score their test rows.

    x: float32 (N, D). y: int (N,) classes, or 0/1 (N, C) for multi-label. `overwrite_x` lets x be
    standardised in place. `on_epoch(epoch, running)` is told of progress. The same seeds give the
    same result, whatever other jobs train beside. Raises ValueError for input of a wrong shape.
    """
    if x.ndim != 2 or len(x) != len(y) or y.ndim not in (1, 2):
        raise ValueError(f"x must be (N, D), y (N,) or (N, C); they are {x.shape} and {y.shape}")
    if not jobs:
        return []
    return _Training(x, y, jobs, settings, device, overwrite_x).run(on_epoch)


def scaler(x: NDArray, rows: NDArray) -> tuple[NDArray, NDArray]:
    """Mean and scale (D,) of some rows, float64, as scikit-learn's StandardScaler learns them.

    A feature that is constant up to rounding gets the scale 1.
    """
    count = len(rows)
    offset = x[rows[0]].astype(np.float64)  # so that squares of large values do not cancel
    total, squares = np.zeros_like(offset), np.zeros_like(offset)
    for at in range(0, count, _CHUNK):
        part = x[rows[at : at + _CHUNK]].astype(np.float64) - offset
        total += part.sum(axis=0)
        squares += np.square(part).sum(axis=0)
    shift = total / count
    mean = offset + shift
    variance = np.maximum(squares / count - shift**2, 0.0)
    eps = np.finfo(np.float64).eps
    constant = variance <= count * eps * variance + (count * mean * eps) ** 2
    return mean, np.where(constant, 1.0, np.sqrt(variance))


def hold_out(y: NDArray, rng: np.random.Generator) -> tuple[NDArray, NDArray, str]:
    """Split rows into training and held-out ones: (kept, held out, how), positions in y.

    A random tenth, redrawn until every class is in it. Small sets on which that never happens get
    a stratified tenth with at least one row of every class that can spare one.
    """
    n = len(y)
    size = max(1, int(np.ceil(HELD_OUT * n)))
    present = _classes_in(y)
    for _ in range(REDRAWS):
        order = rng.permutation(n)
        if _classes_in(y[order[:size]]) == present:
            return order[size:], order[:size], "random tenth"
    order = rng.permutation(n)
    first = y if y.ndim == 1 else y.argmax(axis=1)
    held = []
    for c in np.unique(first):
        rows = order[first[order] == c]
        take = max(1, round(HELD_OUT * len(rows))) if len(rows) > 1 else 0
        held.extend(rows[:take])
    held = np.array(held if held else order[:1])
    return np.setdiff1d(order, held), held, "stratified tenth"


def _classes_in(y: NDArray) -> set[int]:
    """Which classes occur in (N,) classes or (N, C) of 0 and 1."""
    return set(np.flatnonzero(y.any(axis=0)).tolist() if y.ndim == 2 else np.unique(y).tolist())


def predicted_scores(logits: NDArray) -> NDArray:
    """float32 sigmoid of the logits: what the protocol ranks and takes the maximum of.

    It saturates at logits of about 16.6; equal scores go to the class that comes first.
    """
    return torch.sigmoid(torch.from_numpy(np.asarray(logits, np.float32))).numpy()


def score(logits: NDArray, y: NDArray) -> float:
    """Accuracy (y: classes) or macro mAP (y: 0/1 a class) of logits, as the protocol has it."""
    scores = predicted_scores(logits)
    if y.ndim == 1:
        return float((scores.argmax(axis=1) == y).mean())
    return metrics.mean_average_precision(y, scores)


class _Training:
    def __init__(self, x, y, jobs, settings, device, overwrite_x):
        self.jobs, self.settings, self.device = jobs, settings, device
        self.y = y
        self.classes = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
        scalers = {}
        for job in jobs:
            if id(job.train) not in scalers:
                scalers[id(job.train)] = scaler(x, job.train)
        mean, scale = next(iter(scalers.values()))
        # All rows are standardised once, by the first job's scaler. What another fold's scaler
        # differs by is a small affine map; it is applied to the weights (see _forward), which is
        # far cheaper than to the rows of every batch.
        self.x = self._standardised(x, mean, scale, overwrite_x)
        own = [scalers[id(job.train)] for job in jobs]
        to = {"dtype": torch.float32, "device": device}
        self.shift = torch.tensor(np.stack([(m - mean) / scale for m, _ in own]), **to)  # (M, D)
        self.gain = torch.tensor(np.stack([scale / s for _, s in own]), **to)  # (M, D)
        self.one_scaler = len(scalers) == 1
        self.targets = torch.from_numpy(y.astype(np.float32) if y.ndim == 2 else y).to(device)
        self._draw()

    def _standardised(self, x, mean, scale, overwrite) -> Tensor:
        out = x if overwrite else np.empty_like(x)
        for at in range(0, len(x), _CHUNK):
            part = slice(at, at + _CHUNK)
            out[part] = (x[part] - mean) / scale  # float64 in between
        return torch.from_numpy(out).to(self.device)

    def _draw(self) -> None:
        """Everything that depends on chance before the first step: held-out rows, first weights."""
        sizes = (self.x.shape[1], *self.settings.hidden, self.classes)
        self.train, self.valid, self.held_out, self.chance = [], [], [], []
        first: list[list[tuple[Tensor, Tensor]]] = []
        for job in self.jobs:
            rng = np.random.default_rng([job.seed, job.stream])
            train, valid, how = job.train, job.valid, "valid split"
            if valid is None:
                kept, held, how = hold_out(self.y[job.train], rng)
                train, valid = job.train[kept], job.train[held]
            self.train.append(torch.from_numpy(np.asarray(train, np.int64)))
            self.valid.append(np.asarray(valid, np.int64))
            self.held_out.append(how)
            chance = torch.Generator().manual_seed(int(rng.integers(2**62)))
            layers = []
            for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
                bound = fan_in**-0.5  # torch.nn.Linear's default, for weight and bias
                weight = torch.empty(fan_out, fan_in).uniform_(-bound, bound, generator=chance)
                bias = torch.empty(fan_out).uniform_(-bound, bound, generator=chance)
                layers.append((weight, bias))
            first.append(layers)
            self.chance.append(chance)
        self.layers = [  # of each layer: weights (M, out, in) and biases (M, 1, out)
            (
                torch.stack([layers[i][0] for layers in first]).to(self.device),
                torch.stack([layers[i][1] for layers in first])[:, None].to(self.device),
            )
            for i in range(len(sizes) - 1)
        ]
        # One optimiser; each probe's slices are parameters of their own, so that a probe without
        # a gradient this step keeps its state and its step count.
        self.slices = [
            [t[m].requires_grad_() for layer in self.layers for t in layer]
            for m in range(len(self.jobs))
        ]
        self.optimiser = torch.optim.Adam(
            [t for slices in self.slices for t in slices],
            lr=self.settings.lr,
            weight_decay=WEIGHT_DECAY,
            fused=True,
        )

    def run(self, on_epoch) -> list[Fitted]:
        count = len(self.jobs)
        best = [-np.inf] * count
        best_epoch, ended, wait = [0] * count, [0] * count, [0] * count
        stored: list = [None] * count
        # Longest first: then the probes that have a batch left are always a prefix.
        running = sorted(range(count), key=lambda m: -len(self.train[m]))
        for epoch in range(1, self.settings.epochs + 1):
            self._epoch(running)
            still = []
            for m in running:
                ended[m] = epoch
                value = score(self._logits(m, self.valid[m]), self.y[self.valid[m]])
                if value >= best[m]:  # an equal epoch is a better one: it has trained longer
                    best[m], best_epoch[m], wait[m] = value, epoch, 1
                    stored[m] = [t.detach().clone() for t in self.slices[m]]
                elif wait[m] >= self.settings.patience:
                    continue
                else:
                    wait[m] += 1
                still.append(m)
            running = still
            if on_epoch:
                on_epoch(epoch, len(running))
            if not running:
                break
        fitted = []
        for m, job in enumerate(self.jobs):
            if stored[m] is None:
                raise ValueError("the validation score was never a number: training diverged")
            with torch.no_grad():
                for current, kept in zip(self.slices[m], stored[m], strict=True):
                    current.copy_(kept)
            logits = self._logits(m, np.asarray(job.test, np.int64))
            pairs = zip(stored[m][::2], stored[m][1::2], strict=True)
            layers = tuple((w.cpu().numpy(), b[0].cpu().numpy()) for w, b in pairs)
            fitted.append(
                Fitted(logits, best_epoch[m], ended[m], best[m], self.held_out[m], layers)
            )
        return fitted

    def _epoch(self, running: list[int]) -> None:
        orders, sizes = [], []
        for m in running:
            order = torch.randperm(len(self.train[m]), generator=self.chance[m])
            orders.append(self.train[m][order])
            # The size of a batch counts the rows before any were held out.
            sizes.append(min(self.settings.batch_size, len(self.jobs[m].train)))
        steps = [-(-len(o) // b) for o, b in zip(orders, sizes, strict=True)]
        for step in range(max(steps)):
            rows = [
                o[step * b : (step + 1) * b]
                for o, b, n in zip(orders, sizes, steps, strict=True)
                if n > step
            ]
            keep = [m for m, n in zip(running, steps, strict=True) if n > step]
            self._step(keep, rows)

    def _step(self, probes: list[int], rows: list[Tensor]) -> None:
        """One Adam step of some probes (M'), each on its own rows of the embeddings."""
        counts = [len(r) for r in rows]
        longest = max(counts)
        index = torch.zeros(len(probes), longest, dtype=torch.int64)  # (M', B)
        for i, r in enumerate(rows):
            index[i, : len(r)] = r
        index = index.to(self.device)
        x = self.x.index_select(0, index.view(-1)).view(*index.shape, -1)  # (M', B, D)
        everyone = len(probes) == len(self.jobs) and probes == sorted(probes)
        leaves = [
            (t if everyone else t[probes]).detach().requires_grad_()
            for la in self.layers
            for t in la
        ]
        logits = self._forward(leaves, x, probes, counts)  # (M', B, C)
        if self.y.ndim == 2:
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                logits, self.targets[index], reduction="none"
            ).mean(dim=2)
        else:
            # The protocol's loss is the mean over the batch and the classes: cross entropy / C.
            log_p = torch.log_softmax(logits, dim=2)
            picked = log_p.gather(2, self.targets[index][..., None])[..., 0]
            loss = -picked / self.classes
        if min(counts) < longest:  # rows that only fill up count nothing
            real = torch.arange(longest)[None] < torch.tensor(counts)[:, None]
            loss = loss * real.to(self.device)
        mean = loss.sum(dim=1) / torch.tensor(counts, device=self.device)
        # The fused optimiser reads memory in order, whatever the strides of a gradient say.
        gradients = [g.contiguous() for g in torch.autograd.grad(mean.sum(), leaves)]
        for slices in self.slices:
            for t in slices:
                t.grad = None
        for i, m in enumerate(probes):
            for t, gradient in zip(self.slices[m], gradients, strict=True):
                t.grad = gradient[i]
        self.optimiser.step()

    def _forward(self, leaves, x, probes, counts=None) -> Tensor:
        """(M', B, D) -> logits (M', B, C); with `counts`, hidden layers drop out as in training."""
        weight, bias = leaves[0], leaves[1]
        if not self.one_scaler:
            weight = weight * self.gain[probes][:, None]
            bias = bias - (weight @ self.shift[probes][:, :, None]).transpose(1, 2)
        out = torch.baddbmm(bias, x, weight.transpose(1, 2))
        for at in range(2, len(leaves), 2):
            out = torch.relu(out)
            if counts is not None:
                keep = torch.zeros(out.shape)
                for i, m in enumerate(probes):
                    shape = (counts[i], out.shape[2])
                    kept = torch.rand(shape, generator=self.chance[m]) >= DROPOUT
                    keep[i, : counts[i]] = kept / (1 - DROPOUT)
                out = out * keep.to(self.device)
            out = torch.baddbmm(leaves[at + 1], out, leaves[at].transpose(1, 2))
        return out

    @torch.no_grad()
    def _logits(self, m: int, rows: NDArray) -> NDArray:
        leaves = [t.detach()[None] for t in self.slices[m]]
        parts = []
        for at in range(0, len(rows), _CHUNK):
            index = torch.from_numpy(rows[at : at + _CHUNK]).to(self.device)
            x = self.x.index_select(0, index)[None]
            parts.append(self._forward(leaves, x, [m])[0].cpu().numpy())
        return np.concatenate(parts)
