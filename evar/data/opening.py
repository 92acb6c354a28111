"""Opens the manifest of a task: a name, a CSV, a pandas table or a Task."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evar import files
from evar import task as tasks
from evar.data import indexed_tables, indexing, manifests, own_sounds
from evar.data.manifest import Manifest
from evar.data.windows import of_task as of_windows
from evar.errors import UserError
from evar.options import number
from evar.progress import SILENT, Progress
from evar.task import Task, Windows

if TYPE_CHECKING:
    import pandas as pd

    AnyTask = str | Path | Task | pd.DataFrame


def data_folder(given=None) -> Path:
    """Returns where data sets and manifests are: as given, else $EVAR_DATA, else data/."""
    return Path(given or os.environ.get("EVAR_DATA", "data"))


def own_folder(given=None) -> Path:
    """Returns where manifests of a user's own tables are: as data sets', if one says where.

    Else they are in the cache: no folder data/ appears among recordings by surprise.
    """
    if given or os.environ.get("EVAR_DATA"):
        return data_folder(given)
    folder = files.cache_folder()
    there = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    return folder if os.access(there, os.W_OK) else data_folder()


def open_task(
    task: "AnyTask",
    *,
    data=None,
    seconds: float | None = None,
    windows: Windows | None = None,
    source=None,
    reindex: bool = False,
    captioned: bool = False,
    hashed_below: int | None = None,
    progress: Progress = SILENT,
) -> Manifest:
    """Returns the manifest of a task as the disk is now.

    task: a registered name, the path of a CSV, an `evar.Task`, or a pandas table with the columns
    of a CSV (files absolute, or relative to the current folder). seconds: unit length of a user's
    own sounds; a registered task has its published one. windows: score a user's recordings by
    windows. reindex: read the data set's own tables
    again even where no sound file has changed. captioned: a CSV has captions instead of labels.
    hashed_below: bytes of files not hashed so far from which on the caller hashes them as they are
    decoded (`Manifest.unhashed`); None: all are hashed.
    Raises UserError for a task that is unknown, not prepared or not usable.
    """
    seconds = number("seconds", seconds, above=0.001, optional=True)
    if windows is not None and seconds is not None:
        raise UserError("--windows sets the unit length: leave --seconds out")
    if isinstance(task, Task):
        kept = own_folder(data) if tasks.is_own(task) else data
        return _open(_by(windows, task), kept, source, reindex, progress, hashed_below)
    if not isinstance(task, (str, Path)):
        found = _by(windows, own_sounds.task_from_table(task, seconds=seconds))
        return indexing.build(found, found.bundled, progress=_wrap(found, progress))
    name = str(task)
    if own_sounds.is_csv(name):
        if captioned:
            manifest = _open_captions(name, data, reindex, progress)
        else:
            manifest = _open_labels(name, data, seconds, reindex, progress, hashed_below)
        if advice := own_sounds.advice_on(manifest):
            progress.note(f"{name}: {advice}")
        return replace(manifest, task=_by(windows, manifest.task))
    if Path(name).is_dir() and name not in tasks.names():
        raise UserError(
            f"{name}: a folder. List its sounds in a CSV (file,label,split) and name that: "
            f"`evar table {name}` makes one"
        )
    for option, value in (("seconds", seconds), ("windows", windows)):
        if value is not None:
            raise UserError(f"--{option} is for CSV tasks: a registered task has a published unit")
    return _open(tasks.get(name), data, source, reindex, progress, hashed_below)


def _open_labels(
    name: str, data, seconds, reindex: bool, progress: Progress, hashed_below: int | None
) -> Manifest:
    """Returns the manifest of a CSV with labels: the saved one where nothing has changed."""
    own, path = own_folder(data), Path(name)
    known = None
    if not reindex:
        count = progress.counter(f"index {path.stem}", "file")
        known = indexed_tables.manifest(
            path, own, seconds=seconds, hashed_below=hashed_below, progress=count
        )
    if known:
        _say_notes(name, known.task, progress)
        return known
    found, origin = indexed_tables.read(path, seconds=seconds)
    _say_notes(name, found, progress)
    stored = own_sounds.manifest_name(name)
    return _open(
        found, own, found.bundled, reindex, progress, hashed_below, stored=stored, origin=origin
    )


def _open_captions(name: str, data, reindex: bool, progress: Progress) -> Manifest:
    found = own_sounds.captions_from_csv(name)
    _say_notes(name, found, progress)
    stored = own_sounds.manifest_name(name)
    return _open(found, own_folder(data), found.bundled, reindex, progress, stored=stored)


def _say_notes(name: str, task: Task, progress: Progress) -> None:
    if task.notes:  # what was understood of a table that is not in our own dialect
        progress.note(f"{name}: {'; '.join(task.notes)}")


def _by(windows: Windows | None, task: Task) -> Task:
    """Returns a user's task, scored by windows where that is asked for."""
    if windows is None:
        return task
    if task.counts:
        raise UserError(f"--windows is for own recordings: {task.name} has a published unit")
    return of_windows(task, windows)


def open_sounds(path, *, progress: Progress = SILENT) -> Manifest:
    """Returns the manifest of a sound file, or of all sounds below a folder: clips without labels.

    Nothing is kept on disk. Raises UserError where there are no sound files.
    """
    found = own_sounds.task_from_sounds(path)
    return indexing.build(found, found.bundled, progress=_wrap(found, progress))


def _open(
    task: Task,
    data,
    source,
    reindex: bool,
    progress: Progress,
    hashed_below: int | None = None,
    *,
    stored: str | None = None,
    origin: Mapping | None = None,
) -> Manifest:
    return manifests.open_task(
        task,
        data_folder(data),
        source=task.bundled or source,  # what is bundled, or a user's own, is indexed each time
        progress=_wrap(task, progress),
        name=stored,
        reindex=reindex,
        origin=origin,
        hashed_below=hashed_below,
    )


def _wrap(task: Task, progress: Progress):
    return progress.counter(f"index {task.name}", "file")
