"""Checks the table of a data set's clips and brings it into canonical form."""

import posixpath
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from evar.data import segments
from evar.data.missing import explain
from evar.errors import UserError
from evar.files import path_problem, printable
from evar.task import SPLITS, Task

MISSING = "missing"  # the problem of a clip that is not there
NO_LABEL = "-"  # in a user's multi-label set: a clip in which none of the classes is heard


def check_table(task: Task, table: pd.DataFrame) -> pd.DataFrame:
    """Returns the table that `task.read` gave, sorted and in canonical form.

    Labels and groups are in Unicode's form NFC: what looks alike on a screen is one class. Rows may
    be segments of their files, by the columns `start` and `end` (`evar.data.segments`). Raises
    UserError that names the first row in question.
    """
    needed = ["file", "label", task.column]
    for column in needed:
        if column not in table:
            raise UserError(f"{task.name}: no column {column!r} (needed: {', '.join(needed)})")
    if "group" not in table:
        table = table.assign(group="")
    times = segments.canonical(table, task.metadata or task.name)
    times = times[segments.times_in(times)]
    table = table[[*needed, "group"]].fillna("").astype(str)
    for name in table.file.tolist():
        if problem := path_problem(name):
            _refuse(task, [name], problem)
    for column in ("label", "group"):
        table[column] = table[column].map(_canonical)
    table["file"] = table.file.map(posixpath.normpath)  # ./a is a
    table = pd.concat([table, times], axis=1)
    table = table.sort_values(["file", *times], kind="stable", na_position="first")
    table = table.reset_index(drop=True)

    names = segments.names(table)
    _refuse(task, names[names.duplicated()], "listed more than once")
    if task.labelled:
        _check_labels(task, table)
    if task.multi_label and not task.counts:
        table["label"] = table.label.replace(NO_LABEL, "")
    known = task.folds or SPLITS
    wrong = ~table[task.column].isin(known)
    values = ", ".join(map(repr, table[task.column][wrong].unique()[:3]))
    what = f"has a {task.column} other than {', '.join(known)} ({values})"
    _refuse(task, table.file[wrong], what)
    groups = table[table.group != ""]
    if len(groups):
        shared = groups[task.column].isin(task.groups_cross)
        sides = groups[task.column].mask(shared, "shared").groupby(groups.group).nunique()
        crossing = sides.index[sides > 1]
        what = f"{task.group or 'group'} on both sides of a split: its clips would leak"
        _refuse(task, pd.Series(crossing), what)
    return table


