"""Turns a user's own sounds into a task: one CSV, no code."""

import hashlib
import os
import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from evar.data import packed, tracks
from evar.data.manifest import Manifest
from evar.data.tables import advice, reading
from evar.data.tables.folder import list_sounds
from evar.data.tables.headers import COLUMNS
from evar.errors import UserError
from evar.task import SPLITS, Task
from evar.task import names as task_names

UNKNOWN = "?"  # the label of a clip of which nothing is known
SOUNDS = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au"),
    *tracks.SUFFIXES,
)
LONGEST = 10.0  # seconds; a unit longer than that must be asked for
SMALL = 500  # training clips below which the usual learning rate would need more than 200 epochs
SMALL_LR = 1e-2


def has_captions(path) -> bool:
    """Returns whether a CSV describes a retrieval task: it has captions and no labels."""
    _, head = reading.read_head(path)
    return "caption" in head.at and "label" not in head.at


def is_csv(name: str) -> bool:
    """Returns whether TASK on a command line is a CSV (.tsv, .xlsx), not a registered name."""
    return reading.is_table(name)


def usual_results(task: str = "") -> Path:
    """Returns where results are by default: $EVAR_RESULTS, else beside a user's own table.

    Of any other task they are in results/.
    """
    if named := os.environ.get("EVAR_RESULTS"):
        return Path(named)
    return Path(task).parent / "results" if task and is_csv(task) else Path("results")


def name_of(path) -> str:
    """Returns the name of the task of a CSV, never that of a published one."""
    path = Path(path)
    return path.name if path.stem in task_names() else path.stem


def clips_in(path) -> int:
    """Returns how many clips a CSV lists, without a look at them."""
    cells, _ = reading.read_head(path)
    return len(cells.rows) - 1


def task_from_csv(path, *, seconds: float | None = None) -> Task:
    """Returns the task that a CSV describes: columns file, label, split or fold, perhaps group.

    Files are relative to the folder of the CSV. A label with "," makes the task multi-label; "-" is
    then a clip without any of the labels. Columns start and end (seconds) make a row a segment of
    its file; without the column group, the segments of a file are a group. The table may be in any
    dialect of `evar.data.tables`; `notes` of the task say what was understood.
    `seconds` is the unit length; None takes the longest clip, at most 10 s, when clips are indexed
    (no sound file is opened here). Sets of less than 500 training clips are probed at a learning
    rate of 1e-2. Raises UserError for a file that is no such table.
    """
    path = Path(path)
    table = reading.read_table(path, blank=("group", "caption"))
    return _task_of(
        _checked(table.frame, path, table.titles),
        path.resolve().parent,
        name=name_of(path),
        title=str(path),
        marker=path.name,
        seconds=seconds,
        notes=table.notes,
    )


def task_of_indexed(
    table: pd.DataFrame, path, *, seconds: float | None, group: str, notes: Sequence[str]
) -> Task:
    """Returns the task of a CSV by the table of its manifest, as `task_from_csv` returned it.

    group, notes: of that task.
    """
    path = Path(path)
    task = _task_of(
        table,
        path.resolve().parent,
        name=name_of(path),
        title=str(path),
        marker=path.name,
        seconds=seconds,
        notes=notes,
    )
    return replace(
        task, group=group, read=lambda root: task_from_csv(path, seconds=seconds).read(root)
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
    table = table.astype(object).fillna("").astype(str)
    table = table[[c for c in table.columns if c in COLUMNS]]
    checked = _checked(table, "the table", list(table.columns))
    if not len(checked):
        raise UserError("the table lists no clips")
    paths = [Path(file).absolute() for file in checked.file]
    try:
        root = Path(os.path.commonpath([path.parent for path in paths]))
    except ValueError as error:
        raise UserError(f"the table's files have no folder in common ({error})") from error
    checked["file"] = [path.relative_to(root).as_posix() for path in paths]
    checked = reading.with_times(checked, [f"the table: row {i}" for i in range(len(checked))])
    name = root.name or "table"
    name = f"{name}_table" if name in task_names() else name  # never a published task's
    return _task_of(checked, root, name=name, title="a table", marker=".", seconds=seconds)


def _task_of(
    table: pd.DataFrame,
    root: Path,
    *,
    name: str,
    title: str,
    marker: str,
    seconds: float | None,
    notes: Sequence[str] = (),
) -> Task:
    recordings = "start" in table and "group" not in table  # one recording is one group
    if recordings:
        table = table.assign(group=table.file)
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
        trains=bool(folds) or bool((table.split != "test").any()),
        kind="tagging" if multi_label else "classification",
        folds=folds,
        group="recording" if recordings else "group" if "group" in table else "",
        notes=tuple(notes),
        bundled=root,
    )


