"""How sure a score is: intervals over runs and over test clips."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Summary:
    """Scores of several runs: mean, 95 % half width (None for one run), deviation, their number."""

    mean: float
    ci95: float | None
    std: float | None
    runs: int


def over_runs(scores: ArrayLike) -> Summary:
    """Mean of runs (R,) with a Student-t interval: mean +- t(0.975, R - 1) s / sqrt(R).

    One run has no interval. Raises ValueError for no run or a score that is not finite.
    """
    from scipy.special import stdtrit

    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 1 or scores.size == 0 or not np.isfinite(scores).all():
        raise ValueError(f"need finite scores of one run or more, not {scores}")
    if scores.size == 1:
        return Summary(float(scores[0]), None, None, 1)
    std = float(scores.std(ddof=1))
    t = float(stdtrit(scores.size - 1, 0.975))
    return Summary(float(scores.mean()), t * std / np.sqrt(scores.size), std, scores.size)


def bootstrap_clusters(
    groups: ArrayLike,
    statistic: Callable[[NDArray], ArrayLike],
    rng: np.random.Generator,
    *,
    strata: ArrayLike | None = None,
    replicates: int = 1000,
) -> tuple[float, float] | tuple[NDArray, NDArray]:
    """95 % percentile interval of a statistic over test clips, resampled by whole groups.

    `groups` (N,) says which clips belong together (one speaker, one recording): they are drawn or
    left out as one, because they are not independent (Cameron, Gelbach and Miller 2008).
    `strata` (N,), such as the test fold, is kept: groups are drawn within each. `statistic` gets
    the weight of every clip (N,): how often its group was drawn. Where it gives several values,
    low and high ends are arrays of as many.
    """
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    strata = np.zeros(len(group)) if strata is None else np.asarray(strata)
    members = [np.unique(group[strata == s]) for s in np.unique(strata)]
    values = []
    for _ in range(replicates):
        weights = np.zeros(len(group), dtype=np.int64)
        for stratum, present in zip(np.unique(strata), members, strict=True):
            drawn = rng.multinomial(len(present), np.full(len(present), 1 / len(present)))
            times = np.zeros(group.max() + 1, dtype=np.int64)
            times[present] = drawn
            here = strata == stratum
            weights[here] = times[group[here]]
        values.append(statistic(weights))
    low, high = np.nanpercentile(values, [2.5, 97.5], axis=0)
    return (low, high) if np.ndim(low) else (float(low), float(high))
