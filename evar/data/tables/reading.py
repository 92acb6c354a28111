"""Reads a table of clips: its dialect, its columns, and every cell in the form that tasks need."""

import os
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from evar import files
from evar.data.tables import numbers
from evar.data.tables.dialect import Cells, read_cells, trimmed
from evar.data.tables.headers import Head, meaning, understand
from evar.errors import UserError

ENDINGS = (".csv", ".tsv", ".xlsx")
TIMES = ("start", "end")
_SPLITS = {"training": "train", "val": "valid", "validation": "valid", "testing": "test"}


@dataclass(frozen=True)
class Table:
    """A table of clips as it was understood.

    frame: one row a clip, the columns those of `headers.COLUMNS` that are there; start and end
    are seconds (float64, NaN for whole files), all others texts. titles: of all columns, as they
    are in the file. notes: what was understood, as phrases; empty for a CSV in our own dialect.
    """

    frame: pd.DataFrame
    titles: tuple[str, ...]
    notes: tuple[str, ...]


def is_table(name: str) -> bool:
    """Returns whether a word on a command line names a table rather than a registered task."""
    return name.lower().endswith(ENDINGS)


def read_cells_of(path, *, sheet: str | None = None) -> Cells:
    """Returns the cells of a table without empty rows and columns; UserError for what is none."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file (TASK is a name or the path of a CSV)")
    cells = read_cells(path, lambda cell: bool(meaning(cell)), sheet=sheet)
    if not cells.rows:
        raise UserError(f"{path}: not a CSV: it is empty")
    return _without_empty_columns(cells)


def read_head(
    path, *, chosen: Mapping[str, str] | None = None, sheet: str | None = None
) -> tuple[Cells, Head]:
    """Returns the cells of a table and the meaning of its columns; the first row is the head."""
    cells = read_cells_of(path, sheet=sheet)
    return cells, understand(cells.rows[0], path, chosen=chosen)


def read_table(
    path,
    *,
    blank: Collection[str] = (),
    chosen: Mapping[str, str] | None = None,
    sheet: str | None = None,
) -> Table:
    """Returns the table of clips in a CSV, a TSV or a workbook, in any dialect of spreadsheets.

    Files are relative to the table's folder. blank: columns in which cells may be empty. chosen:
    titles of columns by what they mean. sheet: of a workbook.
    Raises UserError that names the line for what is missing, ambiguous or leads elsewhere.
    """
    path = Path(path)
    cells, head = read_head(path, chosen=chosen, sheet=sheet)
    root = path.parent.resolve()
    return table_of(path, cells, head, lambda name: _below(root, name), blank=blank)


def table_of(
    path: Path,
    cells: Cells,
    head: Head,
    find: Callable[[str], str],
    *,
    blank: Collection[str] = (),
) -> Table:
    """Returns the table that cells hold, the first row of which is the head.

    find: returns the file that a cell names, or raises UserError; other arguments and errors are
    those of `read_table`.
    """
    titles, raw, lines = cells.rows[0], cells.rows[1:], cells.lines[1:]
    for row, line in zip(raw, lines, strict=True):
        if len(row) > len(titles):
            raise UserError(f"{path}: line {line} has {len(row)} cells, not {len(titles)}")
        row.extend([""] * (len(titles) - len(row)))
    if not raw:
        raise UserError(f"{path}: lists no clips")
    where = [f"{path}: line {line}" for line in lines]
    rows = trimmed(raw)
    columns = {name: [row[at] for row in rows] for name, at in head.at.items()}
    _require_filled(where, columns, {*blank, *TIMES})
    notes = [*cells.notes, *head.notes]
    if "split" in columns:
        columns["split"], said = splits(columns["split"])
        notes += said
    if "file" in columns:
        columns["file"] = _files([row[head.at["file"]] for row in raw], where, find)
    frame = with_times(pd.DataFrame(columns, dtype=str), where, cells.separator)
    return Table(frame, tuple(title.strip() for title in titles), tuple(notes))


def _without_empty_columns(cells: Cells) -> Cells:
    """Leaves out columns without a title and without a cell, as spreadsheets write them."""
    width = len(cells.rows[0])
    empty = {i for i in range(width) if not any(r[i].strip() for r in cells.rows if len(r) > i)}
    if not empty:
        return cells
    rows = [[cell for i, cell in enumerate(row) if i not in empty] for row in cells.rows]
    return Cells(rows, cells.lines, cells.separator, cells.notes)


def _require_filled(where: Sequence[str], columns: Mapping, blank: set[str]) -> None:
    for at, place in enumerate(where):
        for name, values in columns.items():
            if not values[at] and name not in blank:
                mark = " (a clip without any of several labels is written '-')"
                raise UserError(f"{place} has no {name}{mark * (name == 'label')}")


def splits(values: list[str]) -> tuple[list[str], list[str]]:
    """Returns splits in our words (Training is train, val is valid), and what to say of it."""
    small = {value: value.casefold() for value in set(values)}
    meant = {value: _SPLITS.get(word, word) for value, word in small.items()}
    meant = {v: m if m in ("train", "valid", "test") else v for v, m in meant.items()}
    said = sorted(f"the split {value!r} is {new}" for value, new in meant.items() if value != new)
    return [meant[value] for value in values], said


def _files(names: list[str], where: Sequence[str], find: Callable[[str], str]) -> list[str]:
    found: list[str] = []
    last: tuple[str | None, str] = (None, "")
    for name, place in zip(names, where, strict=True):
        try:
            last = last if last[0] == name else (name, find(name))
        except UserError as error:
            raise UserError(f"{place}: {error}") from error
        found.append(last[1])
    return found


def _below(root: Path, cell: str) -> str:
    name = as_on_disk(root, cell)
    if problem := files.path_problem(name):
        raise UserError(f"{files.printable(name)}: {problem}")
    return name


def as_on_disk(root: Path, cell: str) -> str:
    """Returns a file's name relative to `root` in the spelling that is there.

    Spellings that are hard to tell apart are blanks around the name, backslashes of Windows,
    Unicode's forms NFC and NFD (macOS), and the absolute path of a file in that folder. Of a file
    that is not there, or not below the folder, the name is returned without the blanks.
    """
    name = cell.strip()
    if os.path.isabs(name):  # noqa: PTH117  (100,000 times)
        name = cell = _relative(root, name)
    if files.path_problem(name):
        return name
    forms = {unicodedata.normalize(form, name) for form in ("NFC", "NFD")}
    forms |= {form.replace("\\", "/") for form in forms}
    others = [*{cell, *forms} - {name}]
    if others and not (root / name).exists():  # else: the usual case, without a look at the disk
        others = [other for other in sorted(others) if not files.path_problem(other)]
        return next((other for other in others if (root / other).exists()), name)
    return name


def _relative(root: Path, name: str) -> str:
    """The path below `root` of an absolute one, also where links lead there; else the same."""
    for path in (Path(name), Path(os.path.realpath(name))):
        for top in (root, Path(os.path.realpath(root))):
            if path.is_relative_to(top) and ".." not in path.parts:
                return path.relative_to(top).as_posix()
    return name


def with_times(frame: pd.DataFrame, where: Sequence[str], separator: str = "") -> pd.DataFrame:
    """Returns a table of texts with start and end in seconds; without both where no row has any.

    where: of each row, what an error says. Raises UserError for what is no segment.
    """
    there = [name for name in TIMES if name in frame]
    if not any((frame[name] != "").any() for name in there):
        return frame.drop(columns=there)
    if len(there) == 1:
        other = "end" if there == ["start"] else "start"
        what = f"a segment needs start and end (seconds); there is no {other}"
        raise UserError(f"{where[0]}: {what}")
    times = {name: numbers.seconds(frame[name].tolist(), where, name, separator) for name in TIMES}
    frame = frame.assign(**{name: pd.Series(times[name], frame.index, float) for name in TIMES})
    check_times(frame, where)
    return frame


def check_times(frame: pd.DataFrame, where: Sequence[str]) -> None:
    """Refuses rows but those with 0 <= start < end, or neither; `where` says where each is."""
    start, end = frame.start.to_numpy(float), frame.end.to_numpy(float)
    whole = pd.isna(start) & pd.isna(end)
    for at in (
        (~(whole | ((start >= 0) & (start < end) & (end < float("inf"))))).nonzero()[0].tolist()
    ):
        raise UserError(
            f"{where[at]}: start {start[at]:g}, end {end[at]:g}: a segment begins at 0 s or later "
            "and ends after its beginning (both empty: the whole file)"
        )
