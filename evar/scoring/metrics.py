"""Classification metrics: NumPy in, float or array out, undefined values are NaN and counted.

N clips, C classes, R runs. Scores are float (N, C), higher is more likely. Truth is (N,) classes,
or (N, C) of 0 and 1 where a clip can have several labels. A class without positives (or, for ROC
AUC, without negatives) has no defined value: it is NaN in per-class arrays, left out of means, and
counted by `undefined`.

`METRICS` holds the metrics a task can name. Adding one is one entry there, or, from an installed
package, an entry point of the group `evar.metrics` that leads to a `Metric`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evar import registry
from evar.errors import UserError
from evar.scoring.evaluation import Unit

Statistic = Callable[[NDArray], float]  # of weights (N,): how often each clip is counted


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric that a classification or tagging task can be scored by.

    kinds: names of the task kinds whose truth it takes (evar.task.KINDS). value(truth, scores):
    the score of one run, NaN where it is undefined. validate(truth, scores): raises ValueError for
    input of a wrong shape or with values that are not finite. per_class(truth, scores): (C,), NaN
    where undefined; None for metrics without values of single classes. details(truth, scores):
    further metrics by name, from the scores (R, N, C) of all runs; None gives the mean value alone.
    weighted(truth, scores): a function of weights (N,) for the interval over test clips, the mean
    over runs of the value with every clip counted that often, from scores (R, N, C); None repeats
    the clips. chance(truth): the best score of a model that says the same of every clip; None
    where there is no such score. replicates: how often the weighted value is computed at most,
    less for metrics that are slow. share_of_clips: the value is the share of clips that are right.
    unit: how it is printed; a fraction lies in [0, 1].
    """

    name: str
    title: str
    kinds: frozenset[str]
    value: Callable[[NDArray, NDArray], float]
    validate: Callable[[NDArray, NDArray], object]
    per_class: Callable[[NDArray, NDArray], NDArray] | None = None
    details: Callable[[NDArray, NDArray], Mapping[str, float]] | None = None
    weighted: Callable[[NDArray, NDArray], Statistic] | None = None
    chance: Callable[[NDArray], float] | None = None
    replicates: int = 1000
    share_of_clips: bool = False
    higher_is_better: bool = True
    unit: Unit = "fraction"

    def __post_init__(self):
        if self.details is None:
            object.__setattr__(self, "details", self._mean_value)
        if self.weighted is None:
            object.__setattr__(self, "weighted", self._of_repeated_clips)

    def _mean_value(self, truth: NDArray, scores: NDArray) -> dict[str, float]:
        return {self.name: float(np.mean([self.value(truth, run) for run in scores]))}

    def _of_repeated_clips(self, truth: NDArray, scores: NDArray) -> Statistic:
        def statistic(weights: NDArray) -> float:
            rows = np.repeat(np.arange(len(truth)), weights)
            return float(np.mean([self.value(truth[rows], run[rows]) for run in scores]))

        return statistic


def get(name: str) -> Metric:
    """Returns the metric of this name; UserError with close matches where there is none."""
    if name in METRICS:
        return METRICS[name]
    registry.require_known("metric", name, names())
    return registry.declared("metrics", name, "METRIC", Metric)


def of_task(name: str, kind: str) -> Metric:
    """Returns the metric of this name; UserError where it cannot score this kind of task."""
    found = get(name)
    if kind not in found.kinds:
        raise UserError(f"{name} is a metric of {' and '.join(sorted(found.kinds))}, not of {kind}")
    return found


def names() -> list[str]:
    """Returns the names of all metrics, of this module and of installed packages, sorted."""
    return sorted({*METRICS, *registry.plugins("metrics")})


def format_value(value: float, unit: Unit, digits: int = 1) -> str:
    """Returns a value as it is printed: a fraction in percent without the sign, others plainly."""
    return f"{100 * value:.{digits}f}" if unit == "fraction" else f"{value:g}"


