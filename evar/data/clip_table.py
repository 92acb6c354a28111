"""The table of a data set's clips: brought into one form, refused where no honest score follows."""

import posixpath
from collections.abc import Iterable

import pandas as pd

from evar.errors import UserError
from evar.task import SPLITS, Task


def check_table(task: Task, table: pd.DataFrame) -> pd.DataFrame:
    """The table that `task.read` gave, sorted and in canonical form.

    Raises UserError that names the first row in question.
    """
    needed = ["file", "label", task.column]
    for column in needed:
        if column not in table:
            raise UserError(f"{task.name}: no column {column!r} (needed: {', '.join(needed)})")
    if "group" not in table:
        table = table.assign(group="")
    table = table[[*needed, "group"]].fillna("").astype(str)
    if len(outside := table.file[table.file.map(_leaves_root)]):
        what = "must lie inside the data set's folder (that of a CSV) and be relative to it"
        _refuse(task, outside, what)
    table["file"] = table.file.map(posixpath.normpath)  # ./a is a
    table = table.sort_values("file", kind="stable").reset_index(drop=True)

    _refuse(task, table.file[table.file.duplicated()], "listed more than once")
    if task.labelled:
        _refuse(task, table.file[table.label.str.strip() == ""], "has no label")
    if not task.multi_label:
        comma = table.label.str.contains(",")
        _refuse(
            task, table.file[comma], "has a comma in its label, but one clip has one label here"
        )
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


def _leaves_root(file: str) -> bool:
    parts = file.replace("\\", "/").split("/")
    drive = len(file) > 1 and file[1] == ":" and file[0].isalpha()
    return file in ("", ".") or parts[0] == "" or ".." in parts or drive


def _refuse(task: Task, offenders: Iterable[str], what: str) -> None:
    offenders = list(offenders)
    if offenders:
        where = task.metadata or task.name
        more = f" (and {len(offenders) - 1:,} more)" if len(offenders) > 1 else ""
        raise UserError(f"{where}: {offenders[0]}{more}: {what}. Correct the table of clips.")


def check_usable(task: Task, good: pd.DataFrame) -> None:
    """Refuse a set on which no honest score is possible: an empty side, a class never trained."""
    sides = set(good[task.column])
    needed = set(task.folds) if task.folds else {"train", "test"}
    if not task.labelled or not task.trains:
        needed = {"test"}
    if task.folds and len(task.folds) < 2:
        raise UserError(f"{task.name}: one fold only; cross-validation needs two or more")
    elif task.counts and "test" in sides and "train" not in sides:
        return  # the test side of a published set, for zero-shot; training protocols refuse it
    for side in sorted(needed - sides):
        raise UserError(
            f"{task.name}: no readable clip in {task.column} {side!r}. Check the data set's folder "
            "and its table."
        )
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


def label_set(labels: pd.Series) -> set[str]:
    """All labels of a column, several of one clip taken apart."""
    return {part for label in labels.unique() for part in label.split(",")}


def check_copies(task: Task, good: pd.DataFrame) -> None:
    """Refuse a user's set in which the same sound is in training and in test.

    Published sets keep their published clips, copies included: papers score them.
    """
    if task.counts:
        return
    twice = good[good.fingerprint.duplicated(keep=False)]
    for _, alike in twice.groupby("fingerprint"):
        first, *others = zip(alike.file, alike[task.column], strict=True)
        for name, side in others:
            if side != first[1]:
                raise UserError(
                    f"{task.name}: {first[0]} and {name} are the same sound on both sides of a "
                    "split. Remove one of them."
                )


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(map(repr, names[:3])) + (
        f" and {len(names) - 3} more" if len(names) > 3 else ""
    )
