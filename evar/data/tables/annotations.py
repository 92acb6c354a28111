"""Reads annotations of recordings: of Raven, Audacity and Praat, in JSON and in tables."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from evar import files
from evar.data.tables import numbers, raven, reading, textgrid
from evar.data.tables.dialect import Cells, read_text
from evar.data.tables.headers import COLUMNS, meaning, understand
from evar.data.tables.recordings import Recordings
from evar.errors import UserError

_SUFFIXES = (*reading.ENDINGS, ".txt", ".textgrid", ".json")
_AUDACITY = re.compile(r"\s*[\d.,]+\t[\d.,]+(\t.*)?")


@dataclass(frozen=True)
class Wishes:
    """What a person chose where annotations can be read in more than one way.

    columns: titles by name in COLUMNS (--column). tier: of a TextGrid. sheet: of a workbook.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    tier: str | None = None
    sheet: str | None = None


@dataclass(frozen=True)
class Annotations:
    """What annotations say: `frame` has file, label, perhaps start and end (seconds), and more.

    unlabelled: intervals without a text, which are left out. points: labels without a length,
    also left out. files: those that were read; strange: those that are no annotations. notes: what
    was understood.
    """

    frame: pd.DataFrame
    unlabelled: int
    points: int
    files: tuple[Path, ...]
    strange: tuple[str, ...]
    notes: tuple[str, ...]


def read_annotations(path, recordings: Recordings, wishes: Wishes | None = None) -> Annotations:
    """Returns the annotations in a file, or in all files of a folder.

    Raises UserError for what is missing or can be read in more than one way.
    """
    path, wishes = Path(path), wishes or Wishes()
    if not path.exists():
        raise UserError(f"{path}: no such file or folder (--labels)")
    found = _files(path)
    parts, strange, used, notes = [], [], [], {}
    for each in found:
        kind = _kind(each)
        if kind is None and path.is_dir():
            strange.append(each.name)
            continue
        if kind is None:
            raise UserError(
                f"{path}: neither a table with a head, nor labels of Audacity, Raven or Praat"
            )
        frame, said = kind(each, recordings, wishes)
        parts.append(frame)
        used.append(each)
        notes.update(dict.fromkeys(said, each.name))
    if not parts:
        raise UserError(f"{path}: no annotations there ({', '.join(_SUFFIXES)})")
    parts = [part for part in parts if len(part)] or parts[:1]
    _require_columns(path, parts)
    frame = pd.concat(parts, ignore_index=True)
    unlabelled = frame.label.str.strip() == ""
    points = (frame.start == frame.end) & ~unlabelled if "start" in frame else unlabelled & False
    kept = frame[~unlabelled & ~points].reset_index(drop=True)
    if "start" in kept:
        reading.check_times(kept, [f"{path}: {file}" for file in kept.file])
    said = tuple(f"{note} ({name})" if len(found) > 1 else note for note, name in notes.items())
    return Annotations(
        kept, int(unlabelled.sum()), int(points.sum()), tuple(used), tuple(strange), said
    )


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = (p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    return sorted(p for p in found if not any(x.startswith(".") for x in p.relative_to(path).parts))


def _require_columns(path: Path, parts: list[pd.DataFrame]) -> None:
    for column in ("start", "split", "fold", "group"):
        if len({column in part for part in parts}) > 1:
            raise UserError(f"{path}: some of its files have the column {column}, others do not")


def _kind(path: Path):
    """Returns the function that reads a file, or None for what is no file of annotations."""
    suffix = path.suffix.lower()
    if suffix == ".textgrid":
        return _of_praat
    if suffix == ".json":
        return _of_json
    if suffix == reading.ENDINGS[-1]:
        return _of_table
    text, _ = read_text(path)
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("\\")]
    if lines and _AUDACITY.fullmatch(lines[0]):
        return _of_audacity
    words = re.split(r"[,;\t]", lines[0]) if lines else []
    known = {meaning(word.strip().strip('"')) for word in words} - {""}
    return _of_table if known or suffix in reading.ENDINGS else None