def validate_labels(truth: ArrayLike, predicted: ArrayLike) -> tuple[NDArray, NDArray]:
    """Returns two (N,) arrays of integers; raises ValueError for anything else, or N = 0."""
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.ndim != 1 or truth.shape != predicted.shape:
        raise ValueError(f"labels must be two (N,) arrays, not {truth.shape} and {predicted.shape}")
    if truth.size == 0:
        raise ValueError("no clips to score")
    for name, array in (("truth", truth), ("prediction", predicted)):
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"{name} must be whole numbers, not {array.dtype}")
    return truth, predicted


def validate_scores(truth: ArrayLike, scores: ArrayLike) -> tuple[NDArray, NDArray]:
    """Returns truth (N, C) as bool and finite scores (N, C); raises ValueError otherwise."""
    truth, scores = np.asarray(truth), np.asarray(scores)
    if truth.ndim != 2 or truth.shape != scores.shape:
        raise ValueError(f"need two (N, C) arrays, not {truth.shape} and {scores.shape}")
    if truth.size == 0:
        raise ValueError("no clips to score")
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("truth must be 0 or 1 everywhere")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    return truth.astype(bool), scores


def accuracy(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Computes the share of clips whose predicted class (N,) is the true one (N,), in [0, 1]."""
    truth, predicted = validate_labels(truth, predicted)
    return float((truth == predicted).mean())


def accuracy_per_class(truth: ArrayLike, predicted: ArrayLike, classes: int) -> NDArray:
    """Computes the recall of each class (C,), in [0, 1]; NaN where the truth has no clip of it."""
    truth, predicted = validate_labels(truth, predicted)
    if truth.min() < 0 or truth.max() >= classes:
        raise ValueError(f"true classes must lie in [0, {classes})")
    clips = np.bincount(truth, minlength=classes)
    correct = np.bincount(truth[truth == predicted], minlength=classes)
    return np.divide(correct, clips, out=np.full(classes, np.nan), where=clips > 0)


def average_precision(truth: ArrayLike, scores: ArrayLike) -> NDArray:
    """Computes the average precision of each class (C,): sum of (R_n - R_n-1) P_n over thresholds.

    Clips with equal scores share one threshold, as in scikit-learn's average_precision_score.
    """
    truth, scores = validate_scores(truth, scores)
    return _Ranking.of(truth, scores).average_precision()


@dataclass(frozen=True)
class _Ranking:
    """Clips ordered by score within each class, all (N, C): worked out once, weighted often.

    order: clip numbers. hit: whether the clip has the class. last: whether it is the last clip of
    a run of equal scores, which share one threshold.
    """

    order: NDArray
    hit: NDArray
    last: NDArray

    @classmethod
    def of(cls, truth: NDArray, scores: NDArray) -> "_Ranking":
        order = np.argsort(-scores, axis=0, kind="stable")
        ranked = np.take_along_axis(scores, order, 0)
        last = np.ones_like(order, dtype=bool)
        last[:-1] = ranked[:-1] != ranked[1:]
        return cls(order, np.take_along_axis(truth.astype(bool), order, 0), last)

    def average_precision(self, weights: NDArray | None = None) -> NDArray:
        """Returns (C,), NaN for a class without a positive; weights (N,) count clips repeatedly."""
        if weights is None:
            hits = np.cumsum(self.hit, axis=0)  # true positives so far
            seen = np.arange(1, len(hits) + 1)[:, None]
        else:
            counts = weights[self.order]
            hits = np.cumsum(counts * self.hit, axis=0)
            seen = np.maximum(np.cumsum(counts, axis=0), 1)
        before = np.zeros_like(hits)  # hits at the threshold before
        before[1:] = np.maximum.accumulate(np.where(self.last, hits, 0), axis=0)[:-1]
        area = np.where(self.last, (hits - before) * (hits / seen), 0.0).sum(axis=0)
        total = hits[-1]
        return np.divide(area, total, out=np.full(len(total), np.nan), where=total > 0)


def roc_auc(truth: ArrayLike, scores: ArrayLike) -> NDArray:
    """Computes the area under the ROC curve of each class (C,), in [0, 1]; ties count one half."""
    from scipy.stats import rankdata

    truth, scores = validate_scores(truth, scores)
    ranks = rankdata(scores, axis=0)  # (N, C), from 1, ties averaged
    positives = truth.sum(axis=0)
    pairs = positives * (len(truth) - positives)
    wins = np.where(truth, ranks, 0.0).sum(axis=0) - positives * (positives + 1) / 2
    return np.divide(wins, pairs, out=np.full(truth.shape[1], np.nan), where=pairs > 0)


def d_prime(auc: ArrayLike) -> NDArray:
    """Computes the sensitivity index of an area under the ROC curve: sqrt(2) Phi^-1(area)."""
    from scipy.special import ndtri

    return np.sqrt(2.0) * ndtri(np.asarray(auc, dtype=float))


def mean_defined(values: ArrayLike) -> float:
    """Returns the mean of the values that are not NaN; NaN where there are none."""
    values = np.asarray(values, dtype=float)
    return float(values[~np.isnan(values)].mean()) if not np.isnan(values).all() else float("nan")


def undefined(values: ArrayLike) -> int:
    """Returns how many values are NaN: the classes that a mean leaves out."""
    return int(np.isnan(np.asarray(values, dtype=float)).sum())


def mean_average_precision(truth: ArrayLike, scores: ArrayLike) -> float:
    """Computes macro mAP in [0, 1]: the mean over classes that have a positive clip.

    The reference harness counts a class without one as 0, which lowers mAP of a partial AudioSet
    by the share of such classes.
    """
    return mean_defined(average_precision(truth, scores))


def _validate_classes(truth: ArrayLike, scores: ArrayLike) -> None:
    """Raises ValueError unless truth is (N,) classes below C and scores are finite (N, C)."""
    truth, scores = np.asarray(truth), np.asarray(scores)
    if scores.ndim != 2 or not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite and (N, C), not {scores.shape}")
    accuracy_per_class(truth, scores.argmax(axis=1), scores.shape[1])


def _weighted_accuracy(truth: NDArray, scores: NDArray) -> Statistic:
    correct = (scores.argmax(axis=2) == truth).mean(axis=0)  # (N,): the share of runs
    one_bin = np.zeros(len(correct), np.int64)  # bincount adds in the order of the clips

    def statistic(weights: NDArray) -> float:
        return float((np.bincount(one_bin, weights * correct) / np.bincount(one_bin, weights))[0])

    return statistic


def _weighted_map(truth: NDArray, scores: NDArray) -> Statistic:
    """Classes without a positive clip in a replicate are left out of its mean."""
    rankings = [_Ranking.of(truth, run) for run in scores]

    def statistic(weights: NDArray) -> float:
        return float(np.mean([mean_defined(r.average_precision(weights)) for r in rankings]))

    return statistic


def _tagging_details(truth: NDArray, scores: NDArray) -> dict[str, float]:
    """Computes macro mAP, area under the ROC curve and d', of values averaged over runs."""
    precision = np.mean([average_precision(truth, run) for run in scores], axis=0)
    auc = mean_defined(np.mean([roc_auc(truth, run) for run in scores], axis=0))
    return {
        "mAP": mean_defined(precision),
        "roc_auc": auc,
        "d_prime": float(d_prime(auc)),
    }


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            name="accuracy",
            title="accuracy",
            kinds=frozenset({"classification"}),
            value=lambda truth, scores: accuracy(truth, scores.argmax(axis=1)),
            validate=_validate_classes,
            per_class=lambda truth, scores: accuracy_per_class(
                truth, scores.argmax(axis=1), scores.shape[1]
            ),
            weighted=_weighted_accuracy,
            chance=lambda truth: float(np.bincount(truth).max() / len(truth)),
            share_of_clips=True,
        ),
        Metric(
            name="mAP",
            title="macro mean average precision",
            kinds=frozenset({"tagging"}),
            value=mean_average_precision,
            validate=validate_scores,
            per_class=average_precision,
            details=_tagging_details,
            weighted=_weighted_map,
            chance=lambda truth: mean_average_precision(truth, np.zeros(truth.shape)),
            replicates=200,  # each goes through all clips of all classes
        ),
    )
}
