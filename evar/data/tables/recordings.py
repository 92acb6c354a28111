"""Finds the recordings of a folder by the names that annotations give them."""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from evar import files
from evar.errors import UserError

_RAVEN = re.compile(r"\.table\.\d+(\.selections)?$|\.selections$", re.IGNORECASE)


class Recordings:
    """The sound files below a folder, by name: their paths relative to it, in POSIX form."""

    def __init__(self, folder: Path, names: Collection[str]):
        self.folder, self.names = folder, sorted(names)
        self._called, self._stems = defaultdict(list), defaultdict(list)
        for name in self.names:
            path = PurePosixPath(_alike(name))
            self._called[path.name].append(name)
            self._stems[path.stem].append(name)
            self._stems[path.name].append(name)  # rec.wav.txt is of rec.wav

    def find(self, cell: str) -> str:
        """Returns the recording that a cell of a table names, wherever the table was written.

        Of several files of that name it is the one whose folders are those of the cell. Raises
        UserError where there is none or more than one.
        """
        parts = _alike(cell.strip()).replace("\\", "/").split("/")
        named = self._called.get(parts[-1], [])
        if not named:
            raise UserError(f"no recording {files.printable(cell.strip())} in {self.folder}")
        common = {name: _common(parts, _alike(name).split("/")) for name in named}
        best = [name for name in named if common[name] == max(common.values())]
        if len(best) > 1:
            raise UserError(
                f"{files.printable(cell.strip())} may be {best[0]} or {best[1]} in {self.folder}: "
                "name its folder too"
            )
        return best[0]

    def of_file(self, path: Path) -> str:
        """Returns the recording that a file of annotations belongs to, by its name.

        `rec.TextGrid`, `rec.txt` and Raven's `rec.Table.1.selections.txt` are of `rec.wav`. Raises
        UserError where there is none or more than one.
        """
        stem = _RAVEN.sub("", path.stem)
        named = list(dict.fromkeys(self._stems.get(_alike(stem), [])))
        if len(named) > 1:
            folder = os.path.relpath(path.parent, self.folder)
            same = [n for n in named if str(PurePosixPath(n).parent) == folder.replace("\\", "/")]
            named = same or named
        if not named and len(self.names) == 1:
            return self.names[0]
        if len(named) != 1:
            found = " and ".join(named[:2]) if named else "none"
            raise UserError(
                f"{path}: which recording is it of? {found} in {self.folder} has its name "
                f"({stem}.*). Name it like the recording."
            )
        return named[0]


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _common(one: list[str], other: list[str]) -> int:
    """Counts the parts in which two paths end alike."""
    ends = zip(reversed(one), reversed(other), strict=False)
    return next((i for i, (a, b) in enumerate(ends) if a != b), min(len(one), len(other)))
