"""Reads sounds that lie in larger files: members of tar shards and rows of Parquet files.

A packed sound has a path like any other: the file that holds it, then its place in there, such as
"train-000.tar/dog/17.flac" (WebDataset) or "train-0000.parquet/audio/000017" (column and row).
Millions of clips need not be millions of files; decoding, hashing and every check are the same.
"""

import io
import os
import re
from functools import cached_property
from pathlib import Path

from evar.data.packed import parquet, tar

_FORMATS = {".tar": tar, ".parquet": parquet}
ENDINGS = tuple(_FORMATS)
_ENDING = re.compile(r"\.(?:tar|parquet)(?=[/\\])", re.IGNORECASE)  # of ENDINGS, before a separator


def split(path) -> tuple[Path, str] | None:
    """Returns the file that holds a packed sound and its name in there; None for a plain file."""
    text = str(path)
    for ending in _ENDING.finditer(text):
        if os.path.isfile(text[: ending.end()]):  # noqa: PTH113  (300,000 times)
            return Path(text[: ending.end()]), text[ending.end() + 1 :].replace("\\", "/")
    return None


class Sound:
    """A packed sound, with what a path of a plain file offers to those who read it."""

    def __init__(self, path: Path, shard: Path, member: str):
        self._path, self._shard, self._member = path, shard, member
        self.name, self.suffix = path.name, path.suffix

    def __str__(self) -> str:
        return str(self._path)

    def __fspath__(self) -> str:
        return str(self._path)

    @cached_property
    def _content(self) -> bytes:
        return _FORMATS[self._shard.suffix.lower()].read(self._shard, self._member)

    def read_bytes(self) -> bytes:
        """Returns the sound file's bytes.

        Raises Damaged for a damaged shard, FileNotFoundError for a member that is not there,
        UserError where a package is missing, OSError where the disk fails.
        """
        return self._content

    def open(self, mode: str = "rb") -> io.BytesIO:
        """Opens the sound file; raises what `read_bytes` does."""
        return io.BytesIO(self._content)

    def exists(self) -> bool:
        """Returns whether the shard has it; raises Damaged or OSError for a broken one."""
        try:
            return self._content is not None
        except FileNotFoundError:
            return False

    is_file = exists

    def stat(self) -> os.stat_result:
        """Returns size and times of the shard."""
        return self._shard.stat()


def locate(path) -> "Path | Sound":
    """Returns a packed sound, or the path of a plain file."""
    if isinstance(path, Sound):
        return path
    path = Path(path)
    found = split(path)
    return path if found is None else Sound(path, *found)


def status(path) -> os.stat_result:
    """Returns the size and times of a file; of a packed sound those of its shard."""
    try:
        return os.stat(path)  # noqa: PTH116  (300,000 times)
    except NotADirectoryError:
        return locate(path).stat()


def size(path: "Path | Sound") -> int:
    """Returns the bytes of a sound file, packed or not."""
    return len(path.read_bytes()) if isinstance(path, Sound) else path.stat().st_size
