"""Reads sounds from Parquet files in the layout of Hugging Face's datasets.

There a sound is a struct of `bytes` (the sound file's content) and `path`, one per row; the types
of the columns stand as JSON in the file's own metadata.
"""

import json
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np

from evar.data.containers.stream import Damaged
from evar.errors import UserError

_FILES = 64  # open at once
_GROUPS = 4  # row groups in memory; writers make them about 100 MB of sound at most


def read(shard: Path, member: str) -> bytes:
    """Returns the bytes of the sound "COLUMN/ROW".

    Raises FileNotFoundError for a column or row that is not there, Damaged for a file that is
    damaged or a row without bytes, UserError without pyarrow.
    """
    column, _, row = member.rpartition("/")
    file = open_file(shard)
    known = column in file.columns and row.isdecimal() and int(row) < file.rows
    if not known or row != name_of(int(row), file.rows):  # one sound has one name
        raise FileNotFoundError(2, "no such column or row", f"{shard}/{member}")
    content = file.sound(column, int(row))
    if not content:
        raise Damaged(f"{shard.name} holds no bytes in this row")
    return content


def name_of(row: int, rows: int) -> str:
    """Returns how a row is written: all of a file with equally many digits, so that they sort."""
    return f"{row:0{len(str(rows))}}"


def open_file(shard: Path) -> "File":
    """Returns a Parquet file, opened once. Raises Damaged, UserError or OSError."""
    state = shard.stat()
    return _open(shard, state.st_size, state.st_mtime_ns, state.st_ctime_ns)


@lru_cache(maxsize=_FILES)
def _open(shard: Path, *stamp: int) -> "File":
    return File(shard)


class File:
    """An open Parquet file: its columns, and the sounds of any row.

    columns: names of the columns that hold sounds. rows: how many. features: what the datasets
    library noted of each column ({} where another library wrote the file).
    """

    def __init__(self, path: Path):
        arrow, parquet = _pyarrow()
        try:
            self._file = parquet.ParquetFile(path)
            schema = self._file.schema_arrow
            counts = [
                self._file.metadata.row_group(group).num_rows
                for group in range(self._file.num_row_groups)
            ]
        except (arrow.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise Damaged(f"{path.name} is damaged or no Parquet file ({_first(error)})") from error
        self.path, self.rows = path, sum(counts)
        self.names = tuple(schema.names)
        self.columns = tuple(n for n in schema.names if _holds_sound(arrow, schema.field(n).type))
        self.features = _features(schema.metadata or {})
        self._ends = np.cumsum(counts)  # of row groups, in rows
        self._groups: OrderedDict[tuple[str, int], object] = OrderedDict()
        self._lock = Lock()  # a group is read once, by one thread, whatever asks for it

    def sound(self, column: str, row: int) -> bytes | None:
        """Returns the bytes of one row's sound; None where there are none."""
        group = int(np.searchsorted(self._ends, row, side="right"))
        first = int(self._ends[group - 1]) if group else 0
        return self._group(column, group)[row - first].as_py()

    def values(self, column: str) -> list:
        """Returns a column without sounds, such as labels, as Python objects."""
        return self._read(lambda: self._file.read(columns=[column]).column(column).to_pylist())

    def _group(self, column: str, group: int):
        with self._lock:
            key = (column, group)
            if key not in self._groups:
                self._groups[key] = self._read(lambda: self._bytes_of(column, group))
                while len(self._groups) > _GROUPS:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(key)
            return self._groups[key]

    def _bytes_of(self, column: str, group: int):
        arrow, _ = _pyarrow()
        table = self._file.read_row_group(group, columns=[f"{column}.bytes"])
        return arrow.compute.struct_field(table.column(column), "bytes")

    def _read(self, function):
        arrow, _ = _pyarrow()
        try:
            return function()
        except (arrow.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise Damaged(f"{self.path.name} is damaged ({_first(error)})") from error


def _pyarrow():
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "Parquet files need pyarrow: install it with pip install 'evar[parquet]'"
        ) from error
    return pyarrow, pyarrow.parquet


def _holds_sound(arrow, kind) -> bool:
    types = arrow.types
    if not types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    content = kind.field("bytes").type
    return types.is_binary(content) or types.is_large_binary(content)


def _features(metadata: dict[bytes, bytes]) -> dict[str, dict]:
    """Returns the datasets library's types of the columns; {} where the note cannot be read."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return {k: v for k, v in features.items() if isinstance(v, dict)}


def _first(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
