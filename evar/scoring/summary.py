"""From test scores to what a result says: scores, intervals, per-class values, predictions.

Shared by all classification protocols. R runs, N test clips (of all folds, one after the other),
C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evar.data.manifest import Manifest
from evar.data.targets import Fold
from evar.scoring import metrics, ranking, statistics
from evar.scoring.evaluation import Evaluation, Score
from evar.scoring.metrics import Metric
from evar.scoring.statistics import Stratum


def evaluation(
    manifest: Manifest,
    folds: Sequence[Fold],
    seeds: Sequence[int],
    names: Sequence[str],
    y: NDArray,
    scores: Sequence[Sequence[NDArray]],
    *,
    settings: Mapping[str, object],
    probabilities: Sequence[Sequence[NDArray]] | None = None,
    runs: Sequence[Mapping[str, object]] = (),
    seconds: Mapping[str, float] | None = None,
    extra: Mapping[str, object] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
    threshold: float | None = 0.5,
) -> Evaluation:
    """Scores the test clips of all runs and folds.

    names: (C,). y: targets of the whole manifest, (clips,) or (clips, C). scores[run][fold]: (n, C)
    of the fold's test clips. A run's score is the mean over folds; what is reported is the mean
    over runs. Without seeds there is one run, and predictions have no column for it. threshold:
    multi-label predictions name the classes of this score or more; None names the best class
    alone. probabilities: what predictions show where `scores`, which metrics rank by, are logits.
    `settings`, `runs`, `seconds`, `extra` and `tables` go into the Evaluation.
    Raises ValueError for scores that are not finite.
    """
    metric = metrics.of_task(manifest.task.metric, manifest.task.kind)
    stacked = np.stack([np.concatenate(list(run)) for run in scores])  # (R, N, C)
    test = np.concatenate([fold.test for fold in folds])
    fold_of = np.repeat(np.arange(len(folds)), [len(fold.test) for fold in folds])
    for run in stacked:
        metric.validate(y[test], run)
    found = _per_class(metric, y[test], stacked)
    assert metric.details is not None  # `Metric` has a default
    details = metric.details(y[test], stacked)
    return Evaluation(
        settings=settings,
        seeds=tuple(seeds),
        clips=count_clips(manifest),
        score=_score(manifest, metric, test, fold_of, y[test], stacked),
        predictions=_all_predictions(
            manifest, folds, seeds, names, probabilities or scores, threshold
        ),
        metrics={name: _plain(value) for name, value in details.items()},
        per_class={n: _plain(v) for n, v in zip(names[: len(found)], found, strict=True)},
        undefined_classes=metrics.undefined(found),
        runs=tuple(runs),
        seconds=seconds or {},
        extra=extra or {},
        tables={**_score_tables(manifest, folds, seeds, names, scores), **(tables or {})},
    )


def fold_score(metric: str | Metric, y: NDArray, scores: NDArray) -> float:
    """Returns the score of one fold or validation set: y (N,) or (N, C), scores (N, C)."""
    metric = metrics.get(metric) if isinstance(metric, str) else metric
    return metric.value(y, scores)


def _score(manifest, metric: Metric, test, fold_of, y, scores) -> Score:
    """Computes score and intervals: scores (R, N, C), y and fold_of of the N test clips."""
    parts = [fold_of == fold for fold in np.unique(fold_of)]
    runs = [np.mean([metric.value(y[part], run[part]) for part in parts]) for run in scores]
    groups, unit = _groups(manifest, test)
    assert metric.weighted is not None  # `Metric` has a default
    interval = statistics.over_clips(
        [Stratum(groups[part], metric.weighted(y[part], scores[:, part])) for part in parts],
        replicates=metric.replicates,
        independent=metric.share_of_clips and len(scores) == 1,
        bounded=metric.unit == "fraction",
    )
    return Score(
        metric=metric.name,
        **asdict(statistics.over_runs(runs)),
        test95=_ends(interval),
        test_unit=unit,
        test_groups=len(np.unique(groups)),
        test_clips=len(test),
        chance=_chance(metric, [y[part] for part in parts]),
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
    )


def _chance(metric: Metric, truth: list[NDArray]) -> float | None:
    """Returns the score of a constant prediction: the mean over folds, as of scores."""
    if metric.chance is None:
        return None
    return _plain(np.mean([metric.chance(of_fold) for of_fold in truth]))


def _groups(manifest: Manifest, test: NDArray) -> tuple[NDArray, str]:
    """Returns the group of each test clip, a number (N,), and what a group is.

    A clip without a group is one of its own. Without any, each clip stands for itself.
    """
    groups = manifest.table.group.to_numpy()[test]
    if not (groups != "").any():
        return np.arange(len(test)), "clip"
    own = [group or f"\0{row}" for group, row in zip(groups, test, strict=True)]
    return np.unique(own, return_inverse=True)[1], manifest.task.group or "group"


def _ends(interval: NDArray | None) -> tuple[float, float] | None:
    return None if interval is None else (float(interval[0]), float(interval[1]))


def of_queries(
    found: Mapping[str, Mapping[str, NDArray]],
    clips: Mapping[str, NDArray],
    *,
    headline: tuple[str, str],
) -> tuple[Score, dict[str, dict[str, float]], dict[str, dict[str, tuple[float, float] | None]]]:
    """Summarises retrieval in several directions: the score, all metrics, all intervals.

    found[direction]: `ranking.per_query` of its queries. clips[direction]: (Q,), the clip each
    query belongs to: a clip and all its captions are one group, and the gallery is kept. headline:
    direction and metric of the score.
    """
    shown = {direction: ranking.summary(values) for direction, values in found.items()}
    intervals = {name: _query_intervals(values, clips[name]) for name, values in found.items()}
    direction, metric = headline
    score = Score(
        metric=f"{direction.replace('_', '-')} {metric}",
        **asdict(statistics.over_runs([shown[direction][metric]])),
        test95=intervals[direction][metric],
        test_unit="clip",
        test_groups=len(np.unique(clips[direction])),
        test_clips=len(np.unique(clips[direction])),
    )
    return score, shown, intervals


def _query_intervals(
    values: Mapping[str, NDArray], clips: NDArray
) -> dict[str, tuple[float, float] | None]:
    """Intervals over clips: of means by a jackknife, of the median rank by a bootstrap."""

    def mean_of(name: str):
        return lambda weights: float(np.average(values[name], weights=weights))

    found = {}
    for name in values:
        if name != "rank":
            is_share = bool(np.isin(values[name], (0, 1)).all())  # R@k without ties
            strata = [Stratum(clips, mean_of(name))]
            found[name] = _ends(statistics.over_clips(strata, independent=is_share))

    def median(weights: NDArray) -> float:
        return float(np.median(np.repeat(values["rank"], weights)))

    return found | {"medR": _ends(statistics.of_median(clips, median))}


def _per_class(metric: Metric, y: NDArray, scores: NDArray) -> NDArray:
    """Values of the classes over the pooled test clips, (C,): means over runs."""
    if metric.per_class is None:
        return np.full(0, np.nan)
    return np.mean([metric.per_class(y, run) for run in scores], axis=0)


def _plain(value) -> float | None:
    """Returns a number for JSON, which has neither NaN nor infinity."""
    return float(value) if np.isfinite(value) else None


def _all_predictions(manifest, folds, seeds, names, scores, threshold) -> pd.DataFrame:
    parts = [
        predictions(manifest, fold, seed, names, of_fold, threshold=threshold)
        for seed, run in zip(seeds or (None,), scores, strict=True)
        for fold, of_fold in zip(folds, run, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def predictions(
    manifest: Manifest,
    fold: Fold,
    seed: int | None,
    names: Sequence[str],
    scores: NDArray,
    *,
    threshold: float | None = 0.5,
) -> pd.DataFrame:
    """Returns one row per test clip of a fold and run: clip, fold, seed, true, predicted, score.

    Without a seed there is no such column. Multi-label tasks predict every class with a score of
    `threshold` or more; `score` is that of the most likely class. Where clips have a group (a
    speaker, say) it is the last column: comparisons of models draw clips by it.
    """
    best = scores.argmax(axis=1)
    labels = np.array(names)
    groups = manifest.table.group.to_numpy()[fold.test]
    if manifest.task.multi_label and threshold is not None:
        predicted = [",".join(labels[row >= threshold]) for row in scores]
    else:
        predicted = labels[best]
    return pd.DataFrame(
        {
            "clip": manifest.clips.to_numpy()[fold.test],
            "fold": fold.name,
            **({} if seed is None else {"seed": seed}),
            "true": manifest.table.label.to_numpy()[fold.test],
            "predicted": predicted,
            "score": scores[np.arange(len(best)), best],
            **({"group": groups} if (groups != "").any() else {}),
        }
    )


def _score_tables(manifest, folds, seeds, names, scores) -> dict[str, pd.DataFrame]:
    """Scores of every class, for multi-label tasks: with them, mAP can be computed again."""
    if not manifest.task.multi_label or not seeds:
        return {}
    return {
        f"scores-{seed}": class_scores(manifest, folds, names, run)
        for seed, run in zip(seeds, scores, strict=True)
    }


def class_scores(
    manifest: Manifest, folds: Sequence[Fold], names: Sequence[str], run: Sequence[NDArray]
) -> pd.DataFrame:
    """Returns clip, fold and the score of each class, for the test clips of one run."""
    clips = manifest.clips.to_numpy()
    table = pd.DataFrame(np.concatenate(list(run)).astype(np.float32), columns=list(names))
    places = {
        "clip": np.concatenate([clips[fold.test] for fold in folds]),
        "fold": np.repeat([fold.name for fold in folds], [len(fold.test) for fold in folds]),
    }
    for at, (name, column) in enumerate(places.items()):
        table.insert(at, name, column, allow_duplicates=True)  # a class may have that name
    return table


def confusion(predicted: pd.DataFrame) -> pd.DataFrame:
    """Returns the confusion matrix as a list: true, predicted, count, without empty cells."""
    counted = predicted.groupby(["true", "predicted"]).size()
    return counted.rename("count").reset_index()


def count_clips(manifest: Manifest) -> dict[str, object]:
    """Returns the clips in use on each side, those skipped with reasons, and what is missing."""
    good, bad = manifest.good, manifest.bad
    clips = manifest.clips[bad.index]
    sides = good[manifest.task.column].value_counts().sort_index()
    return {
        **{str(side): int(count) for side, count in sides.items()},
        "total": len(good),
        "skipped": [{"clip": f, "why": p} for f, p in zip(clips, bad.problem, strict=True)],
        "partial": manifest.partial,
    }
