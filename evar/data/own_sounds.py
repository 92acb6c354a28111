"""Turns a user's own sounds into a task: one CSV, no code."""

import csv
import hashlib
import os
import posixpath
import unicodedata
from pathlib import Path

import pandas as pd

from evar import files
from evar.errors import UserError, unknown
from evar.task import SPLITS, Task
from evar.task import names as task_names

COLUMNS = ("file", "label", "split", "fold", "group", "caption")
UNKNOWN = "?"  # the label of a clip of which nothing is known
SOUNDS = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au")
LONGEST = 10.0  # seconds; a unit longer than that must be asked for
SMALL = 500  # training clips below which the usual learning rate would need more than 200 epochs
SMALL_LR = 1e-2


def has_captions(path) -> bool:
    """Returns whether a CSV describes a retrieval task: it has captions and no labels."""
    with Path(path).open(encoding="utf-8-sig", errors="replace") as file:
        head = [cell.strip() for cell in file.readline().split(",")]
    return "caption" in head and "label" not in head


def is_csv(name: str) -> bool:
    """Returns whether TASK on a command line is a CSV rather than a registered name."""
    return name.lower().endswith(".csv")


def task_from_csv(path, *, seconds: float | None = None) -> Task:
    """Returns the task that a CSV describes: columns file, label, split or fold, perhaps group.

    Files are relative to the folder of the CSV. A label with "," makes the task multi-label; "-" is
    then a clip without any of the labels.
    `seconds` is the unit length; None takes the longest clip, at most 10 s, when clips are indexed
    (no sound file is opened here). Sets of less than 500 training clips are probed at a learning
    rate of 1e-2. Raises UserError for a file that is no such table.
    """
    path = Path(path)
    return _task_of(
        _read(path),
        path.resolve().parent,
        name=path.name if path.stem in task_names() else path.stem,  # never a published task's
        title=str(path),
        marker=path.name,
        seconds=seconds,
    )


def task_from_table(table: pd.DataFrame, *, seconds: float | None = None) -> Task:
    """Returns the task that a pandas table describes; its columns are those of a CSV.

    Files are absolute, or relative to the current folder. Raises UserError for a table that lacks
    a column, or whose files have no folder in common.
    """
    if not isinstance(table, pd.DataFrame):
        raise UserError(
            f"{table!r} is no task: give a name, the path of a CSV, an evar.Task or a pandas table"
        )
    table = table.fillna("").astype(str)
    checked = _checked(table[[c for c in table.columns if c in COLUMNS]], "the table")
    if not len(checked):
        raise UserError("the table lists no clips")
    paths = [Path(file).absolute() for file in checked.file]
    try:
        root = Path(os.path.commonpath([path.parent for path in paths]))
    except ValueError as error:
        raise UserError(f"the table's files have no folder in common ({error})") from error
    checked["file"] = [path.relative_to(root).as_posix() for path in paths]
    name = root.name or "table"
    name = f"{name}_table" if name in task_names() else name  # never a published task's
    return _task_of(checked, root, name=name, title="a table", marker=".", seconds=seconds)


def _task_of(
    table: pd.DataFrame, root: Path, *, name: str, title: str, marker: str, seconds: float | None
) -> Task:
    column = "fold" if "fold" in table else "split"
    folds = tuple(sorted(table.fold.unique())) if column == "fold" else ()
    multi_label = bool(table.label.str.contains(",").any())
    training = len(table) if folds else int((table.split == "train").sum())
    return Task(
        name=name,
        version="1",
        title=title,
        metadata=title,
        read=lambda _: table,
        marker=marker,
        seconds=seconds,
        longest=LONGEST,
        lr=SMALL_LR if training < SMALL else None,
        trains=bool(folds) or set(table.split) != {"test"},
        kind="tagging" if multi_label else "classification",
        folds=folds,
        group="group" if "group" in table else "",
        bundled=root,
    )


def captions_from_csv(path) -> Task:
    """Returns the retrieval task that a CSV describes: columns file, caption and optionally split.

    What else such a CSV may have (label, fold, group) is left aside, as captions are elsewhere.

    A file may have several captions, a row each. Only the split "test" is scored; without the
    column every clip is in it. Raises UserError for a file that is no such table.
    """
    path = Path(path)
    table = _rows(path, aside=("label", "fold", "group"))
    missing = [column for column in ("file", "caption") if column not in table]
    if missing:
        raise UserError(
            f"{path}: needs the columns file and caption, and perhaps split ({', '.join(SPLITS)}); "
            f"it has {', '.join(table.columns)}"
        )
    table = table.assign(file=table.file.map(posixpath.normpath))  # ./a is a
    twice = table[table.duplicated()]
    if len(twice):
        row = twice.iloc[0]
        raise UserError(f"{path}: {row.file} has the caption {row.caption!r} twice. Remove one.")
    if "split" not in table:
        table = table.assign(split="test")
    table = table[["file", "caption", "split"]]
    clips = table[["file", "split"]].drop_duplicates().assign(label="")
    return Task(
        name=path.name if path.stem in task_names() else path.stem,
        version="1",
        title=str(path),
        metadata=str(path),
        read=lambda _: clips,
        read_captions=lambda _: table,
        marker=path.name,
        seconds=None,
        kind="retrieval",
        bundled=path.resolve().parent,
    )