def captions_from_csv(path) -> Task:
    """Returns the retrieval task that a CSV describes: columns file, caption and optionally split.

    What else such a CSV may have (label, fold, group) is left aside, as captions are elsewhere.

    A file may have several captions, a row each. Only the split "test" is scored; without the
    column every clip is in it. Raises UserError for a file that is no such table.
    """
    path = Path(path)
    read = reading.read_table(path, blank=("label", "fold", "group"))
    table = read.frame
    missing = [column for column in ("file", "caption") if column not in table]
    if missing:
        raise UserError(
            f"{path}: needs the columns file and caption, and perhaps split ({', '.join(SPLITS)}); "
            f"it has {', '.join(read.titles)}"
        )
    if "start" in table:
        raise UserError(f"{path}: captions are of whole files: remove the columns start and end")
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
        name=name_of(path),
        version="1",
        title=str(path),
        metadata=str(path),
        read=lambda _: clips,
        read_captions=lambda _: table,
        marker=path.name,
        seconds=None,
        kind="retrieval",
        bundled=path.resolve().parent,
        notes=read.notes,
    )


def task_from_sounds(path) -> Task:
    """Returns a task of unlabelled test clips: a sound file, or all sounds below a folder.

    A shard (tar, Parquet), or a folder of shards alone, stands for the sounds in there. Hidden
    files are left out, as those that macOS writes next to others are no sounds. Raises UserError
    where there are no sounds.
    """
    path = Path(path)
    root = path.resolve()
    if root.is_dir():
        listing = list_sounds(path, SOUNDS)
        names = listing.files or _in_shards(root, listing.shards)
    elif root.is_file() and root.name.lower().endswith(packed.ENDINGS):
        root, names = root.parent, _in_shards(root.parent, [root.name])
    else:
        names, root = [root.name], root.parent
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


def _in_shards(root: Path, shards: Sequence[str]) -> list[str]:
    from evar.data.packed import listing  # which needs SOUNDS

    names = [f"{shard}/{name}" for shard in shards for name in listing.sounds(root / shard)]
    if not names:
        raise UserError(f"{root}: its shards hold no sounds ({', '.join(SOUNDS)})")
    return names


def advice_on(manifest: Manifest) -> str:
    """Returns one line on what a small set of clips can tell; "" for one that is not small."""
    task, good = manifest.task, manifest.good
    if not task.trains or task.kind != "classification":
        return ""
    sides = {str(side): Counter(rows.label.tolist()) for side, rows in good.groupby(task.column)}
    tested = good if task.folds else good[good.split == "test"]
    groups = tested.group[tested.group != ""].nunique() or None
    return advice.of_small_set(sides, folds=bool(task.folds), groups=groups)


def manifest_name(path) -> str:
    """Returns a name for the manifest of a CSV or a folder that no other one has."""
    resolved = os.fsencode(Path(path).resolve())  # a folder's name may be no UTF-8
    return f"csv-{Path(path).stem}-{hashlib.sha256(resolved).hexdigest()[:8]}"


def _checked(table: pd.DataFrame, where, titles: Sequence[str]) -> pd.DataFrame:
    """Returns the table with trimmed labels; UserError for one that lacks a column."""
    missing = [c for c in ("file", "label") if c not in table]
    if missing or ("split" in table) == ("fold" in table):
        raise UserError(
            f"{where}: needs the columns file, label and split ({', '.join(SPLITS)}) or fold, each "
            f"once; it has {', '.join(titles)}"
        )
    parts = table.label.str.split(",").map(lambda labels: [p.strip() for p in labels])
    return table.assign(label=parts.map(lambda labels: ",".join(p for p in labels if p)))
