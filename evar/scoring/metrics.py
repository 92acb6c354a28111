"""Classification metrics: NumPy in, float or array out, nothing undefined in silence.

N clips, C classes. Scores are float (N, C), higher is likelier; multi-label truth is (N, C) of
0 and 1. A class without positives (or, for ROC AUC, without negatives) has no defined value: it
is NaN in per-class arrays, left out of means, and counted by `undefined`.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def validate_labels(truth: ArrayLike, predicted: ArrayLike) -> tuple[NDArray, NDArray]:
    """Two (N,) arrays of whole numbers; raises ValueError for anything else, or N = 0."""
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
    """Two (N, C) arrays, truth of 0 and 1, scores finite; raises ValueError for anything else."""
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
    """Share of clips whose predicted class (N,) is the true one (N,), in [0, 1]."""
    truth, predicted = validate_labels(truth, predicted)
    return float((truth == predicted).mean())


def accuracy_per_class(truth: ArrayLike, predicted: ArrayLike, classes: int) -> NDArray:
    """Recall of each class, float (C,) in [0, 1]; NaN where the truth has no clip of it."""
    truth, predicted = validate_labels(truth, predicted)
    if truth.min() < 0 or truth.max() >= classes:
        raise ValueError(f"true classes must lie in [0, {classes})")
    clips = np.bincount(truth, minlength=classes)
    correct = np.bincount(truth[truth == predicted], minlength=classes)
    return np.divide(correct, clips, out=np.full(classes, np.nan), where=clips > 0)


def average_precision(truth: ArrayLike, scores: ArrayLike) -> NDArray:
    """Average precision of each class, float (C,): sum of (R_n - R_n-1) P_n over thresholds.

    Clips with equal scores share one threshold, as in scikit-learn's average_precision_score.
    """
    truth, scores = validate_scores(truth, scores)
    order = np.argsort(-scores, axis=0, kind="stable")  # (N, C)
    hits = np.cumsum(np.take_along_axis(truth, order, 0), axis=0)  # true positives so far
    ranked = np.take_along_axis(scores, order, 0)
    last = np.ones_like(truth)  # the last clip of each run of equal scores: a threshold
    last[:-1] = ranked[:-1] != ranked[1:]
    found = np.where(last, hits, 0)
    before = np.zeros_like(hits)
    before[1:] = np.maximum.accumulate(found, axis=0)[:-1]  # hits at the threshold before
    precision = hits / np.arange(1, len(hits) + 1)[:, None]
    total = hits[-1]
    area = np.where(last, (hits - before) * precision, 0.0).sum(axis=0)
    return np.divide(area, total, out=np.full(truth.shape[1], np.nan), where=total > 0)


def roc_auc(truth: ArrayLike, scores: ArrayLike) -> NDArray:
    """Area under the ROC curve of each class, float (C,) in [0, 1]; ties count one half."""
    from scipy.stats import rankdata

    truth, scores = validate_scores(truth, scores)
    ranks = rankdata(scores, axis=0)  # (N, C), from 1, ties averaged
    positives = truth.sum(axis=0)
    pairs = positives * (len(truth) - positives)
    wins = np.where(truth, ranks, 0.0).sum(axis=0) - positives * (positives + 1) / 2
    return np.divide(wins, pairs, out=np.full(truth.shape[1], np.nan), where=pairs > 0)


def d_prime(auc: ArrayLike) -> NDArray:
    """Sensitivity index of an area under the ROC curve: sqrt(2) times its normal quantile."""
    from scipy.special import ndtri

    return np.sqrt(2.0) * ndtri(np.asarray(auc, dtype=float))


def mean_defined(values: ArrayLike) -> float:
    """Mean of the values that are not NaN; NaN where there are none."""
    values = np.asarray(values, dtype=float)
    return float(values[~np.isnan(values)].mean()) if not np.isnan(values).all() else float("nan")


def undefined(values: ArrayLike) -> int:
    """How many values are NaN: classes a mean leaves out."""
    return int(np.isnan(np.asarray(values, dtype=float)).sum())


def mean_average_precision(truth: ArrayLike, scores: ArrayLike) -> float:
    """Macro mAP in [0, 1]: the mean over classes that have a positive clip."""
    return mean_defined(average_precision(truth, scores))
