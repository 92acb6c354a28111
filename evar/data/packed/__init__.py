"""Reads sounds that lie in larger files: members of tar shards and rows of Parquet files.

A packed sound has a path like any other: the file that holds it, then its place in there, such as
"train-000.tar/dog/17.flac" (WebDataset) or "train-0000.parquet/audio/000017" (column and row).
Millions of clips need not be millions of files; decoding, hashing and every check are the same.
"""

import os
from pathlib import Path

from evar.data.packed import parquet, tar

_FORMATS = {".tar": tar, ".parquet": parquet}


def split(path) -> tuple[Path, str] | None:
    """Returns the file that holds a packed sound and its name in there; None for a plain file."""
    text = str(path)
    lower = text.lower().replace("\\", "/")
    for ending in _FORMATS:
        at = lower.find(f"{ending}/")
        while at >= 0:
            end = at + len(ending)
            if os.path.isfile(text[:end]):  # noqa: PTH113  (300,000 times)
                return Path(text[:end]), text[end + 1 :].replace("\\", "/")
            at = lower.find(f"{ending}/", end)
    return None


def read(path) -> bytes | None:
    """Returns the bytes of a packed sound; None for a plain file.

    Raises Damaged for a shard that is damaged, FileNotFoundError for a member that is not there,
    UserError where a package is missing, OSError where the disk fails.
    """
    found = split(path)
    if found is None:
        return None
    shard, member = found
    return _FORMATS[shard.suffix.lower()].read(shard, member)


def status(path) -> os.stat_result:
    """Returns the size and times of a file; of a packed sound those of the file that holds it."""
    try:
        return os.stat(path)  # noqa: PTH116  (300,000 times)
    except NotADirectoryError:
        if (found := split(path)) is None:
            raise
        return os.stat(found[0])  # noqa: PTH116
