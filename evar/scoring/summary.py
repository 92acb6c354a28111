"""From test scores to what a result says: scores, intervals, per-class values, predictions.

Shared by all classification protocols. R runs, N test clips (of all folds, one after the other),
C classes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evar.data.manifest import Manifest
from evar.data.targets import Fold
from evar.scoring import metrics, statistics

REPLICATES = {"accuracy": 1000, "mAP": 200}  # of the bootstrap; one of mAP ranks all clips anew
BOOTSTRAP_SEED = 42


@dataclass(frozen=True)
class Evaluation:
    """What a protocol gives: a record of plain values, and one row a test clip, fold and run.

    `tables` are further ones by name, such as "confusion".
    """

    record: dict
    predictions: pd.DataFrame
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)


def fold_score(metric: str, y: NDArray, scores: NDArray) -> float:
    """Accuracy of (N, C) scores for (N,) classes, or macro mAP for 0/1 (N, C)."""
    if metric == "accuracy":
        return metrics.accuracy(y, scores.argmax(axis=1))
    return metrics.mean_average_precision(y, scores)


def summarise(
    manifest: Manifest, folds: list[Fold], y: NDArray, names: list[str], scores: NDArray
) -> dict:
    """The score with its intervals, further metrics and per-class values.

    y: targets of the whole manifest. scores: (R, N, C), the test clips of the folds in order. A
    run's score is the mean over folds; what is reported is the mean over runs.
    """
    test = np.concatenate([fold.test for fold in folds])
    fold_of = np.repeat(np.arange(len(folds)), [len(fold.test) for fold in folds])
    metric = manifest.task.metric
    runs = [
        np.mean([fold_score(metric, y[test][fold_of == f], s[fold_of == f]) for f in set(fold_of)])
        for s in scores
    ]
    score = {"metric": metric, **asdict(statistics.over_runs(runs))}
    return {
        "score": score | _bootstrap(manifest, test, fold_of, y[test], scores),
        **_details(y[test], scores, names),
    }


def _details(y: NDArray, scores: NDArray, names: list[str]) -> dict:
    """Metrics over the pooled test clips and per-class values: means over runs."""
    if y.ndim == 1:
        per_class = [metrics.accuracy_per_class(y, s.argmax(axis=1), len(names)) for s in scores]
        further = {"accuracy": np.mean([metrics.accuracy(y, s.argmax(axis=1)) for s in scores])}
    else:
        per_class = [metrics.average_precision(y, s) for s in scores]
        auc = metrics.mean_defined(np.mean([metrics.roc_auc(y, s) for s in scores], axis=0))
        further = {
            "mAP": metrics.mean_defined(np.mean(per_class, axis=0)),
            "roc_auc": auc,
            "d_prime": metrics.d_prime(auc),
        }
    mean = np.mean(per_class, axis=0)
    return {
        "metrics": {name: _plain(value) for name, value in further.items()},
        "per_class": {name: _plain(value) for name, value in zip(names, mean, strict=True)},
        "undefined_classes": metrics.undefined(mean),
    }


def _plain(value) -> float | None:
    """A number for JSON, which has neither NaN nor infinity."""
    return float(value) if np.isfinite(value) else None


def _bootstrap(manifest, test, fold_of, y, scores) -> dict:
    """A 95 % interval over test clips, by group where every clip has one."""
    task = manifest.task
    groups = manifest.table.group.to_numpy()[test]
    grouped = bool((groups != "").all())
    if task.metric == "accuracy":
        statistic = _weighted_accuracy((scores.argmax(axis=2) == y).mean(axis=0), fold_of)
    else:
        statistic = _weighted_map(y, scores, fold_of)
    low, high = statistics.bootstrap_clusters(
        groups if grouped else test,
        statistic,
        np.random.default_rng(BOOTSTRAP_SEED),
        strata=fold_of,
        replicates=REPLICATES[task.metric],
    )
    unit = (task.group or "group") if grouped else "clip"
    return {"bootstrap95": [low, high], "bootstrap_unit": unit}


def _weighted_accuracy(correct: NDArray, fold_of: NDArray):
    """Mean over folds of the accuracy of weighted clips; `correct` is (N,), the share of runs."""

    def statistic(weights: NDArray) -> float:
        return float(
            np.mean(np.bincount(fold_of, weights * correct) / np.bincount(fold_of, weights))
        )

    return statistic


def _weighted_map(y: NDArray, scores: NDArray, fold_of: NDArray):
    parts = [
        (fold_of == f, statistics.weighted_average_precision(y[fold_of == f], s[fold_of == f]))
        for s in scores
        for f in set(fold_of)
    ]

    def statistic(weights: NDArray) -> float:
        return float(np.mean([of_part(weights[rows]) for rows, of_part in parts]))

    return statistic


def evaluation(
    record: dict,
    manifest: Manifest,
    folds: list[Fold],
    seeds: Sequence[int],
    names: list[str],
    scores: Sequence[Sequence[NDArray]],
) -> Evaluation:
    """A record with its tables: predictions, and the class scores of multi-label tasks.

    `scores` holds (n, C) for each run and fold.
    """
    of_folds = [
        predictions(manifest, fold, seed, names, of_fold)
        for seed, run in zip(seeds, scores, strict=True)
        for fold, of_fold in zip(folds, run, strict=True)
    ]
    tables = {
        f"scores-{seed}": _class_scores(manifest, folds, names, run)
        for seed, run in zip(seeds, scores, strict=True)
        if manifest.task.multi_label
    }
    return Evaluation(record, pd.concat(of_folds, ignore_index=True), tables)


def predictions(
    manifest: Manifest, fold: Fold, run: int, names: list[str], scores: NDArray
) -> pd.DataFrame:
    """One row a test clip of one fold and run: clip, fold, seed, true, predicted, score.

    Multi-label tasks predict every class with a score of one half or more; `score` is that of
    the likeliest class.
    """
    best = scores.argmax(axis=1)
    labels = np.array(names)
    if manifest.task.multi_label:
        predicted = [",".join(labels[row >= 0.5]) for row in scores]
    else:
        predicted = labels[best]
    return pd.DataFrame(
        {
            "clip": manifest.table.file.to_numpy()[fold.test],
            "fold": fold.name,
            "seed": run,
            "true": manifest.table.label.to_numpy()[fold.test],
            "predicted": predicted,
            "score": scores[np.arange(len(best)), best],
        }
    )


def _class_scores(
    manifest: Manifest, folds: list[Fold], names: list[str], run: Sequence[NDArray]
) -> pd.DataFrame:
    """Clip, fold and the score of each class: with them, mAP can be computed again."""
    files = manifest.table.file.to_numpy()
    table = pd.DataFrame(np.concatenate(run).astype(np.float32), columns=names)
    places = {
        "clip": np.concatenate([files[fold.test] for fold in folds]),
        "fold": np.repeat([fold.name for fold in folds], [len(fold.test) for fold in folds]),
    }
    for at, (name, column) in enumerate(places.items()):
        table.insert(at, name, column, allow_duplicates=True)  # a class may be called so
    return table


def count_clips(manifest: Manifest) -> dict:
    """Clips in use on each side, those left out and why, and whether the set is partial."""
    good, bad = manifest.good, manifest.bad
    return {
        **good[manifest.task.column].value_counts().sort_index().to_dict(),
        "total": len(good),
        "skipped": [{"clip": f, "why": p} for f, p in zip(bad.file, bad.problem, strict=True)],
        "partial": manifest.partial,
    }
