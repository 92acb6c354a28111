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

from evar.probing.draws import Draws, Epoch
from evar.probing.rows import Rows, Scaler, walk
from evar.probing.stacked import InputScale, Layer, Stack, StackedNetworks

if TYPE_CHECKING:
    from evar.probing.probe import Job, ProbeSettings

CHUNK = 4096  # rows per product outside of training
_TOGETHER = 2**24  # numbers in one product over several probes' held-out rows


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


@dataclass(eq=False)
class _Lane:
    """One stack: the networks of the lines that are still trained, and how far each line is.

    at: of the lines that any lane trains the positions of this one's. logits_by: what computes a
    line's logits once its training has ended.
    """

    networks: StackedNetworks
    progress: list[Progress]
    running: list[int]
    at: list[int] = field(default_factory=list)
    logits_by: dict[int, list[Tensor]] = field(default_factory=dict)

    def step(self, x: Tensor, targets: Tensor, counts: list[int], masks: list[Tensor]) -> None:
        """Makes a step of its lines on their batches among those of all lines, (L, B, ...)."""
        own = [i for i in self.at if i < len(counts)]
        if own:
            width = max(counts[i] for i in own)  # as if other lines were not there
            if len(own) < len(counts):
                targets = targets[own, :width]
                masks = [mask[own, :, :width] for mask in masks]
                counts = [counts[i] for i in own]
            self.networks.step(_consecutive(x, own, width), targets, counts, masks)

    def keep(self, goes_on: Sequence[bool]) -> None:
        """Drops the lines whose training has ended."""
        for i, m in enumerate(self.running):
            if not goes_on[i]:
                self.logits_by[m] = self.progress[m].tensors or self.networks.copy_of(i)
        if not all(goes_on):
            at = [i for i, own in enumerate(goes_on) if own]
            self.networks.keep(at)
            self.running = [self.running[i] for i in at]


