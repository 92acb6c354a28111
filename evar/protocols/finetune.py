"""Fine-tuning: an encoder and a head trained end to end, three seeds (docs/finetune.md).

M2D-CLAP (Niizumi et al., Interspeech 2024), Section 4.4. What it writes are the checkpoints it goes
on from when it is run again; reading options and writing results is the business of the scripts.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import filelock
import numpy as np
from numpy.typing import NDArray

import evar
from evar import files
from evar.adapter import Adapter
from evar.data import targets
from evar.data.manifest import Manifest
from evar.errors import BadAudio, UserError
from evar.finetuning import loop, streams
from evar.finetuning.batches import Job
from evar.finetuning.checkpoint import Place, run_key
from evar.finetuning.loop import Report
from evar.finetuning.settings import Settings
from evar.finetuning.streams import For
from evar.finetuning.waveforms import Waveforms
from evar.parallel import ALONE, World
from evar.probing import holdout
from evar.scoring import summary
from evar.scoring.summary import Evaluation

NAME = "finetune"
VERSION = 1  # raise it when scores change
SEEDS = (43, 44, 45)


def evaluate(
    adapter: Adapter,
    identity: dict,
    manifest: Manifest,
    settings: Settings,
    *,
    folder: Path,
    seeds: Sequence[int] = SEEDS,
    overrides: dict | None = None,
    world: World = ALONE,
    device: str = "cpu",
    resume: bool = True,
    eval_only: bool = False,
    skip_bad: bool = False,
    decode_progress: Callable | None = None,
    on_step: Callable[[Report], None] | None = None,
) -> Evaluation:
    """Fine-tune copies of an adapter, one a seed and fold, and score their test sets.

    `settings` and `overrides` are what `evar.finetuning.settings.resolve` gave. `folder` takes the
    checkpoints; folds that have ended there are not trained again, and those that were interrupted
    go on, unless `resume` is False. Several processes may work on one folder: each fold is trained
    by one of them (or by one `world` of them together). `eval_only` scores the weights that are
    there. Raises UserError for what cannot be trained or scored honestly.
    """
    targets.folds_of(manifest)  # a set that cannot be trained on is refused before any work
    waveforms = Waveforms(manifest, adapter.sample_rate)
    manifest = _decodable(manifest, waveforms, Path(folder), skip_bad, decode_progress)
    about = {
        "protocol": NAME,
        "version": VERSION,
        "evar": evar.__version__,
        "model": identity,
        "task": f"{manifest.task.name} {manifest.task.version}",
        "manifest": manifest.sha256,
        "seconds": manifest.task.seconds,
        "skipped": summary.count_clips(manifest)["skipped"],
        "settings": asdict(settings),
    }
    root = Path(folder) / run_key(about)
    names = targets.class_names(manifest)
    y = targets.encode_labels(manifest, names)
    folds = targets.folds_of(manifest)
    jobs = [
        _job(manifest, fold, stream, y, seed, settings, root)
        for seed in seeds
        for stream, fold in enumerate(folds)
    ]
    more = {"world": world, "device": device}
    if eval_only:
        outcomes = [_scored(job, adapter, waveforms, y, settings, **more) for job in jobs]
    else:
        about["classes"] = names
        header = {"evar": json.dumps(about)}
        found = {}
        for job in _in_turn(jobs, world, forget=None if resume else time.time()):
            if not world.agreed(job.place.ended):
                loop.train(
                    job, adapter, waveforms, y, settings, about=header, on_step=on_step, **more
                )
            found[job] = job.place.outcome()
        outcomes = [found[job] for job in jobs]
    return _evaluation(manifest, folds, y, names, settings, seeds, overrides or {}, outcomes)


def _decodable(
    manifest: Manifest, waveforms: Waveforms, folder: Path, skip_bad: bool, progress
) -> Manifest:
    """The manifest without clips that do not decode: all are tried once, before any training.

    Raises BadAudio for the first of them unless `skip_bad`.
    """
    path = files.make_folder(folder) / f"bad-clips-{manifest.sha256[:16]}.json"
    with files.writing(path), filelock.FileLock(path.with_suffix(".lock")):
        if path.exists():  # only those that were bad are tried again: they may have been mended
            listed = [int(row) for row in json.loads(path.read_text(encoding="utf-8"))]
            bad = waveforms.bad(listed)
        else:
            bad = waveforms.bad(progress=progress)
        files.write_atomic(path, json.dumps(bad))
    if bad and not skip_bad:
        row, reason = next(iter(bad.items()))
        raise BadAudio(manifest.root / waveforms.names[row], reason)
    return manifest.without(bad)


def _job(
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


def _in_turn(jobs: list[Job], world: World, forget: float | None) -> Iterator[Job]:
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


def _scored(job: Job, adapter, waveforms, y, settings, **more) -> tuple[NDArray, dict]:
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


def _evaluation(
    manifest, folds, y, names, settings, seeds, overrides, outcomes: list[tuple[NDArray, dict]]
) -> Evaluation:
    """Scores and records of all seeds and folds, in that order, as a result."""
    runs = [outcomes[at : at + len(folds)] for at in range(0, len(outcomes), len(folds))]
    scores = np.stack([np.concatenate([of_fold for of_fold, _ in run]) for run in runs])
    record = {
        "protocol": NAME,
        "protocol_version": VERSION,
        "select": settings.select,
        "settings": asdict(settings),
        "overrides": overrides,
        "seeds": list(seeds),
        "clips": summary.count_clips(manifest),
        **summary.summarise(manifest, folds, y, names, scores),
        "runs": [
            {"seed": seed, "folds": [about for _, about in run]}
            for seed, run in zip(seeds, runs, strict=True)
        ],
        "seconds": {"train": round(sum(about.get("seconds", 0) for _, about in outcomes), 2)},
    }
    by_run = [[of_fold for of_fold, _ in run] for run in runs]
    return summary.evaluation(record, manifest, folds, seeds, names, by_run)