def _of_praat(path: Path, recordings: Recordings, wishes: Wishes):
    intervals, notes = textgrid.intervals_of(path, wishes.tier)
    return _frame(recordings.of_file(path), intervals), notes


def _of_audacity(path: Path, recordings: Recordings, wishes: Wishes):
    """Start, end and label, separated by tabs; a line with a backslash has frequencies."""
    text, notes = read_text(path)
    rows, where = [], []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("\\"):
            continue
        if not _AUDACITY.fullmatch(line):
            raise UserError(f"{path}: line {number} is no label of Audacity: start, end, text")
        rows.append([cell.strip() for cell in (line + "\t").split("\t", 2)])
        where.append(f"{path}: line {number}")
    start = numbers.seconds([row[0] for row in rows], where, "start", ";")
    end = numbers.seconds([row[1] for row in rows], where, "end", ";")
    labels = [" ".join(row[2].split()) for row in rows]
    return _frame(recordings.of_file(path), list(zip(start, end, labels, strict=True))), notes


def _frame(file: str, intervals: list) -> pd.DataFrame:
    frame = pd.DataFrame(intervals, columns=["start", "end", "label"])
    return frame.astype({"start": float, "end": float, "label": str}).assign(file=file)


def _of_json(path: Path, recordings: Recordings, wishes: Wishes):
    """A list of objects, alone or as the only list of an object; or such a list by file."""
    try:
        with files.reading(path):
            content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if isinstance(content, dict):
        lists = {key: value for key, value in content.items() if isinstance(value, list)}
        if len(lists) == len(content) and not (len(lists) == 1 and _names_files(lists)):
            content = [{"file": k, **_object(path, e)} for k, each in lists.items() for e in each]
        else:
            content = next(iter(lists.values())) if len(lists) == 1 else None
    if not isinstance(content, list) or not content:
        raise UserError(f"{path}: needs a list of objects with start, end, label (and file)")
    entries = [_object(path, each) for each in content]
    titles = list(dict.fromkeys(key for entry in entries for key in entry))
    rows = [[_text(entry.get(title)) for title in titles] for entry in entries]
    cells = Cells([titles, *rows], list(range(len(rows) + 1)), "")
    return _of_cells(path, cells, recordings, wishes)


def _names_files(lists: Mapping[str, list]) -> bool:
    """Whether the entries of the only list say their file: then its key is only a heading."""
    (entries,) = lists.values()
    first = entries[0] if entries and isinstance(entries[0], dict) else {}
    return any(meaning(str(key)) == "file" for key in first) or "." not in next(iter(lists))


def _object(path: Path, entry) -> dict:
    if not isinstance(entry, dict):
        raise UserError(f"{path}: {entry!r} is no object with start, end and label")
    return entry


def _text(value) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def _of_table(path: Path, recordings: Recordings, wishes: Wishes):
    cells = reading.read_cells_of(path, sheet=wishes.sheet)
    return _of_cells(path, cells, recordings, wishes)


def _of_cells(path: Path, cells: Cells, recordings: Recordings, wishes: Wishes):
    columns = dict(wishes.columns)
    notes: list[str] = []
    if raven.is_raven(cells.rows[0]):
        cells, columns, notes = raven.as_table(path, cells, columns)
    head = understand(cells.rows[0], path, chosen=columns)
    if len(cells.rows) == 1:  # a recording in which nothing was found
        return _frame("", []), [f"{path.name} has no rows"]
    table = reading.table_of(path, cells, head, recordings.find, blank=set(COLUMNS) - {"file"})
    frame = table.frame
    if "label" not in frame:
        raise UserError(
            f"{path}: no column of labels among {', '.join(table.titles)} (--column=TITLE names it)"
        )
    if "file" not in frame:
        frame = frame.assign(file=recordings.of_file(path))
    notes += [n for n in table.notes if not (notes and n.startswith(("left aside", "cells")))]
    return frame.drop(columns="caption", errors="ignore"), notes
