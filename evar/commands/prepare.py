"""`prepare TASK`: index a data set, or download it first. Heavy imports are inside."""

import functools
from collections.abc import Callable
from pathlib import Path

from fire.decorators import SetParseFns

from evar.errors import UserError
from evar.progress import SILENT, Progress, Terminal


@SetParseFns(task=str, source=str, data=str)
def prepare(task, *, source=None, data=None, download=False, hash=False, quiet=False):
    """Index and verify a data set that is on disk, or download it first.

    usage: prepare TASK [options]

    TASK           a registered name (`evar list tasks`), the path of a CSV with the columns
                   file,label,split (or fold) and optionally group,start,end (.tsv and .xlsx do as
                   well), or "all": every data set that is found in --source

    --source=DIR   the data set's folder (it stays where it is); default: where it was last time,
                   else DATA/TASK
    --download     fetch what is openly served into DATA/TASK; says what to do by hand for the rest
    --data=DIR     where manifests are kept; default: $EVAR_DATA or data/
    --hash         read every file now for its fingerprint; default: a set larger than half of the
                   free memory is hashed as its first evaluation decodes it
    --quiet        no progress bar
    """
    from evar import run
    from evar.data.opening import data_folder, open_task

    data = data_folder(data)
    progress = SILENT if quiet else Terminal()
    hashed_below = None if hash else run.hash_limit()
    if task == "all":
        return _prepare_all(source, data, hashed_below, progress)
    from evar import task as tasks
    from evar.data import indexing, own_sounds
    from evar.data import prepare as prepare_

    if own_sounds.is_csv(task):
        if source or download:
            given = "--source" if source else "--download"
            raise UserError(f"{given}: the files of a CSV lie next to it; leave it out")
    else:
        registered = tasks.get(task)
        bytes_ = None if quiet else _bytes(f"download {task}")
        folder = Path(source) if source else data / task
        if download:
            if unverified := prepare_.unverified(registered):
                what = ", ".join(unverified)
                print(f"{task}: no published checksum, taken as they come: {what}")
            prepare_.fetch_all(registered, folder, bytes_)
        if source or folder.is_dir():
            root = indexing.find_root(folder, registered.marker)
            prepare_.fetch_tables(registered, root, bytes_)
    manifest = open_task(
        task,
        data=data,
        source=source,
        reindex=True,
        hashed_below=hashed_below,
        progress=progress,
    )
    name, column = manifest.task.name, manifest.task.column
    counts = manifest.good[column].value_counts().sort_index()
    print(f"{name}: {len(manifest.good):,} clips in {manifest.root}")
    print("  " + ", ".join(f"{column} {side}: {count:,}" for side, count in counts.items()))
    print(f"  {_identity(manifest)}")
    if unheard := manifest.unheard():
        print(f"  {unheard}")
    for kind, rows in (("missing", manifest.missing), ("unreadable", manifest.bad)):
        for file, problem in zip(rows.file, rows.problem, strict=True):
            print(f"  {kind}: {file}" + (f": {problem}" if kind != "missing" else ""))
    print(f"  {_verdict(manifest)}")


def _bytes(title: str) -> Callable:
    """Returns a bar for downloads: a function of (total, initial), both in bytes."""
    from tqdm import tqdm

    more = {"unit": "B", "unit_scale": True, "leave": False, "delay": 0.5}
    return functools.partial(tqdm, desc=title, **more)


def _identity(manifest) -> str:
    if manifest.unhashed is None:
        return f"manifest {manifest.sha256[:16]}"
    size = f"{manifest.unhashed.bytes / 1e9:,.1f} GB"
    return f"{size} are hashed as the first evaluation decodes them (--hash: now)"


def _verdict(manifest) -> str:
    if manifest.partial:
        return f"NOT COMPLETE: {manifest.partial}; scores need --partial and say so"
    if len(manifest.bad):
        return f"{len(manifest.bad)} unreadable: scores need --skip_bad and say so"
    return "complete"


def _prepare_all(source, data: Path, hashed_below: int | None, progress: Progress) -> None:
    """Index every registered data set that lies in a folder; one line each."""
    from evar import task as tasks
    from evar.data import prepare as prepare_
    from evar.data.opening import open_task

    if source is None or not Path(source).is_dir():
        raise UserError("prepare all needs --source=DIR, a folder that holds data sets")
    print(f"{'task':<14} {'clips':>10} {'expected':>10}  verdict")
    for name in tasks.names():
        try:
            task = tasks.get(name)
        except UserError as error:  # a faulty file or plug-in; the others are prepared
            print(f"{name:<14} {'-':>10} {'-':>10}  {error}")
            continue
        expected = f"{sum(task.counts.values()):,}"
        root = task.bundled or prepare_.locate(task, source)
        if root is None:
            print(f"{name:<14} {'-':>10} {expected:>10}  not found")
            continue
        try:
            prepare_.fetch_tables(task, root)
            manifest = open_task(
                name, data=data, source=root, hashed_below=hashed_below, progress=progress
            )
        except UserError as error:
            print(f"{name:<14} {'-':>10} {expected:>10}  {error}")
            continue
        clips_ = f"{len(manifest.good):,}"
        print(f"{name:<14} {clips_:>10} {expected:>10}  {_verdict(manifest)} ({manifest.root})")
