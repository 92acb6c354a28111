"""The manifest: which clips a data set has on this disk, checked against what it should have."""

import hashlib
import io
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import filelock
import numpy as np
import pandas as pd

from evar import files
from evar.data import audio
from evar.data.clip_table import check_copies, check_table, check_usable, label_set
from evar.data.download import verify
from evar.errors import BadAudio, UserError
from evar.task import Task

MISSING = "missing"
_FORMAT = 2  # raise it when the columns mean something else
_SCANNED = ["sample_rate", "frames", "bytes", "fingerprint", "problem"]


@dataclass(frozen=True)
class Manifest:
    """One data set on this disk.

    `table` has one row a clip, sorted by `file`: file, label, split or fold, group, sample_rate
    (Hz), frames (samples per channel), bytes, fingerprint (of the content), problem ("" for a good
    clip, "missing", or why it cannot be read). `sha256` identifies its content on any machine.
    """

    task: Task
    root: Path
    table: pd.DataFrame
    sha256: str
    stamps: np.ndarray  # (N, 3) size in bytes and times of change in ns, as seen on this disk
    altered: tuple[str, ...] = ()  # tables of the data set that are not the published ones

    @property
    def good(self) -> pd.DataFrame:
        """The clips that are there and readable; the row numbers of `table` stay as index."""
        return self.table[self.table.problem == ""]

    @property
    def missing(self) -> pd.DataFrame:
        return self.table[self.table.problem == MISSING]

    @property
    def bad(self) -> pd.DataFrame:
        """Clips that are there but cannot be read."""
        return self.table[~self.table.problem.isin(["", MISSING])]

    @property
    def expected(self) -> int:
        """How many clips a complete copy has."""
        return sum(self.task.counts.values()) if self.task.counts else len(self.table)

    @property
    def partial(self) -> str:
        """ "N of M clips" where clips are absent, else ""."""
        here = len(self.table) - len(self.missing)
        found = self.counts()
        whole = all(found.get(side) == count for side, count in self.task.counts.items())
        reasons = (
            [] if whole and here == self.expected else [f"{here:,} of {self.expected:,} clips"]
        )
        if reasons and self.task.comparable:
            reasons.append("not comparable")
        return ", ".join(reasons + [f"{path} altered" for path in self.altered])

    def counts(self) -> dict[str, int]:
        """Clips on this disk in each split or fold, readable or not."""
        here = self.table[self.table.problem != MISSING]
        return here[self.task.column].value_counts().to_dict()


