"""Linear evaluation: frozen embeddings, a linear probe, three seeds (docs/protocols.md).

A pure function of model, task, settings and seeds; reading options and writing results is the
business of the scripts.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from evar import models
from evar.adapter import Adapter
from evar.data import targets
from evar.data.manifest import Manifest
from evar.embedding import embeddings
from evar.errors import UserError
from evar.probing import probe
from evar.probing.probe import ProbeSettings
from evar.scoring import summary
from evar.scoring.summary import Evaluation
from evar.task import Task

NAME = "linear"
VERSION = 1  # raise it when scores change


@dataclass(frozen=True)
class LinearSettings:
    """What can be chosen: the probe, the seeds of its runs, the seed of the crops they share."""

    probe: ProbeSettings = ProbeSettings()
    seeds: tuple[int, ...] = (42, 43, 44)
    crop_seed: int = 42


def learning_rate(config: models.ModelConfig, task: Task) -> float:
    """The probe's rate: the model's for this task, else the task's, else the model's usual one."""
    return config.lr_by_task.get(task.name) or task.lr or config.lr


def evaluate(
    adapter: Adapter,
    identity: dict,
    manifest: Manifest,
    settings: LinearSettings,
    *,
    cache: Path | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    batch_size: int | None = None,
    skip_bad: bool = False,
    embed_progress: Callable | None = None,
    probe_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Embed a task with an adapter, train the probes of all folds and seeds, score the test sets.

    `identity` is `evar.models.identity(adapter, config)`. Raises UserError for data that cannot be
    scored honestly and for adapters that give anything but finite embeddings.
    """
    targets.folds_of(manifest)  # a set that cannot be trained on is refused before any work
    started = perf_counter()
    embedded = embeddings.embed_task(
        adapter,
        identity,
        manifest,
        cache=cache,
        crop_seed=settings.crop_seed,
        device=device,
        precision=precision,
        batch_size=batch_size,
        skip_bad=skip_bad,
        progress=embed_progress,
    )
    embedding_ended = perf_counter()
    manifest = manifest.without(embedded.bad)
    names = targets.class_names(manifest)
    y = targets.encode_labels(manifest, names)
    folds = targets.folds_of(manifest)
    try:
        fitted = _fit(embedded, y, folds, settings, device, probe_progress)
    except ValueError as error:
        raise UserError(f"{manifest.task.name}: {error}") from error
    probing_ended = perf_counter()

    scores = [[probe.predicted_scores(fit.logits) for fit in run] for run in fitted]
    record = {
        "protocol": NAME,
        "protocol_version": VERSION,
        "settings": {
            **asdict(settings.probe),
            "crop_seed": settings.crop_seed,
            "precision": precision,
        },
        "seeds": list(settings.seeds),
        "clips": summary.count_clips(manifest),
        **summary.summarise(
            manifest, folds, y, names, np.stack([np.concatenate(run) for run in scores])
        ),
        "runs": [
            {"seed": seed, "folds": [_fold_record(*f, y) for f in zip(folds, run, strict=True)]}
            for seed, run in zip(settings.seeds, fitted, strict=True)
        ],
        "seconds": {
            "embed": round(embedding_ended - started, 2),
            "probe": round(probing_ended - embedding_ended, 2),
        },
    }
    return summary.evaluation(record, manifest, folds, settings.seeds, names, scores)


def _fit(embedded, y, folds, settings, device, progress) -> list[list[probe.Fitted]]:
    """Train one probe a seed and fold, all together: fitted[seed][fold]."""
    of_views = np.zeros((len(embedded.values), *y.shape[1:]), y.dtype)
    for rows in (embedded.first, embedded.cropped):  # a clip's views share its label
        of_views[rows[rows >= 0]] = y[rows >= 0]
    sides = [
        (
            embeddings.training_rows(embedded, fold.train),
            None if fold.valid is None else embeddings.training_rows(embedded, fold.valid),
            embeddings.test_rows(embedded, fold.test),
        )
        for fold in folds
    ]
    jobs = [
        probe.Job(*rows, seed, stream)
        for seed in settings.seeds
        for stream, rows in enumerate(sides)
    ]
    fitted = probe.fit(
        embedded.values,
        of_views,
        jobs,
        settings.probe,
        device=device,
        overwrite_x=True,
        on_epoch=progress,
    )
    return [fitted[at : at + len(folds)] for at in range(0, len(fitted), len(folds))]


def _fold_record(fold: targets.Fold, fit: probe.Fitted, y: np.ndarray) -> dict:
    return {
        "fold": fold.name,
        "score": probe.score(fit.logits, y[fold.test]),
        "best_epoch": fit.best_epoch,
        "epochs": fit.epochs,
        "valid_score": fit.valid_score,
        "held_out": fit.held_out,
    }
