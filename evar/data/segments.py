"""Segments: rows of a table that are a part of a recording, from `start` to `end` in seconds.

A table without such rows has neither column. Otherwise both are there, and NaN where a row is the
whole file (both) or lasts until its end (`end`).
"""

import posixpath

import numpy as np
import pandas as pd

from evar.errors import UserError
from evar.files import printable

COLUMNS = ["start", "end"]
_DIGITS = 6  # of seconds: finer than a sample
_SLACK = 0.01  # seconds by which an end may lie behind the file's: tools round it


def are_in(table: pd.DataFrame) -> bool:
    """Returns whether a table has segments."""
    return "start" in table


def times_in(table: pd.DataFrame) -> list[str]:
    """Returns the columns of times that a table has."""
    return [column for column in COLUMNS if column in table]


def canonical(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """Returns the table with both columns as float, or neither where no row is a segment.

    Raises UserError that names the first row (from 1) whose times are impossible.
    """
    given = times_in(table)
    if not given:
        return table
    times = {c: _seconds(table, c, where) for c in COLUMNS}
    start, end = times["start"], times["end"]
    start = np.where(np.isnan(start) & ~np.isnan(end), 0.0, start)
    start = np.where((start == 0) & np.isnan(end), np.nan, start)  # it is the whole file
    for wrong, what in (
        (np.isinf(start) | (start < 0), "its start is not a time in the file"),
        (np.isinf(end) | (end <= start), "its end is not behind its start"),
    ):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise _wrong(where, table.file.iloc[row], row, f"{what} ({_span(start, end, row)})")
    table = table.drop(columns=given)
    if np.isnan(start).all():
        return table
    return table.assign(start=start, end=end)


def _seconds(table: pd.DataFrame, column: str, where: str) -> np.ndarray:
    """Returns a column in seconds (N,); NaN where it is blank or absent."""
    if column not in table:
        return np.full(len(table), np.nan)
    cells = table[column].replace("", np.nan)
    seconds = pd.to_numeric(cells, errors="coerce")
    wrong = np.flatnonzero((seconds.isna() & cells.notna()).to_numpy())
    if len(wrong):
        row = int(wrong[0])
        what = f"{column} {str(cells.iloc[row])!r} is no number of seconds"
        raise _wrong(where, table.file.iloc[row], row, what)
    return seconds.to_numpy(float).round(_DIGITS)


def _wrong(where: str, file: str, row: int, what: str) -> UserError:
    return UserError(f"{where}: row {row + 1}: {printable(str(file))}: {what}. Correct the table.")


def _span(start: np.ndarray, end: np.ndarray, row: int) -> str:
    if np.isnan(end[row]):
        return f"from {start[row]:g} s on"
    return f"{start[row]:g} to {end[row]:g} s"


def names(table: pd.DataFrame) -> pd.Series:
    """Returns what the clips of a table are called: their files, with the times of segments.

    These are written as W3C's media fragments: "a.wav#t=1.5,4" lasts from 1.5 to 4 s.
    """
    if not are_in(table):
        return table.file
    columns = (table[column].tolist() for column in ("file", *COLUMNS))
    return pd.Series(
        [name(*row) for row in zip(*columns, strict=True)],
        index=table.index,
        dtype=object,
    )


def name(file: str, start: float, end: float) -> str:
    """Returns what one clip is called; `start` is NaN for a whole file."""
    if np.isnan(start):
        return file
    return f"{file}#t={_number(start)}" + ("" if np.isnan(end) else f",{_number(end)}")


def _number(seconds: float) -> str:
    return np.format_float_positional(seconds, precision=_DIGITS, trim="-")


def cut(table: pd.DataFrame, where: str, given: pd.DataFrame) -> pd.DataFrame:
    """Returns an indexed table whose `frames` are those of the segments.

    `file_frames` has those of the files, in a table with segments. given: the table as it was
    read, whose rows a message counts. Raises UserError for a segment that ends behind its file.
    """
    if not are_in(table):
        return table
    rate, frames = table.sample_rate.to_numpy(float), table.frames.to_numpy(np.int64)
    start, end = table.start.to_numpy(float), table.end.to_numpy(float)
    length = frames / np.maximum(rate, 1)
    readable = (table.problem == "").to_numpy() & ~np.isnan(start)
    beyond = readable & ((start >= length) | (end > length + _SLACK))
    if beyond.any():
        row = int(np.flatnonzero(beyond)[0])
        what = f"{_span(start, end, row)} is beyond the file's end, at {length[row]:.3f} s"
        raise _wrong(where, table.file.iloc[row], _place(given, table.iloc[row]), what)
    first = np.round(np.nan_to_num(start) * rate).astype(np.int64)
    last = np.where(np.isnan(end), frames, np.round(np.nan_to_num(end) * rate).astype(np.int64))
    last = np.minimum(last, frames)
    own = np.where(readable, last - first, frames)
    return table.assign(frames=own, file_frames=frames)


def _place(given: pd.DataFrame, row: pd.Series) -> int:
    """Returns the place (from 0) that a row of the checked table has in the table as given."""
    files = given.file.astype(str).map(posixpath.normpath)
    wanted = name(row.file, row.start, row.end)
    times = canonical(given.assign(file=files), "")
    return int(np.flatnonzero(names(times) == wanted)[0])


def whole_files(table: pd.DataFrame) -> pd.DataFrame:
    """Returns an indexed table whose `frames` are those of the files."""
    return table.assign(frames=table.file_frames) if "file_frames" in table else table


def spans(table: pd.DataFrame) -> list[tuple[int, int] | None]:
    """Returns the span of every clip in frames; None for a whole file."""
    if not are_in(table):
        return [None] * len(table)
    columns = (table.start, table.sample_rate, table.frames)
    return [span(*row) for row in zip(*columns, strict=True)]


def span(start: float, sample_rate: int, frames: int) -> tuple[int, int] | None:
    """Returns the span of one clip in frames; None for a whole file (`start` is NaN)."""
    if np.isnan(start):
        return None
    first = int(np.round(start * sample_rate))
    return first, first + int(frames)
