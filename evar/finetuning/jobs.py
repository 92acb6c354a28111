"""The models that a fine-tuning run trains, one per seed and fold, and who trains which when."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import filelock
from numpy.typing import NDArray

from evar import files
from evar.data import targets
from evar.data.manifest import Manifest
from evar.errors import BadAudio, UserError
from evar.finetuning import loop, streams
from evar.finetuning.batches import Job
from evar.finetuning.checkpoint import Place
from evar.finetuning.settings import Settings
from evar.finetuning.streams import For
from evar.finetuning.waveforms import Waveforms
from evar.parallel import World
from evar.probing import holdout
from evar.runtime import Runtime
from evar.scoring import summary


def decodable(manifest: Manifest, waveforms: Waveforms, folder: Path, runtime: Runtime) -> Manifest:
    """The manifest without clips that do not decode: all are tried once, before any training.

    Raises BadAudio for the first of them unless `runtime.skip_bad`.
    """
    path = files.make_folder(folder) / f"bad-clips-{manifest.sha256[:16]}.json"
    with files.writing(path), filelock.FileLock(path.with_suffix(".lock")):
        if path.exists():  # only those that were bad are tried again: they may have been mended
            listed = [int(row) for row in json.loads(path.read_text(encoding="utf-8"))]
            bad = waveforms.bad(listed)
        else:
            bad = waveforms.bad(progress=runtime.progress.counter("decode", "clip"))
        files.write_atomic(path, json.dumps(bad))
    if bad and not runtime.skip_bad:
        row, reason = next(iter(bad.items()))
        raise BadAudio(manifest.root / waveforms.names[row], reason)
    return manifest.without(bad)


def job_of(
    manifest: Manifest,
    fold: targets.Fold,
    stream: int,
    y: NDArray,
    seed: int,
    settings: Settings,
    root: Path,
) -> Job:
    """The sides that a way to select an epoch wants of a fold."""
    train, valid, how = fold.train, None, "none"
    if settings.select == "valid":
        valid, how = fold.valid, "valid split"
    elif settings.select == "oracle":
        valid, how = fold.test, "test set"
    elif settings.select == "holdout":
        groups = manifest.table.group.to_numpy()[fold.train]
        kept, held, how = holdout.tenth(
            y[fold.train], groups, streams.rng(For.HOLD_OUT, seed, stream)
        )
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
            "trained, so that no epoch can be chosen; --select=last chooses none"
        )
    place = Place(root / f"seed-{seed}-fold-{stream + 1}")
    return Job(fold, train, valid, how, seed, stream, place)


def in_turn(jobs: list[Job], world: World, forget: float | None) -> Iterator[Job]:
    """All jobs, each held by this world alone meanwhile; those that others train come last.

    What was left before the moment `forget` is cleared away, not what others have done since.
    """
    waiting = list(jobs)
    while waiting:
        locks = ((job, job.place.lock()) for job in waiting)
        free = ((job, lock) for job, lock in locks if world.agreed(world.first and _held(lock)))
        job, lock = next(free, (None, None))
        if job is None:
            time.sleep(1.0)
            continue
        waiting.remove(job)
        try:
            if world.first:
                job.place.tidy()
                if forget is not None and job.place.older_than(forget):
                    job.place.clear()
            world.wait()
            yield job
            world.wait()
        finally:
            lock.release()


def _held(lock: filelock.FileLock) -> bool:
    """Take a lock, unless another process has it."""
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return False
    return True


def scored(job: Job, adapter, waveforms, y, settings, **more) -> tuple[NDArray, dict]:
    """What the weights that are there score now, with the record of how they were trained."""
    if not job.place.ended:
        raise UserError(
            f"{job.place.path}: no run that has ended. Train first, without --eval_only: what was "
            "interrupted goes on where it was"
        )
    scores = loop.score_exported(job, adapter, waveforms, y, settings, **more)
    metric = waveforms.manifest.task.metric
    score = summary.fold_score(metric, y[job.fold.test], scores)
    return scores, job.place.outcome()[1] | {"score": score}
