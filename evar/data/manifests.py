"""Keeps manifests on disk (<data>/manifests/), so that a data set is indexed once."""

import contextlib
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evar import files, locks
from evar.data import segments, tracks
from evar.data.indexing import build, find_root
from evar.data.manifest import Manifest, to_csv
from evar.data.stamps import stamps_of
from evar.data.unhashed import Unhashed
from evar.errors import UserError
from evar.task import Task

_FORMAT = 2  # raise it when the columns mean something else
_TEXTS = ("file", "label", "split", "fold", "group", "fingerprint", "problem", "decoder")


def _paths(name: str, data) -> tuple[Path, Path, Path]:
    base = Path(data) / "manifests"
    return base / f"{name}.csv", base / f"{name}.stamps.npy", base / f"{name}.json"


def save(
    manifest: Manifest, data, *, name: str | None = None, origin: Mapping | None = None
) -> Path:
    """Writes a manifest below the data folder; returns the path of its CSV.

    origin: what it was made from, as `indexed_tables` says, if that is known.
    """
    table_path, stamps_path, head_path = _paths(name or manifest.task.name, data)
    files.make_folder(table_path.parent)
    head = {
        "format": _FORMAT,
        "task": manifest.task.name,
        "version": manifest.task.version,
        "root": str(manifest.root.resolve()),
        "sha256": manifest.sha256,
        "clips": len(manifest.table),
        "altered": manifest.altered,
        "missing": len(manifest.missing),
        "bad": len(manifest.bad),
        **({"origin": dict(origin)} if origin else {}),
        **({"provisional": manifest.provisional} if manifest.provisional else {}),
    }
    stamps = io.BytesIO()
    np.save(stamps, manifest.stamps)
    with files.writing(head_path), locks.lock(head_path.with_suffix(".lock")):
        files.write_atomic(table_path, to_csv(manifest.table))
        files.write_atomic(stamps_path, stamps.getvalue())
        files.write_atomic(head_path, json.dumps(head, indent=1) + "\n")
    return table_path


@dataclass(frozen=True, eq=False)
class Saved:
    """A manifest as it is on disk, intact, whichever task it is of: its head, table and stamps.

    name, data: where it is kept, as in `save`.
    """

    name: str
    data: Path
    head: Mapping
    table: pd.DataFrame
    stamps: NDArray

    def of(self, task: Task) -> Manifest:
        """Returns the manifest, of a task that it is known to describe."""
        root, altered = Path(self.head["root"]), tuple(self.head["altered"])
        return Manifest(
            task,
            root,
            self.table,
            self.head["sha256"],
            self.stamps,
            altered,
            Unhashed.of(root, self.table, self.stamps, self._save),
            str(self.head.get("provisional", "")),
        )

    def _save(self, manifest: Manifest) -> None:
        save(manifest, self.data, name=self.name, origin=self.head.get("origin"))


def read(name: str, data) -> Saved | None:
    """Returns a saved manifest; None where it is absent or damaged, or its columns mean others."""
    table_path, stamps_path, head_path = _paths(name, data)
    try:
        head = json.loads(head_path.read_text())
        content = table_path.read_bytes()
        stamps = np.load(stamps_path, allow_pickle=False)
        known = head["format"], head["sha256"]
        _ = head["version"], head["task"], Path(head["root"]), tuple(head["altered"])
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None
    if known != (_FORMAT, hashlib.sha256(content).hexdigest()):
        return None
    text = dict.fromkeys((*_TEXTS, *segments.COLUMNS), str)  # pandas' floats are not exact
    table = pd.read_csv(io.BytesIO(content), dtype=text, keep_default_na=False)
    times = {c: table[c].map(lambda cell: float(cell or "nan")) for c in segments.times_in(table)}
    if stamps.shape != (len(table), 3):
        return None
    return Saved(name, Path(data), head, table.assign(**times), stamps)