class Training:
    """Trains the same lines in one lane or several: draws batches, scores, stops each early.

    rows: (N, D) standardised; `scale` is what a line's input goes through then. lanes: of each its
    jobs, which differ from those of another lane in nothing but the learning rate.
    """

    def __init__(
        self,
        rows: Rows,
        scale: InputScale | None,
        y: NDArray,
        lanes: Sequence[Sequence["Job"]],
        settings: "ProbeSettings",
        selection: Selection,
    ):
        self.rows, self.y, self.lines = rows, y, lanes[0]
        self.settings, self.selection = settings, selection
        self.device = rows.device
        classes = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
        self.targets = torch.from_numpy(y.astype(np.float32) if y.ndim == 2 else y).to(self.device)
        self.draws = [Draws(job, y, settings.batch_size) for job in self.lines]
        sizes = (rows.width, *settings.hidden, classes)
        initial = [draws.initial_layers(sizes) for draws in self.draws]
        # Longest first: then the lines that have a batch left are always a prefix.
        self.order = sorted(range(len(initial)), key=lambda m: -len(self.draws[m].train))
        self.scale = scale
        self.lanes = [self._lane(jobs, initial) for jobs in lanes]
        self._batch = torch.empty(0, rows.width, device=self.device)  # kept from step to step
        self._held_out: Tensor | None = None

    def _lane(self, jobs: Sequence["Job"], initial: Sequence[list[Layer]]) -> _Lane:
        rates = [self.settings.lr if job.lr is None else job.lr for job in jobs]
        networks = StackedNetworks(
            [initial[m] for m in self.order],
            lr=[rates[m] for m in self.order],
            scale=self.scale and self.scale.of(torch.tensor(self.order, device=self.device)),
            whole=self.order == sorted(self.order),
            device=str(self.device),
        )
        return _Lane(networks, [Progress() for _ in jobs], list(self.order))

    def run(self, on_epoch: Callable[[int, int], None]) -> list[list[Fitted]]:
        """Trains until each probe has ended; returns what each lane has of each line."""
        running = self.order
        for epoch in range(1, self.settings.epochs + 1):
            self._epoch(running)
            for lane, logits in zip(self.lanes, self._valid_logits(running), strict=True):
                scored = zip(lane.running, range(len(lane.running)), logits, strict=True)
                lane.keep([self._goes_on(lane, m, i, epoch, own) for m, i, own in scored])
            on_epoch(epoch, sum(len(lane.running) for lane in self.lanes))
            running = self._running()
            if not running:
                break
        return self._fitted()

    def _running(self) -> list[int]:
        """Returns the lines that any lane still trains."""
        trained = {m for lane in self.lanes for m in lane.running}
        return [m for m in self.order if m in trained]

    def _goes_on(self, lane: _Lane, m: int, at: int, epoch: int, logits: NDArray) -> bool:
        y, networks = self.y[self.draws[m].valid], lane.networks
        return self.selection.goes_on(
            lane.progress[m], epoch, logits, y, lambda: networks.copy_of(at)
        )

    def _fitted(self) -> list[list[Fitted]]:
        for lane in self.lanes:
            lane.keep([False] * len(lane.running))
        found: list[list[Fitted]] = [[] for _ in self.lanes]
        for m, job in enumerate(self.lines):
            stacks = [self._alone(m, lane.logits_by[m]) for lane in self.lanes]
            of_lanes = self._logits(np.asarray(job.test, np.int64), stacks)
            for fitted, lane, logits in zip(found, self.lanes, of_lanes, strict=True):
                fitted.append(self._result(m, lane.progress[m], logits))
        return found

    def _alone(self, m: int, tensors: Sequence[Tensor]) -> Stack:
        """Returns the stack of one line's network."""
        return Stack([t[None] for t in tensors], self.scale and self.scale.of(slice(m, m + 1)))

    def _result(self, m: int, own: Progress, logits: NDArray) -> Fitted:
        held_out, signed = self.draws[m].held_out, self.selection.signed
        tensors, goodness = own.tensors or [], own.goodness
        pairs = zip(tensors[::2], tensors[1::2], strict=True)
        layers = tuple((w.cpu().numpy(), b[:, 0].cpu().numpy()) for w, b in pairs)
        value = signed(goodness)
        return Fitted(logits, own.best_epoch, own.epochs, value, goodness, held_out, layers)

    def _epoch(self, running: list[int]) -> None:
        """Trains the running probes on each of their rows once, in a new order."""
        epoch = Epoch.of([self.draws[m] for m in running])
        rows = epoch.rows.to(self.device)
        # Those of several labels would take too much memory, step by step they do not.
        targets = self.targets[rows] if self.targets.ndim == 1 else None
        for lane in self.lanes:
            lane.at = [i for i, m in enumerate(running) if m in lane.running]
        for step, (source, positions) in enumerate(walk(self.rows, rows.unbind())):
            counts = epoch.counts[step]
            batch = (slice(len(counts)), slice(max(counts)))
            wanted = self.targets[rows[step][batch]] if targets is None else targets[step][batch]
            self._step(running, self._gathered(source, positions[batch]), wanted, counts)

    def _step(self, lines: list[int], x: Tensor, targets: Tensor, counts: list[int]) -> None:
        """Makes one step of some lines, on x (L, B, D), in every lane that trains them."""
        masks = self._dropout(lines, counts)
        for lane in self.lanes:
            lane.step(x, targets, counts, masks)

    def _dropout(self, lines: list[int], counts: list[int]) -> list[Tensor]:
        """Returns for each hidden layer the masks (L, H, B), 0 in rows that are padding."""
        masks = []
        for width in self.settings.hidden:
            mask = torch.zeros(len(counts), width, max(counts))
            for i, count in enumerate(counts):  # none for padding, which depends on other lines
                mask[i, :, :count] = self.draws[lines[i]].dropout(count, width)
            masks.append(mask.to(self.device))
        return masks

    def _gathered(self, x: Tensor, index: Tensor) -> Tensor:
        """(L, B) rows of x -> (L, B, D), in memory that the next step uses again."""
        count = index.numel()
        if len(self._batch) < count:  # new memory for each batch would cost as much as copying it
            self._batch = x.new_empty(count, x.shape[1])
        out = torch.index_select(x, 0, index.reshape(-1), out=self._batch[:count])
        return out.view(*index.shape, -1)

    def _valid_logits(self, lines: list[int]) -> list[list[NDArray]]:
        """Returns for each lane the logits (n, C) of its running lines' held-out rows."""
        valid = [self.draws[m].valid for m in self.order]
        sizes = {len(rows) for rows in valid}
        if len(sizes) > 1 or len(valid) * max(sizes) * self.rows.width > _TOGETHER:
            return self._valid_logits_by_line(lines)
        if self._held_out is None:
            wanted = torch.from_numpy(np.concatenate(valid)).to(self.device)
            source, positions = next(walk(self.rows, [wanted]))
            self._held_out = source.index_select(0, positions).view(len(valid), max(sizes), -1)
        found: list[list[NDArray]] = []
        for lane in self.lanes:
            at = [self.order.index(m) for m in lane.running]
            found.append([])
            if at:
                x = _consecutive(self._held_out, at, max(sizes))
                logits = lane.networks.first(len(at)).logits(x)
                found[-1] += list(logits.contiguous().cpu().numpy())
        return found

    def _valid_logits_by_line(self, lines: list[int]) -> list[list[NDArray]]:
        found: list[list[NDArray]] = [[] for _ in self.lanes]
        for m in lines:
            own = [i for i, lane in enumerate(self.lanes) if m in lane.running]
            running = [self.lanes[i] for i in own]
            copies = [lane.networks.copy_of(lane.running.index(m)) for lane in running]
            stacks = [self._alone(m, tensors) for tensors in copies]
            for i, of_lane in zip(own, self._logits(self.draws[m].valid, stacks), strict=True):
                found[i].append(of_lane)
        return found

    def _logits(self, rows: NDArray, stacks: Sequence[Stack]) -> list[NDArray]:
        """Returns the logits (n, C) of some stacks of one network on some rows."""
        parts: list[list[NDArray]] = [[] for _ in stacks]
        chunks = torch.from_numpy(rows).to(self.device)[None].split(CHUNK, dim=1)
        for source, positions in walk(self.rows, chunks):
            x = self._gathered(source, positions)
            for own, stack in zip(parts, stacks, strict=True):
                own.append(np.ascontiguousarray(stack.logits(x)[0].cpu().numpy()))
        return [np.concatenate(own) for own in parts]


def _consecutive(x: Tensor, at: Sequence[int], width: int) -> list[Tensor]:
    """Returns x[at, :width] (L, B, D) as views, one for each run of consecutive numbers in `at`."""
    starts = [i for i in range(len(at)) if i == 0 or at[i] != at[i - 1] + 1]
    ends = [*starts[1:], len(at)]
    pairs = zip(starts, ends, strict=True)
    return [x[at[begin] : at[end - 1] + 1, :width] for begin, end in pairs]
