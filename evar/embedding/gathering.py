"""The rows of many shards in one array, read from disk once and checked as they are read."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from evar import files
from evar.embedding.mapped import Mapped, RowFile

CHECKSUM = 32  # bytes at the beginning of a shard: SHA-256 of what follows
_LENGTH = 8  # bytes of the length of the safetensors header that follows
_LARGEST_HEADER = 2**20  # bytes; ours have about a hundred
_BLOCK = 2**22  # bytes that are read and hashed at a time where nothing keeps them
_SHARE = 0.5  # of the free memory that embeddings may take; larger ones lie in a file


class DamagedShard(ValueError):
    """A file that is no shard, or not as it was written."""


@dataclass(frozen=True)
class Layout:
    """Where the rows are in a shard: the bytes before them, the bytes of all tensors, (n, D)."""

    begin: int
    end: int
    shape: tuple[int, ...]
    bad: tuple[int, int]  # the JSON of the bad rows: begin and end


def layout(file: BinaryIO) -> tuple[Layout, bytes]:
    """Reads the head of an open shard: its layout, and all bytes before the tensors.

    Raises DamagedShard for anything that is no such head. That it is the one that was written is
    for the checksum to say.
    """
    head = file.read(CHECKSUM + _LENGTH)
    length = int.from_bytes(head[CHECKSUM:], "little")
    if len(head) < CHECKSUM + _LENGTH or length > _LARGEST_HEADER:
        raise DamagedShard("no head")
    text = file.read(length)
    try:
        header = json.loads(text)
        rows, bad = header["rows"], header["bad"]
        first = CHECKSUM + _LENGTH + length
        begin, end = (first + int(at) for at in rows["data_offsets"])
        shape = tuple(int(n) for n in rows["shape"])
        of_bad = (first + int(bad["data_offsets"][0]), first + int(bad["data_offsets"][1]))
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise DamagedShard("no head") from error
    if not first <= begin <= end or len(shape) != 2:
        raise DamagedShard("no head")
    return Layout(begin, end, shape, of_bad), head + text


def read_into(path: Path, room: NDArray) -> dict[int, str]:
    """Reads the rows of a shard into `room` (n, D) and checks all of its bytes; one pass.

    Returns the bad rows (row: reason). Raises DamagedShard where the checksum differs or the shard
    has other rows than there is room for; `room` then holds anything. Raises OSError.
    """
    with path.open("rb", buffering=0) as file:
        found, head = layout(file)
        size = os.fstat(file.fileno()).st_size
        if found.shape != room.shape or found.end - found.begin != room.nbytes or found.end > size:
            raise DamagedShard("other rows")
        digest = hashlib.sha256(head[CHECKSUM:])
        before = _exactly(file, bytearray(found.begin - len(head)))
        digest.update(before)
        digest.update(_exactly(file, room.data.cast("B")))
        after = _exactly(file, bytearray(size - found.end))
        digest.update(after)
    if digest.digest() != head[:CHECKSUM]:
        raise DamagedShard("another checksum")
    content, first = (after, found.end) if found.bad[0] >= found.end else (before, len(head))
    bad = json.loads(bytes(content[found.bad[0] - first : found.bad[1] - first]))
    return {int(row): reason for row, reason in bad.items()}


def verify(path: Path) -> dict[int, str]:
    """Checks all bytes of a shard without keeping them; returns its bad rows (row: reason).

    Raises DamagedShard where the checksum differs, and OSError.
    """
    block = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        found, head = layout(file)
        digest = hashlib.sha256(head[CHECKSUM:])
        while count := file.readinto(block):
            digest.update(block[:count])
        if digest.digest() != head[:CHECKSUM]:
            raise DamagedShard("another checksum")
        file.seek(found.bad[0])
        bad = json.loads(file.read(found.bad[1] - found.bad[0]))
    return {int(row): reason for row, reason in bad.items()}


def _exactly(file: BinaryIO, room) -> memoryview:
    """Fills `room` from a file; DamagedShard where that has less."""
    view = memoryview(room)
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]  # a raw file has it
        if not count:
            raise DamagedShard("cut short")
        done += count
    return view


class Gathering:
    """All rows of a store, shard by shard: `add` reads shards, `result` returns them.

    path: of a shard by its number. starts: the row at which each shard begins, and the end. width:
    D. place: the folder of the temporary file that holds what does not fit into memory.
    """

    def __init__(self, path, starts: Sequence[int], width: int, place: Path):
        self.path, self.starts = path, starts
        self.bad: dict[int, dict[int, str]] = {}
        self.values = room((starts[-1], width), place)
        self.file = RowFile.of(self.values)

    def add(self, numbers: Iterable[int]) -> list[int]:
        """Reads and checks shards; returns the numbers of those that are missing or damaged.

        A damaged one is removed. Raises UserError for one that the system does not let us read.
        """
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # reading and hashing in parallel
            return [n for n in pool.map(self._read, numbers) if n is not None]

    def result(self) -> tuple[NDArray, dict[int, str]]:
        """Returns the rows (N, D), the caller's own, and the bad ones among them (row: reason)."""
        bad = {
            self.starts[number] + row: reason
            for number in sorted(self.bad)
            for row, reason in self.bad[number].items()
        }
        return self.values, bad

    def _read(self, number: int) -> int | None:
        path, first = self.path(number), self.starts[number]
        rows = self.values[first : self.starts[number + 1]]
        if self.file:
            rows = np.empty(rows.shape, np.float32)
        with files.reading(path):
            try:
                self.bad[number] = read_into(path, rows)
            except FileNotFoundError:
                return number
            except DamagedShard:
                path.unlink(missing_ok=True)
                return number
        if self.file:
            self.file.write(first, rows)
        return None


def room(shape: tuple[int, int], place: Path) -> NDArray:
    """Returns a float32 array to be filled: in memory, or in a file where it is large.

    More than half of the memory that is free goes into a temporary file (`Mapped`), so that the
    system can put it out of memory. Raises UserError where the disk is full.
    """
    size = 4 * shape[0] * shape[1]
    free = free_memory()
    if not size or (free is not None and size <= _SHARE * free):
        return np.empty(shape, np.float32)
    return Mapped.create(shape, place)


def free_memory() -> int | None:
    """Returns the bytes that this process can still take without swapping; None if not known.

    Of what the machine has free, and of what its control group (a container, a batch job) has.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(1024 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):
        return None
    for folder in groups():
        for limit, used in LIMITS:
            try:
                own = int((folder / limit).read_text()) - int((folder / used).read_text())
                stat = (folder / "memory.stat").read_text().splitlines()
            except (OSError, ValueError):  # not this version, or no limit ("max")
                continue
            cached = [int(line.split()[1]) for line in stat if line.startswith("inactive_file")]
            free = min(free, own + sum(cached))
    return max(free, 0)


LIMITS = [  # of control groups, version 2 and 1: the limit, and what is used, cached files too
    ("memory.max", "memory.current"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes"),
]


def groups(
    own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> list[Path]:
    """Returns the folders of this process' control groups, and those that are its root here."""
    found = [root, root / "memory"]
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found.append(root / path.lstrip("/"))
        elif "memory" in controllers.split(","):
            found.append(root / "memory" / path.lstrip("/"))
    return found
