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
from torch.optim.adam import adam

from evar.probing import holdout
from evar.scoring import metrics

WEIGHT_DECAY = 1e-8  # L2 inside Adam
DROPOUT = 0.5  # after each hidden layer
_DIVERGED = "the probe diverged: its scores are not numbers. Give a smaller --lr"
_CHUNK = 4096  # rows that are looked at together outside of training
_TOGETHER = 2**24  # numbers of several probes' held-out rows that are looked at together


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
                kept, held, how = holdout.random_tenth(self.y[job.train], rng)
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
        self.layers = [  # of each layer: weights (M, out, in) and biases (M, out, 1)
            (
                torch.stack([layers[i][0] for layers in first]).to(self.device),
                torch.stack([layers[i][1] for layers in first])[..., None].to(self.device),
            )
            for i in range(len(sizes) - 1)
        ]
        stacked = [t for layer in self.layers for t in layer]
        self.states = [_State(t, torch.zeros_like(t), torch.zeros_like(t)) for t in stacked]
        # Each probe's slices of them are parameters of their own: a probe that has no batch this
        # step stands still, and one that has ended is left out.
        self.slices = [[t[m] for t in stacked] for m in range(len(self.jobs))]
        self.steps = [0] * len(self.jobs)

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
            for m, logits in zip(running, self._valid_logits(running), strict=True):
                ended[m] = epoch
                if not np.isfinite(logits).all():
                    raise ValueError(_DIVERGED)
                value = score(logits, self.y[self.valid[m]])
                if value >= best[m]:  # an equal epoch is a better one: it has trained longer
                    best[m], best_epoch[m], wait[m] = value, epoch, 1
                    stored[m] = [t.clone() for t in self.slices[m]]
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
                raise ValueError(_DIVERGED)
            for current, kept in zip(self.slices[m], stored[m], strict=True):
                current.copy_(kept)
            logits = self._logits(m, np.asarray(job.test, np.int64))
            pairs = zip(stored[m][::2], stored[m][1::2], strict=True)
            layers = tuple((w.cpu().numpy(), b[:, 0].cpu().numpy()) for w, b in pairs)
            fitted.append(
                Fitted(logits, best_epoch[m], ended[m], best[m], self.held_out[m], layers)
            )
        return fitted

    def _epoch(self, running: list[int]) -> None:
        """Every training row of the running probes once, in a new order."""
        # The size of a batch counts the rows before any were held out.
        sizes = [min(self.settings.batch_size, len(self.jobs[m].train)) for m in running]
        counts = [len(self.train[m]) for m in running]
        steps = [-(-n // size) for n, size in zip(counts, sizes, strict=True)]
        index = torch.zeros(len(running), max(steps), max(sizes), dtype=torch.int64)
        for i, m in enumerate(running):
            order = self.train[m][torch.randperm(counts[i], generator=self.chance[m])]
            for step in range(steps[i]):
                batch = order[step * sizes[i] : (step + 1) * sizes[i]]
                index[i, step, : len(batch)] = batch
        index = index.to(self.device)
        for step in range(max(steps)):
            ready = sum(n > step for n in steps)  # the longest come first
            rows = [min(sizes[i], counts[i] - step * sizes[i]) for i in range(ready)]
            self._step(running[:ready], index[:ready, step, : max(rows)], rows)

    def _step(self, probes: list[int], index: Tensor, counts: list[int]) -> None:
        """One Adam step of some probes (M'), each on `counts` rows of the embeddings.

        index: (M', B) rows; those beyond a probe's count only fill up.
        """
        x = self.x.index_select(0, index.reshape(-1)).view(*index.shape, -1)  # (M', B, D)
        everyone = probes == list(range(len(self.jobs)))
        stacked = [t if everyone else t[probes] for layer in self.layers for t in layer]
        weights, biases = stacked[::2], stacked[1::2]
        count = torch.tensor(counts, device=self.device)[:, None, None]
        masks = self._dropout(probes, index.shape[1], counts)
        inputs = self._forward(weights, biases, x, probes, masks)
        slope = self._loss_slope(inputs.pop(), self.targets[index]) / count  # (M', C, B)
        if min(counts) < index.shape[1]:
            slope *= torch.arange(index.shape[1], device=self.device) < count
        gradients = self._backward(weights, inputs, slope, probes, masks)
        self._adam(probes, gradients)

    def _adam(self, probes: list[int], gradients: list[Tensor]) -> None:
        """One fused step of the probes' own parameters.

        The function behind torch.optim.Adam; the class would import a compiler for a second.
        """
        taken = [self.steps[m] for m in probes]
        if len(set(taken)) == 1 and probes == list(range(len(self.jobs))):
            parts = [(state, gradient, taken[0]) for state, gradient in self._pairs(gradients)]
        else:
            parts = [
                (state.of(m), gradient[i], taken[i])
                for state, gradient in self._pairs(gradients)
                for i, m in enumerate(probes)
            ]
        adam(
            [state.value for state, _, _ in parts],
            [gradient for _, gradient, _ in parts],
            [state.first for state, _, _ in parts],
            [state.second for state, _, _ in parts],
            [],
            [torch.tensor(float(steps), device=self.device) for _, _, steps in parts],
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.settings.lr,
            weight_decay=WEIGHT_DECAY,
            eps=1e-8,
            maximize=False,
        )
        for m in probes:
            self.steps[m] += 1

    def _pairs(self, gradients: list[Tensor]):
        return zip(self.states, gradients, strict=True)

    def _loss_slope(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Derivative of each row's loss by its logits, (M', C, B).

        logits (M', C, B), targets (M', B) or (M', B, C). The loss of a row is a mean over classes:
        of the binary cross entropies, or cross entropy divided by C.
        """
        if targets.ndim == 3:
            return (torch.sigmoid(logits) - targets.transpose(1, 2)) / self.classes
        slope = torch.softmax(logits, dim=1)
        slope.scatter_add_(1, targets[:, None], -torch.ones_like(slope[:, :1]))
        return slope / self.classes

    def _dropout(self, probes: list[int], rows: int, counts: list[int]) -> list[Tensor]:
        """Of each hidden layer: 0 where a unit is dropped, else 1 / (1 - DROPOUT), (M', H, B)."""
        masks = []
        for width in self.settings.hidden:
            mask = torch.zeros(len(probes), width, rows)
            for i, m in enumerate(probes):  # as many draws as rows, whoever trains beside
                kept = torch.rand(counts[i], width, generator=self.chance[m]) >= DROPOUT
                mask[i, :, : counts[i]] = kept.T / (1 - DROPOUT)
            masks.append(mask.to(self.device))
        return masks

    def _forward(self, weights, biases, x, probes, masks=()) -> list[Tensor]:
        """What enters each layer, then the logits: (M', B, D), (M', H, B), ..., (M', C, B).

        Weight times input, not input times weight: the matrix product is a sixth faster so.
        """
        weight, bias = weights[0], biases[0]
        if not self.one_scaler:
            weight = weight * self.gain[probes][:, None]
            bias = bias - (weight * self.shift[probes][:, None]).sum(dim=2, keepdim=True)
        values = [x, torch.baddbmm(bias, weight, x.transpose(1, 2))]
        for at in range(1, len(weights)):
            hidden = torch.relu(values.pop())
            values.append(hidden * masks[at - 1] if masks else hidden)
            values.append(torch.baddbmm(biases[at], weights[at], values[-1]))
        return values

    def _backward(self, weights, inputs, slope, probes, masks) -> list[Tensor]:
        """Gradients of weights (M', out, in) and biases (M', out, 1), layer by layer."""
        gradients: list[Tensor] = []
        for at in reversed(range(len(weights))):
            by_weight = torch.bmm(slope, inputs[at].transpose(1, 2) if at else inputs[at])
            by_bias = slope.sum(dim=2, keepdim=True)
            if at == 0 and not self.one_scaler:  # through the fold's own standardisation
                shift, gain = self.shift[probes][:, None], self.gain[probes][:, None]
                by_weight = torch.baddbmm(by_weight, by_bias, shift, alpha=-1)
                by_weight *= gain
            gradients[:0] = [by_weight, by_bias]
            if at > 0:
                # Where a unit was dropped or negative its input to the next layer is 0.
                slope = torch.bmm(weights[at].transpose(1, 2), slope)
                slope *= (inputs[at] > 0) * masks[at - 1]
        return gradients

    def _valid_logits(self, running: list[int]) -> list[NDArray]:
        """Logits (n, C) of each running probe's held-out rows, in one product where they fit."""
        sizes = {len(self.valid[m]) for m in running}
        if len(sizes) > 1 or len(running) * max(sizes) * self.x.shape[1] > _TOGETHER:
            return [self._logits(m, self.valid[m]) for m in running]
        index = torch.from_numpy(np.stack([self.valid[m] for m in running])).to(self.device)
        x = self.x.index_select(0, index.reshape(-1)).view(*index.shape, -1)
        own = [state.value[running] for state in self.states]
        logits = self._forward(own[::2], own[1::2], x, running)[-1]
        return list(logits.transpose(1, 2).contiguous().cpu().numpy())

    def _logits(self, m: int, rows: NDArray) -> NDArray:
        own = [t[None] for t in self.slices[m]]
        parts = []
        for at in range(0, len(rows), _CHUNK):
            index = torch.from_numpy(rows[at : at + _CHUNK]).to(self.device)
            x = self.x.index_select(0, index)[None]
            logits = self._forward(own[::2], own[1::2], x, [m])[-1][0]
            parts.append(np.ascontiguousarray(logits.T.cpu().numpy()))
        return np.concatenate(parts)


@dataclass(frozen=True, eq=False)
class _State:
    """A parameter of all probes, stacked, with Adam's moments."""

    value: Tensor
    first: Tensor
    second: Tensor

    def of(self, m: int) -> "_State":
        return _State(self.value[m], self.first[m], self.second[m])
