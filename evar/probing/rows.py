"""Where a probe's batches come from: standardised rows in memory, or read from a file in blocks.

The order of rows is the caller's. Letters: N rows, D embedding, S steps, L lines, B batch.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evar.embedding.gathering import free_memory
from evar.embedding.mapped import RowFile

Scaler = tuple[NDArray, NDArray]  # mean and scale, (D,) float64
Block = tuple[Tensor, Sequence[Tensor]]

NUMBERS = 2**18  # that a thread standardises at a time: 2 MB of float64 stay in its cache
_READERS = 4  # threads; more calls are under way, which `RowFile.read` announces
_SHARE = 0.125  # of the free memory that a block takes; there are two
_SMALLEST, _LARGEST = 2**26, 2**28  # bytes of a block


class Rows(Protocol):
    """Rows (N, D) that are gathered in many steps."""

    @property
    def width(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def blocks(self, steps: Sequence[Tensor]) -> Iterator[Block]:
        """Yields what consecutive steps gather from, and the positions in it.

        steps: the rows of each, of any shape. A block is x (n, D) and positions of these shapes:
        its step i gathers x[positions[i]]. It is valid until the next one is asked for.
        """


def walk(rows: Rows, steps: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields, for each step, what it gathers from and the positions in it."""
    for x, positions in rows.blocks(steps):
        for own in positions:
            yield x, own


class InMemory:
    """Rows of a tensor (N, D): one block, itself."""

    def __init__(self, x: Tensor):
        self.x, self.width, self.device = x, x.shape[1], x.device

    def blocks(self, steps: Sequence[Tensor]) -> Iterator[Block]:
        yield self.x, steps


class OnDisk:
    """Rows of a file, read when they are needed: the next block while this one is used.

    Each block has the rows of as many steps as `budget` bytes hold, one at least, each row once; it
    is read in ascending order. by: what rows are standardised by; the file stays as it is.
    """

    device = torch.device("cpu")

    def __init__(self, file: RowFile, by: Scaler | None = None, *, budget: int | None = None):
        self.file, self.by, self.width = file, by, file.shape[1]
        self.capacity = (_budget() if budget is None else budget) // (4 * self.width)  # rows
        self._kept = [np.empty((0, self.width), np.float32) for _ in range(2)]

    def blocks(self, steps: Sequence[Tensor]) -> Iterator[Block]:
        for x, positions in self.arrays([step.numpy() for step in steps]):
            yield torch.from_numpy(x), [torch.from_numpy(own) for own in positions]

    def arrays(self, steps: Sequence[NDArray]) -> Iterator[tuple[NDArray, list[NDArray]]]:
        """Yields what `blocks` does. Raises UserError where the file cannot be read."""
        at_once = max(1, self.capacity // max((step.size for step in steps), default=1))
        begun: deque[_Reading] = deque()
        with ThreadPoolExecutor(_READERS) as pool:
            for number, at in enumerate(range(0, len(steps), at_once)):
                rows, positions = _unique(steps[at : at + at_once])
                x = self._room(number % 2, len(rows))
                begun.append(_Reading(self._begin(pool, rows, x), x, positions))
                if number:
                    yield begun.popleft().ended()
            while begun:
                yield begun.popleft().ended()

    def all_on(self, device: str) -> Tensor:
        """Returns all rows (N, D) on another device."""
        count, begin = self.file.shape[0], 0
        out = torch.empty(count, self.width, device=device)
        pieces = np.array_split(np.arange(count), max(1, count // max(1, self.capacity)))
        for x, _ in self.arrays(pieces):
            out[begin : begin + len(x)] = torch.from_numpy(x)
            begin += len(x)
        return out

    def _room(self, number: int, count: int) -> NDArray:
        """Returns one of two rooms of `count` rows, kept for the next block and the next call."""
        if len(self._kept[number]) < count:
            wanted = min(max(count, self.capacity), self.file.shape[0])
            self._kept[number] = np.empty((0, self.width), np.float32)  # free it first
            self._kept[number] = np.empty((wanted, self.width), np.float32)
        return self._kept[number][:count]

    def _begin(self, pool: ThreadPoolExecutor, rows: NDArray, x: NDArray) -> list[Future]:
        """Starts reading rows (n,), ascending, into x (n, D)."""
        size = max(1, NUMBERS // self.width)
        parts = [slice(at, at + size) for at in range(0, len(rows), size)]
        return [pool.submit(self._read, rows[part], x[part]) for part in parts]

    def _read(self, rows: NDArray, x: NDArray) -> None:
        self.file.read(rows, x)
        if self.by:
            standardise(x, self.by, x)


@dataclass(frozen=True, eq=False)
class _Reading:
    """A block that is being read."""

    parts: list[Future]
    x: NDArray
    positions: list[NDArray]

    def ended(self) -> tuple[NDArray, list[NDArray]]:
        """Waits for the block; raises what reading it has raised."""
        for part in self.parts:
            part.result()
        return self.x, self.positions


def _unique(steps: Sequence[NDArray]) -> tuple[NDArray, list[NDArray]]:
    """Returns the rows of some steps, ascending, and the positions in them of each step's."""
    every = np.concatenate([step.reshape(-1) for step in steps])
    rows, positions = np.unique(every, return_inverse=True)
    ends = np.cumsum([step.size for step in steps])
    own = zip(np.split(positions, ends[:-1]), steps, strict=True)
    return rows, [at.reshape(step.shape) for at, step in own]


def standardise(x: NDArray, by: Scaler, out: NDArray) -> None:
    """Writes float32 x (n, D) less a mean and divided by a scale into `out`, which may be x."""
    mean, scale = by
    values = x - mean  # float64 in between
    values /= scale
    out[...] = values


def _budget() -> int:
    """Returns the bytes of a block."""
    free = free_memory()
    return _SMALLEST if free is None else int(min(max(_SHARE * free, _SMALLEST), _LARGEST))