def load(task: Task, data, *, name: str | None = None) -> Manifest | None:
    """Returns the saved manifest of a task; None where it is absent, damaged or outdated."""
    return _current(read(name or task.name, data), task)


def _current(saved: Saved | None, task: Task) -> Manifest | None:
    if saved is None or task.column not in saved.table:
        return None
    if (saved.head["version"], saved.head["task"]) != (task.version, task.name):
        return None
    return saved.of(task)


def changed(manifest: Manifest) -> list[str]:
    """Returns the files that a new look may find otherwise.

    Their size or time differs from the manifest, they came or went, or the decoder is another.
    """
    table, none = manifest.table, pd.Series("", index=manifest.table.index)
    names = table.file.tolist()
    differs = (stamps_of(manifest.root, names) != manifest.stamps).any(axis=1)
    decoders = table.get("decoder", none).to_numpy(object)
    for row in np.flatnonzero((decoders != "") | (table.problem != "").to_numpy()):
        differs[row] |= not tracks.is_current(decoders[row], table.problem[row])
    return [names[row] for row in np.flatnonzero(differs)]


def open_task(
    task: Task,
    data,
    *,
    source=None,
    progress=None,
    name: str | None = None,
    reindex: bool = False,
    origin: Mapping | None = None,
    hashed_below: int | None = None,
) -> Manifest:
    """Returns the manifest of a task as the disk is now, indexed where that is needed.

    Looks in `source`, else where the last manifest found the data, else in the files that ship
    with the harness, else in `<data>/<task name>`. Only files that are new or changed are read;
    `reindex` reads the data set's own tables again even where no sound file changed. origin: as
    in `save`. hashed_below: as in `indexing.build`; None: the content of every file is hashed.
    """
    saved = read(name or task.name, data)
    previous = _current(saved, task)
    if not reindex and source is None and previous is not None and not changed(previous):
        return previous if hashed_below is not None else hash_all(previous, progress)
    if source is None:
        source = task.bundled or (previous.root if previous else Path(data) / task.name)
        if not Path(source).is_dir():
            raise UserError(
                f"{task.name} is not prepared and not in {source} (--data): get it (see "
                f"{task.homepage or 'docs/tasks.md'}), "
                f"then run `python prepare.py {task.name} --source=DIR`{_fetched(task)}"
            )
    root = find_root(source, task.marker).resolve()
    manifest = build(task, root, previous=previous, progress=progress, hashed_below=hashed_below)
    if manifest.unhashed:
        manifest.unhashed.save = lambda hashed: save(hashed, data, name=name, origin=origin)
    if previous is None or not _same(manifest, previous):
        save(manifest, data, name=name, origin=origin)
    elif saved is not None and origin is not None and saved.head.get("origin") != origin:
        with contextlib.suppress(UserError):  # the folder may be read-only
            save(manifest, data, name=name, origin=origin)
    return manifest


def hash_all(manifest: Manifest, progress=None) -> Manifest:
    """Returns the manifest with all fingerprints, and writes it where it is kept.

    Arguments and errors are those of `Manifest.hashed`.
    """
    hashed = manifest.hashed(progress)
    save_hashed(manifest, hashed)
    return hashed


def save_hashed(manifest: Manifest, hashed: Manifest) -> None:
    """Writes a manifest with all fingerprints where the one with placeholders is kept, once."""
    if manifest.unhashed is not None and manifest.unhashed.save is not None:
        with contextlib.suppress(UserError):  # the files would be hashed again, no more
            manifest.unhashed.save(hashed)
        manifest.unhashed.save = None


def _fetched(task: Task) -> str:
    """Returns what a message says of --download, where some of a data set is openly served."""
    if not any(source.url for source in task.sources):
        return ""
    return " (or --download, for what is openly served of it)"


def _same(a: Manifest, b: Manifest) -> bool:
    """Returns whether two manifests would be written alike."""
    alike = (a.root, a.sha256, a.altered) == (b.root, b.sha256, b.altered)
    return alike and np.array_equal(a.stamps, b.stamps)
