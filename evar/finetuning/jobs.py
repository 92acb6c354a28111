"""The models that a run of fine-tuning trains, one per seed and fold, and their turns.

Several processes may work on one run: each job is locked by the one that trains it.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock
from numpy.typing import NDArray

from evar import files, locks
from evar.data.manifest import Manifest
from evar.data.targets import Fold
from evar.errors import BadAudio, UserError
from evar.finetuning import streams
from evar.finetuning.checkpoint import Place
from evar.finetuning.settings import Settings
from evar.finetuning.streams import Purpose
from evar.finetuning.waveforms import Waveforms
from evar.parallel import World
from evar.probing import holdout
from evar.runtime import Runtime

_RETRY_SECONDS = 1.0  # between attempts while other processes train all that is left


@dataclass(frozen=True, eq=False)
class Job:
    """One model to train: rows of the manifest on each side, its seed and its folder.

    `valid` selects the epoch; None: the last epoch counts. `held_out` says where it comes from.
    `stream` is the number of the fold; with `seed` it decides all random draws.
    """

    fold: Fold
    train: NDArray
    valid: NDArray | None
    held_out: str
    seed: int
    stream: int
    place: Place


def make_jobs(
    manifest: Manifest,
    folds: Sequence[Fold],
    y: NDArray,
    settings: Settings,
    *,
    seeds: Sequence[int],
    root: Path,
) -> list[Job]:
    """Returns one job per seed and fold, in that order.

    y: targets of the whole manifest, (N,) classes or (N, C) of 0 and 1. Raises UserError for a fold
    that cannot be trained, or whose epoch cannot be selected as `settings.select` says.
    """
    return [
        _job(manifest, fold, stream, y, seed, settings, root)
        for seed in seeds
        for stream, fold in enumerate(folds)
    ]


def _job(
    manifest: Manifest,
    fold: Fold,
    stream: int,
    y: NDArray,
    seed: int,
    settings: Settings,
    root: Path,
) -> Job:
    train, valid, how = fold.train, None, "none"
    if settings.select == "valid":
        valid, how = fold.valid, "valid split"
    elif settings.select == "oracle":
        valid, how = fold.test, "test set"
    elif settings.select == "holdout":
        groups = manifest.table.group.to_numpy()[fold.train]
        rng = streams.rng(Purpose.HOLD_OUT, seed, stream)
        kept, held, how = holdout.tenth(y[fold.train], groups, rng)
        train, valid = fold.train[kept], fold.train[held]
    if len(train) < 2:
        remedy = "; --select=last holds none out" if settings.select == "holdout" else ""
        raise UserError(
            f"{manifest.task.name}, fold {fold.name}: {len(train)} training clips, and fine-tuning "
            f"needs two at least{remedy}"
        )
    if valid is not None and y.ndim == 2 and not y[valid].any():
        raise UserError(
            f"{manifest.task.name}, fold {fold.name}: no validation clip has a class that is "
            "trained, so that no epoch can be selected; --select=last selects none"
        )
    place = Place(root / f"seed-{seed}-fold-{stream + 1}")
    return Job(fold, train, valid, how, seed, stream, place)


def decodable(manifest: Manifest, waveforms: Waveforms, folder: Path, runtime: Runtime) -> Manifest:
    """Returns the manifest without clips that cannot be decoded.

    All clips in use are decoded once, so that a bad one stops the run before it trains. The result
    is kept in `folder`. Raises BadAudio for the first bad clip unless `runtime.skip_bad`.
    """
    path = files.make_folder(folder) / f"bad-clips-{manifest.sha256[:16]}.json"
    with files.writing(path), locks.lock(path.with_suffix(".lock")):
        if path.exists():  # only bad clips are tried again: they may have been repaired
            listed = [int(row) for row in json.loads(path.read_text(encoding="utf-8"))]
            bad = waveforms.bad(listed)
        else:
            bad = waveforms.bad(progress=runtime.progress.counter("decode", "clip"))
        files.write_atomic(path, json.dumps(bad))
    if bad and not runtime.skip_bad:
        row, reason = next(iter(bad.items()))
        raise BadAudio(manifest.root / waveforms.names[row], reason)
    return manifest.without(bad)


def in_turn(jobs: Sequence[Job], world: World, *, forget: float | None = None) -> Iterator[Job]:
    """Yields every job while this world holds its lock; jobs that others train come last.

    forget: a moment (seconds since 1970). What was left in a job's folder before it is removed, but
    not what other processes have done since. None keeps everything.
    """
    waiting = list(jobs)
    while waiting:
        locks = ((job, job.place.lock()) for job in waiting)
        free = (
            (job, lock)
            for job, lock in locks
            if world.broadcast_object(world.first and _acquired(lock))
        )
        job, lock = next(free, (None, None))
        if job is None or lock is None:
            time.sleep(_RETRY_SECONDS)
            continue
        waiting.remove(job)
        try:
            if world.first:
                job.place.tidy()
                if forget is not None and job.place.older_than(forget):
                    job.place.clear()
            world.barrier()
            yield job
            world.barrier()
        finally:
            lock.release()


def _acquired(lock: filelock.FileLock) -> bool:
    """Acquires a lock; False where another process holds it."""
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return False
    return True
