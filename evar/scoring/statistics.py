"""How certain a score is: intervals over runs and over test clips.

Both are Student t intervals. docs/results.md says how often the second one covers the true score,
and `benchmarks/coverage.py` computes that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
FEWEST = 5  # groups: with fewer, an interval would say next to nothing, or not cover


@dataclass(frozen=True)
class Summary:
    """Scores of several runs: mean, 95 % half width (None for one run), deviation, their number."""

    mean: float
    ci95: float | None
    std: float | None
    runs: int


def over_runs(scores: ArrayLike) -> Summary:
    """Mean of runs (R,) with a Student t interval: mean +- t(0.975, R - 1) s / sqrt(R).

    One run has no interval. Raises ValueError for no run or a score that is not finite.
    """
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 1 or scores.size == 0 or not np.isfinite(scores).all():
        raise ValueError(f"need finite scores of one run or more, not {scores}")
    if scores.size == 1:
        return Summary(float(scores[0]), None, None, 1)
    std = float(scores.std(ddof=1))
    t = _quantile(scores.size - 1)
    return Summary(float(scores.mean()), t * std / np.sqrt(scores.size), std, scores.size)


def _quantile(freedom: float) -> float:
    """The two-sided 95 % quantile of Student's t; of the normal distribution for infinity."""
    from scipy.special import ndtri, stdtrit

    upper = (1 + CONFIDENCE) / 2
    return float(ndtri(upper) if np.isinf(freedom) else stdtrit(freedom, upper))


@dataclass(frozen=True, eq=False)
class Stratum:
    """Test clips that are drawn apart from others: those of one fold.

    groups: (N,), equal for clips that are not independent (one speaker, one recording). statistic:
    of weights (N,), how often each clip is counted; several values give several intervals.
    """

    groups: NDArray
    statistic: Callable[[NDArray], ArrayLike]

    def value(self) -> NDArray:
        return np.asarray(self.statistic(np.ones(len(self.groups), np.int64)), dtype=float)

    def draws(self, groups: NDArray, rng: np.random.Generator, replicates: int) -> NDArray:
        """Returns the statistic of every replicate: (replicates, ...).

        One group fewer is drawn than there are, so that the variance of the replicates is an
        unbiased estimate (Rao and Wu 1988); with n draws it would be (n - 1) / n of that.
        """
        _, group = np.unique(groups, return_inverse=True)
        count = int(group.max()) + 1
        share = np.full(count, 1 / count)
        return np.array(
            [self.statistic(rng.multinomial(count - 1, share)[group]) for _ in range(replicates)],
            dtype=float,
        )


def over_clips(
    strata: Sequence[Stratum],
    rng: np.random.Generator,
    *,
    replicates: int = 1000,
    bernoulli: bool = False,
) -> tuple[float, float] | None:
    """95 % interval over test clips of a score in [0, 1], the mean of a statistic over strata.

    The variance is that of a bootstrap which draws whole groups within each stratum (Cameron,
    Gelbach and Miller 2008), and at least that of single clips: groups do not make a score more
    certain. A stratum of one group has the variance between strata. From it and the score follows
    the number of independent clips that would be as certain; the ends are Wilson's for that number
    (as in Korn and Graubard 1998), with Student's t on groups minus strata degrees of freedom. So
    they stay in [0, 1] and are no point where all groups score alike.

    bernoulli: the score is a share of right clips; then its variance follows from the score where
    clips are independent, and the quantile is the normal distribution's.

    Returns None where there are fewer than FEWEST groups, or degrees of freedom than FEWEST - 1.
    """
    strata = _joined(strata)
    counts = np.array([len(np.unique(stratum.groups)) for stratum in strata])
    single = counts == 1
    freedom = counts.sum() - len(strata) + (len(strata) - 1 if single.any() else 0)
    if counts.sum() < FEWEST or freedom < FEWEST - 1:
        return None
    values = np.array([stratum.value() for stratum in strata])
    clips = sum(len(stratum.groups) for stratum in strata)
    grouped = counts.sum() < clips
    variances = np.empty(len(strata))
    for at, stratum in enumerate(strata):
        every = np.arange(len(stratum.groups))
        if single[at]:
            variances[at] = values.var(ddof=1)
        else:
            variances[at] = _variance(stratum.draws(stratum.groups, rng, replicates))
        if grouped and len(every) > 1:
            alone = _variance(stratum.draws(every, rng, replicates))
            variances[at] = max(variances[at], alone)
    variance = variances.sum() / len(strata) ** 2
    quantile = _quantile(np.inf if bernoulli and not grouped else freedom)
    return _wilson(float(values.mean()), variance, int(counts.sum()), quantile)


def _joined(strata: Sequence[Stratum]) -> Sequence[Stratum]:
    """The strata; a single one of all clips where a group has clips in several of them."""
    seen = [set(np.unique(stratum.groups).tolist()) for stratum in strata]
    if sum(map(len, seen)) == len(set().union(*seen)):
        return strata
    ends = np.cumsum([len(stratum.groups) for stratum in strata])

    def statistic(weights: NDArray) -> float:
        parts = np.split(weights, ends[:-1])
        found = [s.statistic(w) if w.any() else np.nan for s, w in zip(strata, parts, strict=True)]
        return np.nanmean(found)

    return [Stratum(np.concatenate([stratum.groups for stratum in strata]), statistic)]


def _variance(replicates: NDArray) -> float:
    """The variance of replicates, without those in which the statistic is undefined."""
    return float(np.nanvar(replicates, ddof=1))


def _wilson(value: float, variance: float, groups: int, quantile: float) -> tuple[float, float]:
    """Wilson's interval of a share, of as many independent clips as the variance amounts to.

    Where the variance is 0 (all right, or all groups alike), each group counts as one clip.
    """
    spread = value * (1 - value)
    clips = spread / variance if spread > 0 and variance > 0 else groups
    square = quantile**2 / clips
    middle = (value + square / 2) / (1 + square)
    half = np.sqrt(square * (spread + square / 4)) / (1 + square)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))
