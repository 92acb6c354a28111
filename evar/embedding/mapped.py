"""A matrix that exceeds memory: an array that maps a temporary file, whose rows are also read."""

import errno
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from evar import files

# Bytes between two rows that are read along with them: less costs as much as another call.
_GAP = 2**13
_TOGETHER = 256  # rows in one call, at most: systems allow 1,024 parts, two a row
_AHEAD = 32  # calls whose bytes the system is asked for before they are needed
_UNSYNCED = 2**26  # bytes that are written before the disk has to have them


class Mapped(np.memmap):
    """A float32 matrix (N, D) in an unlinked temporary file, mapped.

    To look up numbers page by page is slow where the file exceeds memory: x[rows] reads them, as
    `RowFile` does. file: where it lies; None in views and copies. place: the folder of the file.
    """

    file: BinaryIO | None = None
    place: Path = Path()

    def __getitem__(self, index):
        file = RowFile.of(self) if self.file is not None and _are_rows(index, len(self)) else None
        return file.gather(index) if file else super().__getitem__(index)

    def fileno(self) -> int:
        """Returns the descriptor of the file."""
        assert self.file is not None
        return self.file.fileno()

    @classmethod
    def create(cls, shape: tuple[int, int], place: Path) -> "Mapped":
        """Makes a file in `place` where that can be written to, else in the system's folder.

        Raises UserError where the disk is full.
        """
        own = place if os.access(place, os.W_OK) else None
        with files.writing(place):
            file = tempfile.TemporaryFile(dir=own, buffering=0)  # noqa: SIM115  # lives as we do
            if hasattr(os, "posix_fallocate"):  # else a full disk ends the process as it is filled
                os.posix_fallocate(file.fileno(), 0, 4 * shape[0] * shape[1])
            made = cls(file, np.float32, "w+", shape=shape)
        if hasattr(os, "posix_fadvise"):  # `read` says itself what comes next
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        made.file, made.place = file, place
        return made


@dataclass(eq=False)
class RowFile:
    """Rows (N, D) of float32 numbers in the file of a `Mapped`, read and written by any thread.

    begin: of the first row, in bytes. stride: bytes from one row to the next.
    """

    owner: Mapped
    begin: int
    stride: int
    shape: tuple[int, int]
    unsynced: int = 0

    def __post_init__(self) -> None:
        self.descriptor = self.owner.fileno()

    @classmethod
    def of(cls, x: NDArray) -> "RowFile | None":
        """Returns the rows of a `Mapped` or of a view of one; None for all other arrays."""
        owner = x
        while isinstance(owner, np.ndarray) and getattr(owner, "file", None) is None:
            owner = owner.base  # type: ignore[assignment]  # whatever has the memory
        if not isinstance(owner, Mapped) or not hasattr(os, "preadv"):
            return None
        if x.ndim != 2 or x.dtype != np.float32 or x.strides[1] != 4 or x.strides[0] < 4:
            return None
        begin = x.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
        return cls(owner, begin, x.strides[0], x.shape)

    def gather(self, index: NDArray) -> NDArray:
        """Returns x[index] (n, D) of any rows (n,) in any order, a new array.

        Raises UserError as `read` does.
        """
        rows, positions = np.unique(index, return_inverse=True)
        out = np.empty((len(rows), self.shape[1]), np.float32)
        self.read(rows, out)
        return out if np.array_equal(rows, index) else out[positions]

    def read(self, rows: NDArray, out: NDArray) -> None:
        """Reads ascending rows (n,) into `out` (n, D); neighbours share a call.

        Raises UserError where the file cannot be read, or has no such bytes any more.
        """
        width = 4 * self.shape[1]
        at = self.begin + self.stride * rows.astype(np.int64)
        gaps = np.diff(at) - width  # bytes between a row and the next
        calls, between = _calls(at, gaps, width), gaps.tolist()
        view, unread = out.data.cast("B"), memoryview(bytearray(_GAP))
        with files.reading(self.name):
            self._announce(calls[:_AHEAD])
            for number, (offset, size, first, end) in enumerate(calls, _AHEAD):
                self._announce(calls[number : number + 1])
                own = view[first * width : end * width]
                parts = _parts(own, width, between[first : end - 1], unread)
                self._fill(parts, offset, size)

    def write(self, row: int, values: NDArray) -> None:
        """Writes consecutive rows (n, D) from a row on.

        Not through the mapping: the system learns of what is written, and the disk has it before
        so much is waiting that a control group runs out of memory. Raises UserError.
        """
        with files.writing(self.name):
            view, at = values.data.cast("B"), self.begin + row * self.stride
            while view:
                count = os.pwrite(self.descriptor, view, at)
                view, at, self.unsynced = view[count:], at + count, self.unsynced + count
            if self.unsynced >= _UNSYNCED:
                self.unsynced = 0
                os.fdatasync(self.descriptor)

    @property
    def name(self) -> str:
        """Returns what a message calls the file."""
        return f"{self.owner.place}, the temporary file of embeddings that exceed memory"

    def _announce(self, calls: Sequence["_Call"]) -> None:
        """Has the system begin to read, so that the disk has several requests at a time."""
        if hasattr(os, "posix_fadvise"):
            for offset, size, _, _ in calls:
                os.posix_fadvise(self.descriptor, offset, size, os.POSIX_FADV_WILLNEED)

    def _fill(self, parts: list[memoryview], at: int, missing: int) -> None:
        """Reads what is at an offset into parts, one after the other; the system may stop early."""
        while (count := os.preadv(self.descriptor, parts, at)) < missing:
            if not count:
                raise OSError(errno.EIO, "cut short")
            missing, at = missing - count, at + count
            while count >= len(parts[0]):
                count -= len(parts.pop(0))
            parts[0] = parts[0][count:]


def _are_rows(index: object, count: int) -> bool:
    if not (isinstance(index, np.ndarray) and index.ndim == 1 and index.dtype.kind in "iu"):
        return False
    return index.size > 0 and 0 <= index.min() <= index.max() < count


_Call = tuple[int, int, int, int]  # offset and size in bytes, the first row and the end


def _calls(at: NDArray, gaps: NDArray, width: int) -> list[_Call]:
    """Divides rows at some offsets (n,) into those that are read together."""
    far = np.flatnonzero(gaps > _GAP) + 1
    firsts = np.union1d(far, np.arange(0, len(at), _TOGETHER))
    ends = np.append(firsts[1:], len(at))
    sizes = at[ends - 1] + width - at[firsts]
    columns = (at[firsts], sizes, firsts, ends)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _parts(
    rows: memoryview, width: int, gaps: Sequence[int], unread: memoryview
) -> list[memoryview]:
    """Returns where the bytes of one call go: into rows, and between them into nothing of use."""
    found, begin = [], 0
    for i, gap in enumerate(gaps, 1):
        if gap:
            found += [rows[begin : i * width], unread[:gap]]
            begin = i * width
    return [*found, rows[begin:]]
