"""The training of linear probes: batches drawn, gathered and scored once for a grid of rates.

A line is one probe's rows and random numbers. A lane is a stack of all lines at one learning rate.
Lanes share what does not depend on the rate (the order of rows, the gathered batches, dropout, the
held-out rows), and nothing else: each computes on tensors of the shapes that it would have alone,
so that on a CPU it gives the same bits. Letters: L lines, M' networks of a lane in a step, B rows
of a batch, D embedding, H hidden units, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evar.probing.draws import Batches, Draws
from evar.probing.graphs import Replays
from evar.probing.lanes import Lane, Progress, consecutive
from evar.probing.stacked import InputScale, Layer, Stack, StackedNetworks

if TYPE_CHECKING:
    from evar.probing.probe import Job, ProbeSettings

CHUNK = 4096  # rows per product outside of training
_TOGETHER = 2**24  # numbers in one product over several probes' held-out rows
_TOGETHER_ON_GPU = 2**28  # 1 GiB; on a CPU the shape of a product decides the last bits
_CHUNK_ON_GPU = 2**27  # numbers in a product outside of training


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
    replays: what makes the steps that are alike.
    """

    def __init__(
        self,
        x: Tensor,
        scale: InputScale | None,
        y: NDArray,
        lanes: Sequence[Sequence["Job"]],
        settings: "ProbeSettings",
        selection: Selection,
        *,
        replays: Replays,
    ):
        self.x, self.scale, self.y, self.lines = x, scale, y, lanes[0]
        self.settings, self.selection = settings, selection
        self.device, self.on_cpu = x.device, x.device.type == "cpu"
        self.classes = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
        self.targets = torch.from_numpy(y.astype(np.float32) if y.ndim == 2 else y).to(x.device)
        self.draws = [Draws(job, y, settings.batch_size) for job in self.lines]
        sizes = (x.shape[1], *settings.hidden, self.classes)
        initial = [draws.initial_layers(sizes) for draws in self.draws]
        # Longest first: then the lines that have a batch left are always a prefix. Those of one
        # rate stand together, where a lane has several: Adam updates them as one.
        rates = [rate_of(job, settings) for job in self.lines]
        self.order = sorted(range(len(initial)), key=lambda m: (-self.draws[m].rows, rates[m]))
        self.lanes = [self._lane(jobs, initial) for jobs in lanes]
        self._batch, self._chunk = _Gatherer(), _Gatherer()
        self._held_out: Tensor | None = None
        # Dropout is drawn on the CPU, which takes longer than to launch the rest of such a step.
        self._replays = Replays(None) if settings.hidden else replays

    def _lane(self, jobs: Sequence["Job"], initial: Sequence[list[Layer]]) -> Lane:
        rates = [rate_of(job, self.settings) for job in jobs]
        networks = StackedNetworks(
            [initial[m] for m in self.order],
            lr=[rates[m] for m in self.order],
            scale=self.scale and self.scale.of(torch.tensor(self.order, device=self.device)),
            paces=[self.draws[m].steps for m in self.order],
            whole=self.order == sorted(self.order),
            device=str(self.device),
        )
        return Lane(networks, [Progress() for _ in jobs], list(self.order))

    def run(self, on_epoch: Callable[[int, int], None]) -> list[list[Fitted]]:
        """Trains until each probe has ended; returns what each lane has of each line."""
        probes = 0  # whose training goes on
        for epoch in range(1, self.settings.epochs + 1):
            if probes != (probes := sum(len(lane.running) for lane in self.lanes)):
                batches = self._batches()
            self._epoch(batches)
            for lane, logits in zip(self.lanes, self._valid_logits(), strict=True):
                lane.keep([self._goes_on(lane, i, epoch, own) for i, own in enumerate(logits)])
            left = sum(len(lane.running) for lane in self.lanes)
            on_epoch(epoch, left)
            if not left:
                break
        return self._fitted()

    def _batches(self) -> Batches:
        """Returns the batches of the lines that any lane still trains."""
        trained = {m for lane in self.lanes for m in lane.running}
        running = [m for m in self.order if m in trained]
        for lane in self.lanes:
            lane.at = [i for i, m in enumerate(running) if m in lane.running]
        self._replays.forget()
        return Batches([self.draws[m] for m in running])

    def _goes_on(self, lane: Lane, at: int, epoch: int, logits: NDArray) -> bool:
        own, y = lane.progress[lane.running[at]], self.y[self.draws[lane.running[at]].valid]
        return self.selection.goes_on(own, epoch, logits, y, lambda: lane.networks.copy_of(at))

    def _fitted(self) -> list[list[Fitted]]:
        for lane in self.lanes:
            lane.keep([False] * len(lane.running))
        found: list[list[Fitted]] = [[] for _ in self.lanes]
        for m, job in enumerate(self.lines):
            rows = np.asarray(job.test, np.int64)
            logits = [self.x.new_empty(len(rows), self.classes) for _ in self.lanes]
            self._logits(rows, [self._alone(m, lane.logits_by[m]) for lane in self.lanes], logits)
            for fitted, lane, own in zip(found, self.lanes, logits, strict=True):
                fitted.append(self._result(m, lane.progress[m], own.cpu().numpy()))
        return found

    def _result(self, m: int, own: Progress, logits: NDArray) -> Fitted:
        held_out, signed = self.draws[m].held_out, self.selection.signed
        tensors, goodness = own.tensors or [], own.goodness
        pairs = zip(tensors[::2], tensors[1::2], strict=True)
        layers = tuple((w.cpu().numpy(), b[:, 0].cpu().numpy()) for w, b in pairs)
        value = signed(goodness)
        return Fitted(logits, own.best_epoch, own.epochs, value, goodness, held_out, layers)

    def _epoch(self, batches: Batches) -> None:
        """Trains the running probes on each of their rows once, in a new order."""
        rows = batches.epoch().to(self.device)
        # Those of several labels would take too much memory; step by step they do not.
        targets = self.targets[rows] if self.targets.ndim == 1 else None
        for at, counts in enumerate(batches.counts):
            batch = (at, slice(len(counts)), slice(max(counts)))
            wanted = self.targets[rows[batch]] if targets is None else targets[batch]
            step = partial(self._step, counts=counts, masks=self._dropout(batches.lines, counts))
            if counts == batches.counts[0]:  # most of an epoch's steps: all alike
                self._replays.run(step, (rows[batch], wanted), self._state)
            else:
                step(rows[batch], wanted)
        if not self.on_cpu:  # which then still works on the steps
            for line in batches.lines:
                line.draw_ahead()

    def _step(
        self, rows: Tensor, targets: Tensor, *, counts: list[int], masks: list[Tensor]
    ) -> None:
        """Makes one step on batches (L, B) in every lane, of its lines among them."""
        x = self._batch.gather(self.x, rows)
        for lane in self.lanes:
            lane.step(x, targets, counts, masks)

    def _state(self) -> list[Tensor]:
        """Returns all tensors that a step changes."""
        return [t for lane in self.lanes if lane.running for t in lane.networks.adam.state]

    def _dropout(self, lines: Sequence[Draws], counts: list[int]) -> list[Tensor]:
        """Returns for each hidden layer the masks (L, H, B), 0 in rows that are padding."""
        hidden = self.settings.hidden
        if not hidden:
            return []
        pinned = self.device.type == "cuda"  # such memory is copied while a GPU computes
        masks = torch.zeros(len(counts), sum(hidden), max(counts), pin_memory=pinned)
        for mask, width in zip(masks.split(hidden, dim=1), hidden, strict=True):
            for i, count in enumerate(counts):  # none for padding, which depends on other lines
                mask[i, :, :count] = lines[i].dropout(count, width)
        return list(masks.to(self.device, non_blocking=True).split(hidden, dim=1))

    def _valid_logits(self) -> list[list[NDArray]]:
        """Returns for each lane the logits (n, C) of its running lines' held-out rows."""
        sizes = {len(draws.valid) for draws in self.draws}
        together = _TOGETHER if self.on_cpu else _TOGETHER_ON_GPU
        if len(sizes) > 1 or len(self.draws) * max(sizes) * self.x.shape[1] > together:
            return self._valid_logits_by_line()
        if self._held_out is None:
            valid = np.concatenate([self.draws[m].valid for m in self.order])
            rows = torch.from_numpy(valid).to(self.device)
            self._held_out = self.x.index_select(0, rows).view(len(self.draws), max(sizes), -1)
        found: list[list[NDArray]] = []
        for lane in self.lanes:
            found.append([])
            if lane.running:
                at = [self.order.index(m) for m in lane.running]
                x = consecutive(self._held_out, at, max(sizes))
                logits = lane.networks.first(len(at)).logits(x)
                found[-1] += list(logits.contiguous().cpu().numpy())
        return found

    def _valid_logits_by_line(self) -> list[list[NDArray]]:
        sizes = [[len(self.draws[m].valid) for m in lane.running] for lane in self.lanes]
        logits = [self.x.new_empty(sum(own), self.classes) for own in sizes]
        parts = [
            dict(zip(lane.running, of_lane.split(own), strict=True))
            for lane, of_lane, own in zip(self.lanes, logits, sizes, strict=True)
        ]
        for m in self.order:
            own = [
                (lane, part[m]) for lane, part in zip(self.lanes, parts, strict=True) if m in part
            ]
            copies = [lane.networks.copy_of(lane.running.index(m)) for lane, _ in own]
            stacks = [self._alone(m, tensors) for tensors in copies]
            self._logits(self.draws[m].valid, stacks, [part for _, part in own])
        # A GPU is waited for once per lane.
        hosts = [of_lane.cpu().split(own) for of_lane, own in zip(logits, sizes, strict=True)]
        return [[part.numpy() for part in of_lane] for of_lane in hosts]

    def _alone(self, m: int, tensors: Sequence[Tensor]) -> Stack:
        """Returns the stack of one line's network."""
        return Stack([t[None] for t in tensors], self.scale and self.scale.of(slice(m, m + 1)))

    def _logits(self, rows: NDArray, stacks: Sequence[Stack], out: Sequence[Tensor]) -> None:
        """Writes the logits (n, C) of some stacks of one network on some rows, chunk by chunk."""
        size = CHUNK if self.on_cpu else max(CHUNK, _CHUNK_ON_GPU // self.x.shape[1])
        for at in range(0, len(rows), size):
            index = torch.from_numpy(rows[at : at + size]).to(self.device)
            x = self._chunk.gather(self.x, index[None])
            for own, stack in zip(out, stacks, strict=True):
                own[at : at + size] = stack.logits(x)[0]


def rate_of(job: "Job", settings: "ProbeSettings") -> float:
    """Returns a job's own learning rate, or that of the settings."""
    return settings.lr if job.lr is None else job.lr


class _Gatherer:
    """Gathers rows in memory that the next call uses again: to get new one costs a copy's time."""

    def __init__(self) -> None:
        self._kept = torch.empty(0, 0)

    def gather(self, x: Tensor, index: Tensor) -> Tensor:
        """Returns rows of x (N, D), of an index (L, B): (L, B, D)."""
        count = index.numel()
        if len(self._kept) < count:
            self._kept = x.new_empty(count, x.shape[1])
        out = torch.index_select(x, 0, index.reshape(-1), out=self._kept[:count])
        return out.view(*index.shape, -1)
