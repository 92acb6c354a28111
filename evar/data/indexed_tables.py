"""Recognises a user's table that was indexed before, so that nothing of it is read again.

The manifest of a CSV keeps what it was made from: the bytes of the table and the code that read
them. Where both are as they were, and so is every sound file, reading it again would end in the
same manifest.
"""

import functools
import hashlib
import json
from pathlib import Path

from evar import files
from evar.data import manifests, own_sounds
from evar.data.clip_table import MISSING
from evar.data.manifest import Manifest
from evar.task import Task


def read(path: Path, *, seconds: float | None) -> tuple[Task, dict[str, object] | None]:
    """Returns the task of a CSV, and what its manifest keeps of where it comes from (JSON).

    The latter is None for a table that changed while it was read. Arguments and errors are those
    of `own_sounds.task_from_csv`.
    """
    before = _source(path) if path.is_file() else None
    task = own_sounds.task_from_csv(path, seconds=seconds)
    if before is None or _source(path) != before:
        return task, None
    return task, {**before, "group": task.group, "notes": list(task.notes)}


def manifest(
    path: Path,
    data,
    *,
    seconds: float | None,
    hashed_below: int | None = None,
    progress=None,
) -> Manifest | None:
    """Returns the manifest of a CSV that has not changed since it was indexed; None for any other.

    hashed_below, progress: as in `manifests.open_task`. seconds: as in `own_sounds.task_from_csv`.
    Files that are missing, and names that a disk may spell in several ways, are looked for again:
    None.
    """
    saved = manifests.read(own_sounds.manifest_name(path), data) if path.is_file() else None
    if saved is None or saved.head["task"] != own_sounds.name_of(path):
        return None
    found = saved.head.get("origin")
    if not isinstance(found, dict):
        return None
    if any(found.get(key) != value for key, value in _source(path).items()):
        return None
    if (saved.table.problem == MISSING).any() or not _plain(saved.table.file.to_numpy(object)):
        return None
    task = own_sounds.task_of_indexed(
        saved.table, path, seconds=seconds, group=found["group"], notes=found["notes"]
    )
    known = saved.of(task)
    if manifests.changed(known):
        return None
    return known if hashed_below is not None else manifests.hash_all(known, progress)


def _source(path: Path) -> dict[str, object]:
    with files.reading(path):
        return {"table": hashlib.sha256(path.read_bytes()).hexdigest(), "code": _code()}


def _plain(names) -> bool:
    """Returns whether names have a single spelling (`tables.reading.as_on_disk`)."""
    return all(name.isascii() and "\\" not in name and name == name.strip() for name in names)


@functools.cache
def _code() -> str:
    """Returns a hash of the code that turns a table into a manifest, and says what one may name."""
    package = Path(__file__).parent.parent
    sources = [*sorted((package / "data").rglob("*.py")), package / "files.py", package / "task.py"]
    content = [
        [str(source.relative_to(package)), hashlib.sha256(source.read_bytes()).hexdigest()]
        for source in sources
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
