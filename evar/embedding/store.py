"""Arrays on disk in checksummed shards, shared by processes and safe against interruption.

One folder a key; the key is the hash of everything that decides the content. A shard is written
whole or not at all, carries its own checksum, and is computed by the process that holds its lock.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np

from evar import files, locks
from evar.embedding.gathering import DamagedShard, Gathering, layout, verify
from evar.errors import UserError


@dataclass(frozen=True)
class Shard:
    """Rows of one shard: float32 (n, D), and why some of them are NaN (row: reason)."""

    rows: np.ndarray
    bad: dict[int, str]


def key_of(identity: dict) -> str:
    """Returns the name of the folder of an identity."""
    return hashlib.sha256(files.canonical_json(identity).encode()).hexdigest()[:24]


class Store:
    """The shards of one key below `folder`.

    `identity` is anything JSON can hold; its hash is the key, and it is written next to the shards
    so that a person can see what they are.
    """

    dtype = np.dtype(np.float32)  # of the rows on disk

    def __init__(self, folder, identity: dict):
        self.identity = identity
        self.key = key_of(identity)
        self.folder = Path(folder) / self.key
        files.make_folder(self.folder)
        if not (self.folder / "key.json").exists():
            files.write_atomic(self.folder / "key.json", json.dumps(identity, indent=1) + "\n")

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"

    def read(self, number: int) -> Shard | None:
        """Returns a shard; None where there is none or where it is damaged (then it is removed)."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        with files.reading(self.path(number)):
            try:
                content = self.path(number).read_bytes()
            except FileNotFoundError:
                return None
        try:
            tensors = load(content[32:])
            intact = hashlib.sha256(content[32:]).digest() == content[:32]
        except (SafetensorError, ValueError):
            intact = False
        if not intact:
            self.path(number).unlink(missing_ok=True)
            return None
        bad = json.loads(tensors["bad"].tobytes())
        return Shard(tensors["rows"], {int(row): reason for row, reason in bad.items()})

    def write(self, number: int, shard: Shard) -> None:
        """Writes a shard: SHA-256 of what follows (32 bytes), then safetensors."""
        from safetensors.numpy import save

        bad = np.frombuffer(json.dumps(shard.bad).encode(), dtype=np.uint8)
        body = save({"rows": np.ascontiguousarray(shard.rows, self.dtype), "bad": bad})
        files.write_atomic(self.path(number), hashlib.sha256(body).digest() + body)

    def _acquire(self, name: str, *, wait: bool) -> filelock.FileLock | None:
        """Acquires a lock file; returns None where another process holds it, unless `wait`."""
        lock = locks.lock(self.folder / f"{name}.lock")
        with files.writing(self.folder):
            try:
                lock.acquire(blocking=wait)
            except filelock.Timeout:  # an OSError too, but no failure to write
                return None
        return lock

    def present(self, total: int) -> list[int]:
        """Returns the numbers below `total` of shards that are there, intact or not."""
        with files.reading(self.folder), os.scandir(self.folder) as entries:
            there = {entry.name for entry in entries}  # not a look at every file
        return [n for n in range(total) if self.path(n).name in there]

    def missing(self, total: int) -> list[int]:
        """Returns the numbers below `total` of shards that are missing or damaged.

        Every byte of every shard is read and checked. A damaged one is removed.
        """
        there = self.present(total)
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # reading and hashing in parallel
            checked = zip(there, pool.map(self.bad_rows, there), strict=True)
            intact = {number for number, bad in checked if bad is not None}
        return [n for n in range(total) if n not in intact]

    def announce(self, missing: Sequence[int]) -> None:
        """Is called with the shards that are about to be computed."""

    def bad_rows(self, number: int) -> dict[int, str] | None:
        """Checks a shard; returns its bad rows (row: reason), None where it is missing or damaged.

        A damaged one is removed.
        """
        path = self.path(number)
        with files.reading(path):
            try:
                return verify(path)
            except FileNotFoundError:
                return None
            except DamagedShard:
                path.unlink(missing_ok=True)
                return None

    def fill(self, todo: list[int], compute: Callable[[Iterator[int]], None]) -> None:
        """Computes the shards of `todo` that are missing, shared with other processes.

        `compute` takes an iterator of shard numbers and must write each one before it asks for
        the next but two; a number is ours alone until then. Shards that other processes hold are
        left to them; should one of these die, its shards are taken over.
        """
        while todo:
            held: list[filelock.FileLock] = []
            try:
                compute(self._claims(todo, held))
            finally:  # not earlier: the last shards are written when all have been claimed
                for lock in held:
                    lock.release()
            todo = [n for n in todo if not self.path(n).exists()]
            if todo:
                time.sleep(0.2)  # another process is at work on what is left

    def _claims(self, todo: list[int], held: list[filelock.FileLock]) -> Iterator[int]:
        for number in todo:
            lock = self.claim(number)
            if lock is None:
                continue
            held.append(lock)
            while len(held) > 3:  # on a GPU's last batches, being computed, being decoded ahead
                held.pop(0).release()
            yield number

    def claim(self, number: int) -> filelock.FileLock | None:
        """Returns the lock of a shard that the caller now computes and releases when it is written.

        None where another process computes it, or has just done so.
        """
        lock = self._acquire(f"{number:06d}", wait=False)
        if lock is None:
            return None
        if self.path(number).exists():
            lock.release()
            return None
        stale = self.folder.glob(f".{self.path(number).name}.*") if locks.in_use() else ()
        for left in stale:
            left.unlink(missing_ok=True)  # by a process that was killed as it wrote
        return lock

    def once(self, name: str, make: Callable[[], dict]) -> dict:
        """A small JSON value kept with the shards: made by one process, read by all."""
        path = self.folder / f"{name}.json"
        damaged = (OSError, ValueError, KeyError, TypeError)
        with suppress(*damaged):  # no lock where it is there: the cache may be read-only
            return self._intact(path)
        lock = self._acquire(name, wait=True)
        try:
            return self._intact(path)
        except damaged:
            value = make()
            self.keep(name, value)
            return value
        finally:
            if lock is not None:
                lock.release()

    def speed(self, device: str) -> float | None:
        """Returns the clips per second that `keep_speed` kept, of the same device."""
        kept = self.kept("speed")
        return float(kept["clips_per_second"]) if kept and kept["device"] == device else None

    def keep_speed(self, device: str, clips_per_second: float) -> None:
        """Keeps how fast all shards were computed, for runs that find them here."""
        self.keep("speed", {"device": device, "clips_per_second": clips_per_second})

    def keep(self, name: str, value: dict) -> None:
        """Keeps a small JSON value with the shards."""
        text = files.canonical_json(value)
        digest = hashlib.sha256(text.encode()).hexdigest()
        content = json.dumps({"sha256": digest, "value": value}) + "\n"
        files.write_atomic(self.folder / f"{name}.json", content)

    def kept(self, name: str) -> dict | None:
        """Returns a value that was kept; None where there is none or where it is damaged."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            return self._intact(self.folder / f"{name}.json")
        return None

    def _intact(self, path: Path) -> dict:
        """The value of a small file, as it was written; ValueError where it was damaged."""
        content = json.loads(path.read_text())
        text = files.canonical_json(content["value"])
        if hashlib.sha256(text.encode()).hexdigest() != content["sha256"]:
            raise ValueError(f"{path} is damaged")
        return content["value"]

    def gathering(self, starts: Sequence[int], width: int) -> Gathering:
        """Returns what reads shards of known sizes into one (N, width) array.

        starts: the row at which each shard begins, and the end, N.
        """
        return Gathering(self.path, starts, width, self.folder)

    def gather(self, total: int) -> tuple[np.ndarray, dict[int, str]]:
        """Returns all shards as one (N, D) float32 array, and the bad rows (row: reason).

        The array is the caller's own and may be written to. Raises UserError for a shard that is
        missing or damaged.
        """
        starts, width = [0], 0
        for number in range(total):
            rows, width = self._shape(number)
            starts.append(starts[-1] + rows)
        gathering = self.gathering(starts, width)
        for number in gathering.add(range(total)):
            raise self.vanished(number)
        return gathering.result()

    def _shape(self, number: int) -> tuple[int, ...]:
        try:
            with files.reading(self.path(number)), self.path(number).open("rb") as file:
                return layout(file)[0].shape
        except (UserError, DamagedShard) as error:
            raise self.vanished(number) from error

    def vanished(self, number: int) -> UserError:
        """Returns the error for a shard that was there and is not, or no more as it was."""
        return UserError(f"{self.path(number)}: vanished while in use; run again")


@dataclass(frozen=True)
class Entry:
    """One key of the cache, as `evar cache ls` shows it."""

    key: str
    bytes: int
    identity: dict


def entries(folder) -> list[Entry]:
    """Everything that is kept in a cache folder."""
    found = []
    for path in sorted(Path(folder).glob("*/key.json")):
        size = sum(p.stat().st_size for p in path.parent.iterdir() if p.is_file())
        try:
            identity = json.loads(path.read_text())
        except (OSError, ValueError):
            identity = {}
        found.append(Entry(path.parent.name, size, identity))
    return found


def remove(folder, key: str) -> None:
    """Removes one key and its shards."""
    with files.writing(folder):
        shutil.rmtree(Path(folder) / key)
