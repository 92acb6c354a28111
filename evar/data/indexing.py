"""Indexes data sets: finds the root and looks at every file that the own tables list."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evar.data import audio, packed, segments, tracks
from evar.data.clip_table import MISSING, check_table, check_usable, label_set
from evar.data.containers.stream import Damaged
from evar.data.copies import check_copies
from evar.data.download import verify
from evar.data.manifest import Manifest, table_hash
from evar.data.stamps import ABSENT, stamps_of
from evar.data.unhashed import Unhashed, is_placeholder, placeholder
from evar.errors import BadAudio, UserError
from evar.task import Task

_SCANNED = ["sample_rate", "frames", "bytes", "fingerprint", "problem", "decoder"]


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


def build(
    task: Task,
    root,
    *,
    previous: Manifest | None = None,
    progress=None,
    hashed_below: int | None = None,
) -> Manifest:
    """Indexes a data set: its own metadata, every file, checks of splits and leaks.

    `previous`: an earlier manifest; files with the size and time it saw are not read again.
    `hashed_below`: bytes of new files from which on only their headers are read, and their content
    is not hashed yet (`Manifest.unhashed`).
    `progress(iterable, total=n)` wraps the scanned files, as tqdm does.
    Raises UserError where the metadata themselves are wrong. Missing and unreadable files do not
    raise: the manifest names them.
    """
    root = Path(root)
    given = own_table(task, task.read, root)
    table = check_table(task, given)
    names = pd.Index(table.file.unique())  # segments share a file
    own = not task.counts
    scanned, stamps = _scan(root, names.tolist(), previous, progress, hashed_below, own=own)
    at = names.get_indexer(table.file)
    table = pd.concat([table, scanned.iloc[at].reset_index(drop=True)], axis=1)
    if not table.decoder.any():
        table = table.drop(columns="decoder")  # all by soundfile, as in most sets
    table, stamps = segments.cut(table, task.metadata or task.name, given), stamps[at]
    altered = altered_tables(task, root)
    unhashed = Unhashed.of(root, table, stamps)
    manifest = Manifest(task, root, table, table_hash(table), stamps, altered, unhashed)
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


def _scan(
    root: Path, names: list[str], previous, progress, hashed_below: int | None, *, own: bool
) -> tuple[pd.DataFrame, NDArray]:
    """Returns the cells _SCANNED of every file, and stamps (N, 3); reads those not known so far.

    hashed_below: as in `build`. own: a user's set, in which equal files are looked for.
    """
    stamps = stamps_of(root, names)
    absent = (stamps == ABSENT).all(axis=1)
    rows: list[tuple] = [(0, 0, 0, "", MISSING, "")] * len(names)
    known = _known(root, names, stamps, previous)
    placeholders = _placeholders(root, names, stamps, known, hashed_below, own=own)
    known = {
        at: cells
        for at, cells in known.items()
        if at in placeholders or not is_placeholder(cells[3])
    }
    for at, cells in known.items():
        rows[at] = cells
    todo = [at for at in np.flatnonzero(~absent).tolist() if at not in known]

    def look(part: list[int]) -> list[tuple]:
        return [_look(packed.locate(root / names[at]), placeholders.get(at)) for at in part]

    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        # One task a file would keep 300,000 of them in memory at once.
        parts = [todo[at : at + 500] for at in range(0, len(todo), 500)]
        looked = (cells for part in pool.map(look, parts) for cells in part)
        found = progress(looked, total=len(todo)) if progress and todo else looked
        for at, cells in zip(todo, found, strict=True):
            rows[at] = cells
    return pd.DataFrame(rows, columns=_SCANNED), stamps


def _placeholders(
    root: Path,
    names: list[str],
    stamps: NDArray,
    known: Mapping[int, tuple],
    hashed_below: int | None,
    *,
    own: bool,
) -> dict[int, str]:
    """Returns what stands for the fingerprints of files that are not to be hashed yet.

    Equal files have one size: in a user's set, those of which another has the same are hashed.
    """
    if hashed_below is None:
        return {}
    sizes = stamps[:, 0]
    _, kind, count = np.unique(sizes, return_inverse=True, return_counts=True)
    chosen = [
        at
        for at in np.flatnonzero((sizes > 0) & ((count[kind] == 1) | (not own))).tolist()
        if (at not in known or is_placeholder(known[at][3])) and not packed.split(root / names[at])
    ]
    if sizes[chosen].sum() <= hashed_below:
        return {}
    return {at: placeholder(root / names[at], stamps[at]) for at in chosen}


def _known(
    root: Path, names: list[str], stamps: NDArray, previous: Manifest | None
) -> dict[int, tuple]:
    """Returns the cells that an earlier manifest has of files which have not changed since."""
    if previous is None or previous.root != root:
        return {}
    table = pd.DataFrame({"decoder": ""}, index=previous.table.index)
    table = table.assign(**segments.whole_files(previous.table))
    cells = list(zip(*(table[column].tolist() for column in _SCANNED), strict=True))
    row_of = {name: row for row, name in enumerate(table.file.tolist())}
    found = {}
    for at, (name, stamp) in enumerate(zip(names, stamps.tolist(), strict=True)):
        row = row_of.get(name)
        if row is None or previous.stamps[row].tolist() != stamp:
            continue
        if tracks.is_current(used=cells[row][-1], problem=cells[row][-2]):
            found[at] = cells[row]
    return found


def _look(
    path: Path | packed.Sound, given: str | None = None
) -> tuple[int, int, int, str, str, str]:
    """Reads a file that is there; returns its cells of the columns _SCANNED.

    given: what stands for its fingerprint; None: the file is hashed.
    """
    try:
        if not path.is_file():
            return 0, 0, 0, "", MISSING if isinstance(path, packed.Sound) else "not a file", ""
        size, content = packed.size(path), given or audio.fingerprint(path)
    except Damaged as error:  # the shard that holds it
        return 0, 0, 0, "", str(error), ""
    try:
        header = audio.read_header(path)
    except BadAudio as error:
        return 0, 0, size, content, error.reason, ""
    return header.sample_rate, header.frames, size, content, "", header.decoder