def find_root(folder, marker: str | tuple[str, ...]) -> Path:
    """The data set's root: `folder`, or the one folder below it (two levels) with `marker` inside.

    Of several markers, which may be patterns, the first that is found anywhere decides. Raises
    UserError where there is none, or more than one folder has it.
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


def build(task: Task, root, *, previous: "Manifest | None" = None, progress=None) -> Manifest:
    """Index a data set: read its own metadata, look at every file, check splits and leaks.

    `previous`: an earlier manifest; files with the size and time it saw are not read again.
    `progress(iterable, total=n)` wraps the scanned files, as tqdm does.
    Raises UserError where the metadata themselves are wrong. Missing and unreadable files do not
    raise: the manifest names them.
    """
    root = Path(root)
    table = check_table(task, own_table(task, task.read, root))
    scanned, stamps = _scan(root, table.file.tolist(), previous, progress)
    table = pd.concat([table, scanned], axis=1)
    altered = altered_tables(task, root)
    manifest = Manifest(task, root, table, _sha256(table), stamps, altered)
    if manifest.good.empty and len(manifest.bad):
        first = manifest.bad.iloc[0]
        raise BadAudio(root / first.file, first.problem)
    check_usable(task, manifest.good)
    check_copies(task, manifest.good)
    found = len(label_set(table.label))
    if task.classes and not manifest.partial and found != task.classes:
        raise UserError(f"{task.name}: {found} classes in {root}, expected {task.classes}")
    return manifest


def own_table(task: Task, read: Callable, root: Path):
    """What `read`, a function of the task, reads from the data set's own tables.

    Raises UserError for one that is not there.
    """
    try:
        return read(root)
    except FileNotFoundError as error:
        raise UserError(
            f"{task.name}: {error.filename} is missing: the data set is incomplete "
            f"(`python prepare.py {task.name} --help`)"
        ) from error


def test_side(manifest: Manifest) -> Manifest:
    """The clips that zero-shot classification and retrieval score, as a data set of their own.

    Nothing else counts there: not for being complete, not for identity. With folds, all clips.
    """
    task, table = manifest.task, manifest.table
    if task.folds:
        return manifest
    kept = (table.split == "test").to_numpy()
    counts = {side: count for side, count in task.counts.items() if side == "test"}
    table = table[kept].reset_index(drop=True)
    return replace(
        manifest,
        task=replace(task, counts=counts, trains=False),
        table=table,
        sha256=_sha256(table),
        stamps=manifest.stamps[kept],
    )


def altered_tables(task: Task, root: Path) -> tuple[str, ...]:
    """Tables of the data set that differ from the published ones, such as "meta/esc50.csv".

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
    """Header and fingerprint of every file, in parallel: (table, (N, 3) stamps)."""
    known, columns = {}, []
    if previous is not None and previous.root == root:
        known = {name: row for row, name in enumerate(previous.table.file)}
        columns = [previous.table[column].to_numpy() for column in _SCANNED]

    def look(name: str):
        try:
            status = os.stat(os.path.join(root, name))  # noqa: PTH116, PTH118  (300,000 times)
        except OSError:
            return _ABSENT, (0, 0, 0, "", MISSING)
        stamp = _stamp(status)
        row = known.get(name)
        if row is not None and tuple(previous.stamps[row]) == stamp:
            return stamp, tuple(column[row] for column in columns)
        path = root / name
        if not path.is_file():
            return stamp, (0, 0, 0, "", "not a file")
        try:
            header = audio.read_header(path)
        except BadAudio as error:
            return stamp, (0, 0, status.st_size, audio.fingerprint(path), error.reason)
        mark = audio.fingerprint(path)
        return stamp, (header.sample_rate, header.frames, status.st_size, mark, "")

    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        # One task a file would keep 300,000 of them in memory at once.
        parts = [names[at : at + 500] for at in range(0, len(names), 500)]
        looked = (row for part in pool.map(lambda p: [look(n) for n in p], parts) for row in part)
        results = list(progress(looked, total=len(names)) if progress else looked)
    stamps = np.array([stamp for stamp, _ in results], dtype=np.int64).reshape(-1, 3)
    return pd.DataFrame([row for _, row in results], columns=_SCANNED), stamps


_ABSENT = (0, 0, 0)


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    # The second time changes with every edit, also where the first was set back.
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _csv(table: pd.DataFrame) -> bytes:
    text = io.StringIO()
    table.to_csv(text, index=False, lineterminator="\n")
    return text.getvalue().encode()


def _sha256(table: pd.DataFrame) -> str:
    return hashlib.sha256(_csv(table)).hexdigest()


# --- on disk: <data>/manifests/<name>.csv, .npy (sizes and times seen) and .json (written last)


def _paths(name: str, data) -> tuple[Path, Path, Path]:
    base = Path(data) / "manifests"
    return base / f"{name}.csv", base / f"{name}.stamps.npy", base / f"{name}.json"


def save(manifest: Manifest, data, *, name: str | None = None) -> Path:
    """Write a manifest below the data folder; returns the path of its CSV."""
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
    }
    stamps = io.BytesIO()
    np.save(stamps, manifest.stamps)
    with files.writing(head_path), filelock.FileLock(head_path.with_suffix(".lock")):
        files.write_atomic(table_path, _csv(manifest.table))
        files.write_atomic(stamps_path, stamps.getvalue())
        files.write_atomic(head_path, json.dumps(head, indent=1) + "\n")
    return table_path


