"""Fine-tuning: an encoder and a head trained end to end, three seeds (docs/finetune.md).

M2D-CLAP (Niizumi et al., Interspeech 2024), Section 4.4. What it writes are the checkpoints it goes
on from when it is run again; reading options and writing results is the business of the scripts.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import evar
from evar.adapter import Adapter
from evar.data import targets
from evar.data.manifest import Manifest
from evar.errors import UserError
from evar.finetuning import jobs as jobs_
from evar.finetuning import loop
from evar.finetuning.checkpoint import run_key
from evar.finetuning.jobs import Job
from evar.finetuning.loop import Report
from evar.finetuning.settings import Settings
from evar.finetuning.waveforms import Waveforms
from evar.parallel import SINGLE_PROCESS, World
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
    world: World = SINGLE_PROCESS,
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
    manifest = jobs_.decodable(
        manifest, waveforms, Path(folder), skip_bad=skip_bad, progress=decode_progress
    )
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
    jobs = jobs_.make_jobs(manifest, folds, y, settings, seeds=seeds, root=root)
    more = {"world": world, "device": device}
    if eval_only:
        outcomes = [_scored(job, adapter, waveforms, y, settings, **more) for job in jobs]
    else:
        about["classes"] = names
        header = {"evar": json.dumps(about)}
        found = {}
        for job in jobs_.in_turn(jobs, world, forget=None if resume else time.time()):
            if not world.broadcast_object(job.place.ended):
                loop.train(
                    job, adapter, waveforms, y, settings, about=header, on_step=on_step, **more
                )
            found[job] = job.place.outcome()
        outcomes = [found[job] for job in jobs]
    return _evaluation(manifest, folds, y, names, settings, seeds, overrides or {}, outcomes)


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