def task_from_sounds(path) -> Task:
    """Returns a task of unlabelled test clips: a sound file, or all sounds below a folder."""
    path = Path(path)
    root = path.resolve()
    if root.is_dir():
        found = sorted(p for p in root.rglob("*") if p.suffix.lower() in SOUNDS and p.is_file())
    else:
        found, root = [root], root.parent
    if not found:
        raise UserError(f"{path}: no sound files there ({', '.join(SOUNDS)})")
    names = [p.relative_to(root).as_posix() for p in found]
    table = pd.DataFrame({"file": names, "label": UNKNOWN, "split": "test"})
    return Task(
        name=path.resolve().name,
        version="1",
        title=str(path),
        metadata=str(path),
        read=lambda _: table,
        marker=names[0],
        seconds=None,
        trains=False,
        bundled=root,
    )


def manifest_name(path) -> str:
    """Returns a name for the manifest of a CSV or a folder that no other one has."""
    resolved = str(Path(path).resolve())
    return f"csv-{Path(path).stem}-{hashlib.sha256(resolved.encode()).hexdigest()[:8]}"


def _read(path: Path) -> pd.DataFrame:
    return _checked(_rows(path, aside=("group", "caption")), path)


def _checked(table: pd.DataFrame, where) -> pd.DataFrame:
    """Returns the table with trimmed labels; UserError for one that lacks a column."""
    head = list(table.columns)
    missing = [c for c in ("file", "label") if c not in head]
    if missing or ("split" in head) == ("fold" in head):
        raise UserError(
            f"{where}: needs the columns file, label and split ({', '.join(SPLITS)}) or fold, each "
            f"once; it has {', '.join(head)}"
        )
    parts = table.label.str.split(",").map(lambda labels: [p.strip() for p in labels])
    return table.assign(label=parts.map(lambda labels: ",".join(p for p in labels if p)))


def _rows(path: Path, aside: tuple[str, ...]) -> pd.DataFrame:
    """Returns the table in a CSV with a head of COLUMNS; only those `aside` may be blank."""
    if not path.is_file():
        raise UserError(f"{path}: no such file (TASK is a name or the path of a CSV)")
    try:
        with files.reading(path), path.open(newline="", encoding="utf-8-sig") as file:
            raw = list(csv.reader(file, strict=True))
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: not a CSV in UTF-8 ({error})") from error
    lines = [[cell.strip() for cell in row] for row in raw]
    head, *rows = lines or [[]]
    if not head:
        raise UserError(f"{path}: not a CSV: it is empty")
    for column in head:
        if column not in COLUMNS:
            what = unknown(f"column in {path}:", column, COLUMNS)
            raise UserError(f"{what}. Rename or remove it; cells are separated by commas.")
    if len(set(head)) < len(head):
        raise UserError(f"{path}: needs each column once; it has {', '.join(head)}")
    for number, row in enumerate(rows, start=2):
        if row and len(row) > len(head):
            raise UserError(f"{path}: line {number} has {len(row)} cells, not {len(head)}")
        row.extend([""] * (len(head) - len(row)) if row else [])
        for column, cell in zip(head, row, strict=False):
            if not cell and column not in aside:
                mark = " (a clip without any of several labels is written '-')"
                hint = mark if column == "label" else ""
                raise UserError(f"{path}: line {number} has no {column}{hint}")
        if row and "file" in head:
            at = head.index("file")
            row[at] = _as_on_disk(path.resolve().parent, raw[number - 1][at])
            if problem := files.path_problem(row[at]):
                shown = files.printable(row[at])
                raise UserError(f"{path}: line {number}: {shown}: {problem}")
    table = pd.DataFrame([row for row in rows if row], columns=head, dtype=str)
    if table.empty:
        raise UserError(f"{path}: lists no clips")
    return table


def _as_on_disk(root: Path, cell: str) -> str:
    """Returns a file's name in the spelling that is there, of those that are hard to tell apart.

    These are blanks around it, backslashes of Windows, and Unicode's forms NFC and NFD (macOS).
    Of a file that is not there, or above the folder, the name is returned without the blanks.
    """
    name = cell.strip()
    if files.path_problem(name):
        return name
    forms = {unicodedata.normalize(form, name) for form in ("NFC", "NFD")}
    others = [*{cell, name.replace("\\", "/"), *forms} - {name}]
    if others and not (root / name).exists():  # else: the usual case, without a look at the disk
        return next((other for other in others if (root / other).exists()), name)
    return name