def load(task: Task, data, *, name: str | None = None) -> Manifest | None:
    """The saved manifest of a task; None where there is none, or it is damaged or outdated."""
    table_path, stamps_path, head_path = _paths(name or task.name, data)
    try:
        head = json.loads(head_path.read_text())
        content = table_path.read_bytes()
        stamps = np.load(stamps_path, allow_pickle=False)
        known = (head["format"], head["version"], head["task"], head["sha256"])
        root, altered = Path(head["root"]), tuple(head["altered"])
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None
    if known != (_FORMAT, task.version, task.name, hashlib.sha256(content).hexdigest()):
        return None
    text = dict.fromkeys(("file", "label", task.column, "group", "fingerprint", "problem"), str)
    table = pd.read_csv(io.BytesIO(content), dtype=text, keep_default_na=False)
    if stamps.shape != (len(table), 3):
        return None
    return Manifest(task, root, table, head["sha256"], stamps, altered)


def changed(manifest: Manifest) -> list[str]:
    """Files whose size or time differs from what the manifest saw, or that came or went."""
    root = str(manifest.root)
    names = []
    for name, stamp in zip(manifest.table.file, manifest.stamps.tolist(), strict=True):
        try:
            status = os.stat(os.path.join(root, name))  # noqa: PTH116, PTH118  (300,000 times)
            now = _stamp(status)
        except OSError:
            now = _ABSENT
        if now != tuple(stamp):
            names.append(name)
    return names


def open_task(
    task: Task, data, *, source=None, progress=None, name: str | None = None, anew: bool = False
) -> Manifest:
    """The manifest of a task as the disk is now, indexed where that is needed.

    Looks in `source`, else where the last manifest found the data, else in the files that ship
    with the harness, else in `<data>/<task name>`. Only files that are new or changed are read;
    `anew` reads the data set's own tables again even where no sound file changed.
    """
    previous = load(task, data, name=name)
    if not anew and source is None and previous is not None and not changed(previous):
        return previous
    if source is None:
        source = task.bundled or (previous.root if previous else Path(data) / task.name)
        if not Path(source).is_dir():
            raise UserError(
                f"{task.name} is not prepared and not in {source} (--data): get it (see "
                f"{task.homepage or 'docs/tasks.md'}), "
                f"then run `python prepare.py {task.name} --source=DIR`"
            )
    root = find_root(source, task.marker).resolve()
    manifest = build(task, root, previous=previous, progress=progress)
    if previous is None or not _same(manifest, previous):  # its folder may be read-only
        save(manifest, data, name=name)
    return manifest


def _same(a: Manifest, b: Manifest) -> bool:
    """Whether two manifests would be written alike."""
    alike = (a.root, a.sha256, a.altered) == (b.root, b.sha256, b.altered)
    return alike and np.array_equal(a.stamps, b.stamps)


def require_usable(
    manifest: Manifest, *, partial: bool = False, skip_bad: bool = False
) -> Manifest:
    """The manifest with only its usable clips allowed to be absent or bad on request.

    Raises UserError that names the first file where clips are missing without `partial` or
    unreadable without `skip_bad`.
    """
    task = manifest.task
    if manifest.partial and not partial:
        gone = manifest.missing.file
        first = f"; first missing: {gone.iloc[0]}" if len(gone) else ""
        raise UserError(
            f"{task.name}: not complete, {manifest.partial} in {manifest.root}{first}. Complete it "
            "(then `python prepare.py` again, for a registered task), or accept a score that says "
            "so with --partial."
        )
    if len(manifest.bad) and not skip_bad:
        first = manifest.bad.iloc[0]
        raise BadAudio(manifest.root / first.file, first.problem)


def without(manifest: Manifest, bad: dict[int, str]) -> Manifest:
    """The manifest with those clips (row: reason) marked bad that could not be decoded."""
    if not bad:
        return manifest
    table = manifest.table.copy()
    for row, reason in bad.items():
        table.loc[row, "problem"] = reason
    check_usable(manifest.task, table[table.problem == ""])
    return replace(manifest, table=table)
