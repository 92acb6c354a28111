"""Indexes data sets: finds the root and looks at every file that the own tables list."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from evar.data import audio, packed, segments, tracks
from evar.data.clip_table import MISSING, check_table, check_usable, label_set
from evar.data.containers.stream import Damaged
from evar.data.copies import check_copies
from evar.data.download import verify
from evar.data.manifest import Manifest, table_hash
from evar.errors import BadAudio, UserError
from evar.task import Task

_SCANNED = ["sample_rate", "frames", "bytes", "fingerprint", "problem", "decoder"]
ABSENT = (0, 0, 0)  # the stamp of a file that is not there


def find_root(folder, marker: str | tuple[str, ...]) -> Path:
    """Returns the data set's root: `folder` or the one folder below it with `marker` inside.

    Two levels are searched. Of several markers, which may be patterns, the first that is found
    anywhere decides. Raises UserError where there is none, or more than one folder has it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder (--source=DIR is where the data set lies)")
    markers = (marker,) if isinstance(marker, str) else marker
    for each in markers:
        if _holds(folder, each):
            return folder
        found = sorted({p for d in ("*", "*/*") for p in folder.glob(d) if _holds(p, each)})
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"{folder}: several copies ({', '.join(map(str, found))}); name one of them"
            )
    raise UserError(
        f"{folder}: {' or '.join(markers)} not found there: not this data set's folder, or "
        "incomplete"
    )


def _holds(folder: Path, marker: str) -> bool:
    return (folder / marker).exists() or ("*" in marker and any(folder.glob(marker)))


def build(task: Task, root, *, previous: Manifest | None = None, progress=None) -> Manifest:
    """Indexes a data set: its own metadata, every file, checks of splits and leaks.

    `previous`: an earlier manifest; files with the size and time it saw are not read again.
    `progress(iterable, total=n)` wraps the scanned files, as tqdm does.
    Raises UserError where the metadata themselves are wrong. Missing and unreadable files do not
    raise: the manifest names them.
    """
    root = Path(root)
    given = own_table(task, task.read, root)
    table = check_table(task, given)
    names = pd.Index(table.file.unique())  # segments share a file
    scanned, stamps = _scan(root, names.tolist(), previous, progress)
    at = names.get_indexer(table.file)
    table = pd.concat([table, scanned.iloc[at].reset_index(drop=True)], axis=1)
    if not table.decoder.any():
        table = table.drop(columns="decoder")  # all by soundfile, as in most sets
    table, stamps = segments.cut(table, task.metadata or task.name, given), stamps[at]
    altered = altered_tables(task, root)
    manifest = Manifest(task, root, table, table_hash(table), stamps, altered)
    if manifest.good.empty and len(manifest.bad):
        first = manifest.bad.iloc[0]
        raise BadAudio(root / first.file, first.problem)
    check_usable(task, root, table)
    check_copies(task, root, manifest.good)
    found = len(label_set(table.label))
    if task.classes and not manifest.partial and found != task.classes:
        raise UserError(f"{task.name}: {found} classes in {root}, expected {task.classes}")
    return manifest


def own_table(task: Task, read: Callable, root: Path):
    """Returns what `read`, a function of the task, reads from the data set's own tables.

    Raises UserError for one that is not there.
    """
    try:
        return read(root)
    except FileNotFoundError as error:
        raise UserError(
            f"{task.name}: {error.filename} is missing: the data set is incomplete "
            f"(`python prepare.py {task.name} --help`)"
        ) from error


def altered_tables(task: Task, root: Path) -> tuple[str, ...]:
    """Returns the tables that differ from the published ones, such as "meta/esc50.csv".

    Such a copy may have other clips or labels; its score is not comparable.
    """
    found = []
    for source in task.sources:
        path = root / source.path
        if source.kind == "table" and path.is_file():
            try:
                verify(path, source)
            except UserError:
                found.append(source.path)
    return tuple(found)


def _scan(root: Path, names: list[str], previous, progress) -> tuple[pd.DataFrame, np.ndarray]:
    """Reads header and fingerprint of every file, in parallel: (table, (N, 3) stamps)."""
    known, columns = {}, []
    if previous is not None and previous.root == root:
        known = {name: row for row, name in enumerate(previous.table.file)}
        whole = pd.DataFrame({"decoder": ""}, index=previous.table.index)
        whole = whole.assign(**segments.whole_files(previous.table))
        columns = [whole[column].to_numpy() for column in _SCANNED]

    def look(name: str):
        try:
            status = packed.status(os.path.join(root, name))  # noqa: PTH118  (300,000 times)
        except OSError:
            return ABSENT, (0, 0, 0, "", MISSING, "")
        stamp = stamp_of(status)
        row = known.get(name)
        if row is not None and tuple(previous.stamps[row]) == stamp:
            seen = tuple(column[row] for column in columns)
            if tracks.is_current(seen[-1], seen[-2]):
                return stamp, seen
        return stamp, _look(packed.locate(root / name))

    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        # One task a file would keep 300,000 of them in memory at once.
        parts = [names[at : at + 500] for at in range(0, len(names), 500)]
        looked = (row for part in pool.map(lambda p: [look(n) for n in p], parts) for row in part)
        results = list(progress(looked, total=len(names)) if progress else looked)
    stamps = np.array([stamp for stamp, _ in results], dtype=np.int64).reshape(-1, 3)
    return pd.DataFrame([row for _, row in results], columns=_SCANNED), stamps


def _look(path: Path | packed.Sound) -> tuple[int, int, int, str, str, str]:
    """Reads a file that is there; returns its cells of the columns _SCANNED."""
    try:
        if not path.is_file():
            return 0, 0, 0, "", MISSING if isinstance(path, packed.Sound) else "not a file", ""
        size, mark = packed.size(path), audio.fingerprint(path)
    except Damaged as error:  # the shard that holds it
        return 0, 0, 0, "", str(error), ""
    try:
        header = audio.read_header(path)
    except BadAudio as error:
        return 0, 0, size, mark, error.reason, ""
    return header.sample_rate, header.frames, size, mark, "", header.decoder


def stamp_of(status: os.stat_result) -> tuple[int, int, int]:
    # The second time changes with every edit, also where the first was set back.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
