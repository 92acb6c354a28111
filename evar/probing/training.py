"""The training of linear probes: batches drawn, gathered and scored once for a grid of rates.

A line is one probe's rows and random numbers. A lane is a stack of all lines at one learning rate.
Lanes share what does not depend on the rate (the order of rows, the gathered batches, dropout, the
held-out rows), and nothing else: each computes on tensors of the shapes that it would have alone,
so that on a CPU it gives the same bits. Letters: L lines, M' networks of a lane in a step, B rows
of a batch, D embedding, H hidden units, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evar.probing import holdout
from evar.probing.stacked import InputScale, Layer, StackedNetworks

if TYPE_CHECKING:
    from evar.probing.probe import Job, ProbeSettings

DROPOUT = 0.5  # after each hidden layer
CHUNK = 4096  # rows per product outside of training
_TOGETHER = 2**24  # numbers in one product over several probes' held-out rows


Scaler = tuple[NDArray, NDArray]  # mean and scale, (D,) float64


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained probe: logits of its test rows (n_test, C), and how its training went.

    valid_score: the metric of the held-out rows at the best epoch. goodness: the same, the larger
    the better; -inf where training diverged: logits and layers then mean nothing. scaler: of the
    training rows. base: by which the input was standardised first, in float64; what `scaler`
    differs by is an affine map in float32.
    """

    logits: NDArray
    best_epoch: int  # from 1
    epochs: int
    valid_score: float
    goodness: float
    held_out: str  # "valid split", "random tenth", "stratified tenth"
    layers: tuple[tuple[NDArray, NDArray], ...]  # weight (out, in), bias (out,), for scaled input
    scaler: Scaler | None = None
    base: Scaler | None = None


def _random_tenth(job: "Job", y: NDArray, rng: np.random.Generator) -> holdout.Sides:
    """Holds out a tenth of the training rows, or of the recordings that they are of."""
    if job.recordings is None:
        return holdout.random_tenth(y[job.train], rng)
    recordings, first = np.unique(job.recordings, return_index=True)
    _, held, how = holdout.random_tenth(y[job.train[first]], rng)
    is_held = np.isin(job.recordings, recordings[held])
    return np.flatnonzero(~is_held), np.flatnonzero(is_held), f"{how} of the recordings"


class _Draws:
    """All random draws of one line: held-out rows, initial weights, batches, dropout."""

    def __init__(self, job: "Job", y: NDArray):
        rng = np.random.default_rng([job.seed, job.stream])
        train, valid, self.held_out = job.train, job.valid, "valid split"
        if valid is None:
            kept, held, self.held_out = _random_tenth(job, y, rng)
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
class Progress:
    """How far one probe is, and the tensors of its best epoch so far."""

    best: float = -np.inf  # the larger the better
    best_epoch: int = 0
    epochs: int = 0
    wait: int = 0
    tensors: list[Tensor] | None = None
    diverged: bool = False

    @property
    def goodness(self) -> float:
        """Returns the best score, the larger the better; -inf where there is none that counts."""
        return -np.inf if self.diverged or self.tensors is None else self.best


@dataclass(eq=False)
class _Lane:
    """One stack: its networks, how far each is, and the lines that are still trained."""

    networks: StackedNetworks
    progress: list[Progress]
    running: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Selection:
    """How the epoch is chosen: metric(logits (n, C), y), and which direction is better."""

    metric: Callable[[NDArray, NDArray], float]
    higher_is_better: bool
    patience: int

    def goes_on(self, own: Progress, epoch: int, logits: NDArray, y: NDArray, copy) -> bool:
        """Takes the held-out logits of an epoch; returns False where the probe's training ends.

        Logits that are not finite end it, and drop what was good before: the probe has diverged.
        """
        own.epochs = epoch
        if not np.isfinite(logits).all():
            own.diverged = True
            return False
        value = self.signed(self.metric(logits, y))
        if value >= own.best:  # an equal epoch is a better one: it has trained longer
            own.best, own.best_epoch, own.wait = value, epoch, 1
            own.tensors = copy()
            return True
        own.wait += 1
        return own.wait <= self.patience

    def signed(self, value: float) -> float:
        """Returns a metric's value as one where more is better, and back."""
        return value if self.higher_is_better else -value