def _canonical(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _check_labels(task: Task, table: pd.DataFrame) -> None:
    """Refuses clips without a label, with too many, and labels that only look like one class."""
    blank = table.file[table.label.str.strip() == ""]
    mark = f" (one without any of the classes is written {NO_LABEL!r})" * task.multi_label
    _refuse(task, blank, f"has no label{mark}")
    if not task.multi_label:
        comma = table.label.str.contains(",")
        _refuse(
            task, table.file[comma], "has a comma in its label, but one clip has one label here"
        )
    if task.counts:
        return  # published labels are what they are
    names = sorted(label_set(table.label))
    if task.multi_label and any(
        NO_LABEL in x.split(",") and x != NO_LABEL for x in table.label.unique()
    ):
        raise UserError(f"{task.metadata}: {NO_LABEL!r} means no label; remove it or the others")
    _refuse_lookalikes(task, names)
    _refuse_other_separators(task, names)


def _refuse_lookalikes(task: Task, names: list[str]) -> None:
    """Labels that differ in invisible characters alone would be two classes in silence."""
    seen: dict[str, str] = {}
    for name in names:
        visible = (c for c in name if unicodedata.category(c) not in ("Cf", "Cc"))
        look = " ".join("".join(visible).split())
        if look in seen:
            raise UserError(
                f"{task.metadata}: the labels {ascii(seen[look])} and {ascii(name)} differ in "
                "invisible characters alone. Write them alike."
            )
        seen[look] = name


def _refuse_other_separators(task: Task, names: list[str]) -> None:
    """Refuses labels such as "low;noise" next to "low": one more class, where two are meant."""
    for sign in ";|":
        joined = [name for name in names if sign in name]
        parts = [part.strip() for name in joined for part in set(name.split(sign))]
        for name in joined:
            for part in map(str.strip, name.split(sign)):
                if part in names or parts.count(part) > 1:
                    raise UserError(
                        f"{task.metadata}: the label {name!r} is read as one class, and {part!r} "
                        f"is another or part of another. Separate several labels of a clip by ',' "
                        f"({name.replace(sign, ',')!r})."
                    )


def _refuse(task: Task, offenders: Iterable[str], what: str) -> None:
    offenders = list(offenders)
    if offenders:
        where = task.metadata or task.name
        more = f" (and {len(offenders) - 1:,} more)" if len(offenders) > 1 else ""
        raise UserError(
            f"{where}: {printable(offenders[0])}{more}: {what}. Correct the table of clips."
        )


def check_usable(task: Task, root: Path, table: pd.DataFrame) -> None:
    """Refuses a set on which no honest score is possible: an empty side, a class never trained.

    `table` has all clips; those with a `problem` do not count.
    """
    good = table[table.problem == ""]
    sides = set(good[task.column].unique())
    needed = set(task.folds) if task.folds else {"train", "test"}
    if not task.labelled or not task.trains:
        needed = {"test"}
    if task.folds and len(task.folds) < 2:
        raise UserError(f"{task.name}: one fold only; cross-validation needs two or more")
    elif task.counts and "test" in sides and "train" not in sides:
        return  # the test side of a published set, for zero-shot; training protocols refuse it
    for side in sorted(needed - sides):
        raise UserError(f"{task.name}: {_why_empty(task, root, table, side)}")
    if not task.labelled or not task.trains:
        return
    published = task.counts and task.multi_label  # their rare classes may be gone from a part
    tried = ["test", *{"valid"} & sides] if not task.counts else ["test"]
    for fold in task.folds or tried:
        test = good[task.column] == fold
        train = ~test if task.folds else good[task.column] == "train"
        known = label_set(good.label[train])
        unseen = label_set(good.label[test]) - known
        if unseen and (not published or unseen == label_set(good.label[test])):
            raise UserError(
                f"{task.name}: {task.column} {fold!r} has clips of {_some(unseen)}, of which there "
                "is no training clip: no model can be right there. Add training clips or leave "
                "the class out."
            )
        if task.kind == "classification" and len(known) < 2:
            raise UserError(
                f"{task.name}: a single class to train, {_some(known)}: there is nothing to tell "
                "apart"
            )


def _why_empty(task: Task, root: Path, table: pd.DataFrame, side: str) -> str:
    """Says why a side of the split has no usable clip, and what to do."""
    rows = table[table[task.column] == side]
    where = task.metadata or "the table of clips"
    if rows.empty:
        counts = table[task.column].value_counts().sort_index()
        there = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        return f"no row of {where} says {task.column} {side!r} (there are: {there}). Add some."
    gone = rows[rows.problem == MISSING]
    what = f"no readable clip in {task.column} {side!r}"
    if len(gone) == len(rows):
        return f"{what}: none of its {len(gone):,} files is there; {explain(root, gone.file)}"
    first = rows[rows.problem != MISSING].iloc[0]
    bad = len(rows) - len(gone)
    return (
        f"{what}: {bad:,} unreadable, {len(gone):,} missing; first: {printable(first.file)}: "
        f"{first.problem}. Check the data set's folder."
    )


def label_set(labels: pd.Series) -> set[str]:
    """Returns all labels of a column, several of one clip taken apart."""
    return {part for label in labels.unique() for part in label.split(",") if part}


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(map(repr, names[:3])) + (
        f" and {len(names) - 3} more" if len(names) > 3 else ""
    )
