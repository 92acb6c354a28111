"""Files whose content is hashed as they are decoded, so that a set larger than memory is read once.

A fingerprint is the hash of a file's content. Until it is known, the manifest's table has a
placeholder: the hash of the file's path, size and times on this disk. A manifest with placeholders
identifies the files as they are here and now, but no copy of them elsewhere; results are named by
fingerprints alone (`Manifest.hashed`).
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evar import files
from evar.data import audio, packed
from evar.data.stamps import Stamp, stamp_of
from evar.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from evar.data.manifest import Manifest

_PLACEHOLDER = "~"  # no digit of a fingerprint
_LOCKS = 64  # so many files can be hashed at a time; no two threads hash the same one
_THREADS = 16


def placeholder(path: Path, stamp: Iterable[int]) -> str:
    """Returns what stands for the fingerprint of a file that has not been hashed.

    The whole path counts: where times are in seconds, files of two sets may have equal stamps.
    """
    text = json.dumps([str(path), *map(int, stamp)])
    return _PLACEHOLDER + hashlib.sha256(text.encode()).hexdigest()[:15]


def is_placeholder(fingerprint: str) -> bool:
    """Returns whether a table's cell stands for a fingerprint that is not known yet."""
    return fingerprint.startswith(_PLACEHOLDER)


class Unhashed:
    """The files of a manifest that have placeholders, and the fingerprints that are known by now.

    It is shared by all manifests that are made from one (`Manifest.test_side`). save: writes the
    manifest with all fingerprints where the one with placeholders is kept.
    """

    def __init__(
        self,
        root: Path,
        stamps: Mapping[str, Stamp],
        save: "Callable[[Manifest], object] | None" = None,
    ):
        self.root, self.save = root, save
        self._stamps = stamps
        self._found: dict[str, str] = {}
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    @classmethod
    def of(
        cls,
        root: Path,
        table: "pd.DataFrame",
        stamps: NDArray,
        save: "Callable[[Manifest], object] | None" = None,
    ) -> "Unhashed | None":
        """Returns the files that a table has placeholders of; None where there are none."""
        rows = np.flatnonzero(table.fingerprint.str.startswith(_PLACEHOLDER).to_numpy(bool))
        names = table.file.to_numpy(object)
        found = {names[row]: tuple(stamps[row].tolist()) for row in rows.tolist()}
        return cls(root, found, save) if found else None

    @property
    def bytes(self) -> int:
        """Returns the size of all files together."""
        return sum(size for size, _, _ in self._stamps.values())

    @contextlib.contextmanager
    def hashing(self, name: str) -> Iterator[None]:
        """Hashes a file, unless that has been done, before a block that decodes it.

        What the block reads is then in memory. Raises UserError for a file that cannot be read,
        and, after the block, for one that is not as it was when it was indexed.
        """
        if name not in self._stamps:
            yield
            return
        with self._locks[hash(name) % _LOCKS]:
            if name not in self._found:
                self._found[name] = audio.fingerprint(self.root / name)
        try:
            yield
        finally:  # also where it does not decode: the file that was indexed may
            self._require_same(name)

    def _require_same(self, name: str) -> None:
        path = self.root / name
        with files.reading(path):
            stamp = stamp_of(packed.status(path))
        if stamp != self._stamps[name]:
            self._found.pop(name, None)
            raise UserError(f"{path}: changed while the data set was being read. Run again.")

    def _hash(self, name: str) -> None:
        with self.hashing(name):
            pass

    def known(self, names: Iterable[str]) -> dict[str, str]:
        """Returns the fingerprints of some files, of those that are known."""
        return {name: self._found[name] for name in names if name in self._found}

    def update(self, found: Mapping[str, str]) -> None:
        """Takes fingerprints of these files that another process has found."""
        self._found |= {name: value for name, value in found.items() if name in self._stamps}

    def fingerprints(self, table: "pd.DataFrame", progress=None) -> list[str]:
        """Returns the fingerprints of a table's rows (N,); files that are not known are read.

        progress(iterable, total=n) wraps the files, as tqdm does. Errors are those of `hashing`.
        """
        names = table.file[[is_placeholder(cell) for cell in table.fingerprint]].unique()
        todo = [name for name in names.tolist() if name not in self._found]
        with ThreadPoolExecutor(_THREADS) as pool:
            done = pool.map(self._hash, todo)
            for _ in progress(done, total=len(todo)) if progress and todo else done:
                pass
        cells = zip(table.file.tolist(), table.fingerprint.tolist(), strict=True)
        return [self._found[name] if is_placeholder(cell) else cell for name, cell in cells]