class Training:
    """Trains the same lines in one lane or several: draws batches, scores, stops each early.

    x: (N, D) standardised, on the device; `scale` is what a line's input goes through then. lanes:
    of each its jobs, which differ from those of another lane in nothing but the learning rate.
    """

    def __init__(
        self,
        x: Tensor,
        scale: InputScale | None,
        y: NDArray,
        lanes: Sequence[Sequence["Job"]],
        settings: "ProbeSettings",
        selection: Selection,
    ):
        self.x, self.y, self.lines = x, y, lanes[0]
        self.settings, self.selection = settings, selection
        self.device = x.device
        classes = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
        self.targets = torch.from_numpy(y.astype(np.float32) if y.ndim == 2 else y).to(x.device)
        self.draws = [_Draws(job, y) for job in self.lines]
        sizes = (x.shape[1], *settings.hidden, classes)
        initial = [draws.initial_layers(sizes) for draws in self.draws]
        # Longest first: then the lines that have a batch left are always a prefix.
        self.order = sorted(range(len(initial)), key=lambda m: -len(self.draws[m].train))
        self.lanes = []
        for jobs in lanes:
            rates = [settings.lr if job.lr is None else job.lr for job in jobs]
            networks = StackedNetworks(initial, lr=rates, scale=scale, device=str(x.device))
            progress = [Progress() for _ in jobs]
            self.lanes.append(_Lane(networks, progress, list(self.order)))
        self._batch = torch.empty(0, x.shape[1], device=x.device)  # kept from step to step
        self._held_out: Tensor | None = None

    def run(self, on_epoch: Callable[[int, int], None]) -> list[list[Fitted]]:
        """Trains until each probe has ended; returns what each lane has of each line."""
        for epoch in range(1, self.settings.epochs + 1):
            running = self._running()
            self._epoch(running)
            for lane, logits in zip(self.lanes, self._valid_logits(running), strict=True):
                scored = zip(lane.running, logits, strict=True)
                lane.running = [m for m, own in scored if self._goes_on(lane, m, epoch, own)]
            on_epoch(epoch, sum(len(lane.running) for lane in self.lanes))
            if not self._running():
                break
        return self._fitted()

    def _running(self) -> list[int]:
        """Returns the lines that any lane still trains."""
        return [m for m in self.order if any(m in lane.running for lane in self.lanes)]

    def _goes_on(self, lane: _Lane, m: int, epoch: int, logits: NDArray) -> bool:
        y, networks = self.y[self.draws[m].valid], lane.networks
        return self.selection.goes_on(
            lane.progress[m], epoch, logits, y, lambda: networks.copy_of(m)
        )

    def _fitted(self) -> list[list[Fitted]]:
        for lane in self.lanes:
            for m, own in enumerate(lane.progress):
                if own.tensors is not None:
                    lane.networks.restore(m, own.tensors)
        found: list[list[Fitted]] = [[] for _ in self.lanes]
        for m, job in enumerate(self.lines):
            of_lanes = self._logits(m, np.asarray(job.test, np.int64), self.lanes)
            for fitted, lane, logits in zip(found, self.lanes, of_lanes, strict=True):
                fitted.append(self._result(m, lane.progress[m], logits))
        return found

    def _result(self, m: int, own: Progress, logits: NDArray) -> Fitted:
        held_out, signed = self.draws[m].held_out, self.selection.signed
        tensors, goodness = own.tensors or [], own.goodness
        pairs = zip(tensors[::2], tensors[1::2], strict=True)
        layers = tuple((w.cpu().numpy(), b[:, 0].cpu().numpy()) for w, b in pairs)
        value = signed(goodness)
        return Fitted(logits, own.best_epoch, own.epochs, value, goodness, held_out, layers)

    def _epoch(self, running: list[int]) -> None:
        """Trains the running probes on each of their rows once, in a new order."""
        # The size of a batch counts the rows before any were held out.
        sizes = [min(self.settings.batch_size, len(self.lines[m].train)) for m in running]
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
            self._step(running[:ready], index[:ready, step, : max(rows)], rows)

    def _step(self, lines: list[int], index: Tensor, counts: list[int]) -> None:
        """Makes one step of some lines, of rows `index` (L, B), in every lane that trains them."""
        x, targets = self._gathered(index), self.targets[index]
        masks = self._dropout(lines, counts)
        for lane in self.lanes:
            own = set(lane.running)
            at = [i for i, m in enumerate(lines) if m in own]
            if not at:
                continue
            width = max(counts[i] for i in at)  # as if other lines were not there
            everything = len(at) == len(lines)
            lane.networks.step(
                [lines[i] for i in at],
                _consecutive(x, at, width),
                targets if everything else targets[at, :width],
                [counts[i] for i in at],
                masks if everything else [mask[at, :, :width] for mask in masks],
            )

    def _dropout(self, lines: list[int], counts: list[int]) -> list[Tensor]:
        """Returns for each hidden layer the masks (L, H, B), 0 in rows that are padding."""
        masks = []
        for width in self.settings.hidden:
            mask = torch.zeros(len(lines), width, max(counts))
            for i, m in enumerate(lines):  # no draws for padding, which depends on other lines
                mask[i, :, : counts[i]] = self.draws[m].dropout(counts[i], width)
            masks.append(mask.to(self.device))
        return masks

    def _gathered(self, index: Tensor) -> Tensor:
        """(L, B) rows -> (L, B, D), in memory that the next step uses again."""
        count = index.numel()
        if len(self._batch) < count:  # new memory for each batch would cost as much as copying it
            self._batch = self.x.new_empty(count, self.x.shape[1])
        out = torch.index_select(self.x, 0, index.reshape(-1), out=self._batch[:count])
        return out.view(*index.shape, -1)

    def _valid_logits(self, lines: list[int]) -> list[list[NDArray]]:
        """Returns for each lane the logits (n, C) of its running lines' held-out rows."""
        valid = [self.draws[m].valid for m in self.order]
        sizes = {len(rows) for rows in valid}
        if len(sizes) > 1 or len(valid) * max(sizes) * self.x.shape[1] > _TOGETHER:
            return self._valid_logits_by_line(lines)
        if self._held_out is None:
            rows = torch.from_numpy(np.concatenate(valid)).to(self.device)
            self._held_out = self.x.index_select(0, rows).view(len(valid), max(sizes), -1)
        found: list[list[NDArray]] = []
        for lane in self.lanes:
            at = [self.order.index(m) for m in lane.running]
            found.append([])
            if at:
                x = _consecutive(self._held_out, at, max(sizes))
                logits = lane.networks.logits(lane.running, x)
                found[-1] += list(logits.contiguous().cpu().numpy())
        return found

    def _valid_logits_by_line(self, lines: list[int]) -> list[list[NDArray]]:
        found: list[list[NDArray]] = [[] for _ in self.lanes]
        for m in lines:
            own = [i for i, lane in enumerate(self.lanes) if m in lane.running]
            logits = self._logits(m, self.draws[m].valid, [self.lanes[i] for i in own])
            for i, of_lane in zip(own, logits, strict=True):
                found[i].append(of_lane)
        return found

    def _logits(self, m: int, rows: NDArray, lanes: Sequence[_Lane]) -> list[NDArray]:
        """Returns for each of some lanes the logits (n, C) of a line's network on some rows."""
        parts: list[list[NDArray]] = [[] for _ in lanes]
        for at in range(0, len(rows), CHUNK):
            index = torch.from_numpy(rows[at : at + CHUNK]).to(self.device)
            x = self._gathered(index[None])
            for own, lane in zip(parts, lanes, strict=True):
                logits = lane.networks.logits([m], x)[0]
                own.append(np.ascontiguousarray(logits.cpu().numpy()))
        return [np.concatenate(own) for own in parts]


def _consecutive(x: Tensor, at: Sequence[int], width: int) -> list[Tensor]:
    """Returns x[at, :width] (L, B, D) as views, one for each run of consecutive numbers in `at`."""
    starts = [i for i in range(len(at)) if i == 0 or at[i] != at[i - 1] + 1]
    ends = [*starts[1:], len(at)]
    pairs = zip(starts, ends, strict=True)
    return [x[at[begin] : at[end - 1] + 1, :width] for begin, end in pairs]
