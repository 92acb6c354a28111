"""How certain a score is: intervals over runs and over test clips.

docs/results.md says how often the interval over test clips covers the true score, and
`benchmarks/coverage.py` computes that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
FEWEST = 5  # groups: of fewer, no interval is both honest and of use
_SEED = 42  # of the blocks that many groups are joined into, and of the bootstrap


@dataclass(frozen=True)
class Summary:
    """Scores of several runs: mean, 95 % half width (None for one run), deviation, their number."""

    mean: float
    ci95: float | None
    std: float | None
    runs: int


def over_runs(scores: ArrayLike) -> Summary:
    """Computes the mean of runs (R,) and its Student t interval, +- t(0.975, R - 1) s / sqrt(R).

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
    """Test clips that were drawn apart from others: those of one fold.

    groups: (N,), equal for clips that are not independent (one speaker, one recording). statistic:
    of weights (N,), how often each clip is counted: one value, or several, (K,).
    """

    groups: NDArray
    statistic: Callable[[NDArray], ArrayLike]

    def of(self, weights: NDArray) -> NDArray:
        return np.asarray(self.statistic(weights), dtype=float)

    @property
    def value(self) -> NDArray:
        return self.of(np.ones(len(self.groups), np.int64))

    @property
    def count(self) -> int:
        return len(np.unique(self.groups))


def over_clips(
    strata: Sequence[Stratum],
    *,
    replicates: int = 1000,
    independent: bool = False,
    bounded: bool = True,
) -> NDArray | None:
    """Computes the 95 % interval over test clips of a mean over strata, low and high end: (2, ...).

    Variance and bias are those of a jackknife that leaves out one group after the other within
    each stratum (Efron and Stein 1981); the variance is at least that of single clips, since groups
    make no score more certain. A stratum of one group has the variance between strata. The
    quantile is Student's on groups minus strata degrees of freedom.

    bounded: the score lies in [0, 1]. Its variance is then that of a share of so many independent
    clips, and the ends are Wilson's for their number (as in Korn and Graubard 1998): they stay in
    [0, 1], and are no point where all groups score alike. independent: the score is a share of
    clips; without groups the variance then follows from the score, so that the quantile is the
    normal distribution's. replicates: at most so many groups are left out one by one, more are
    joined at random into so many blocks.

    Returns None for fewer than FEWEST groups, or FEWEST - 1 degrees of freedom.
    """
    strata = _joined(strata)
    counts = np.array([stratum.count for stratum in strata])
    freedom = int(counts.sum() - len(strata) + (len(strata) - 1) * (counts == 1).any())
    if counts.sum() < FEWEST or freedom < FEWEST - 1:
        return None
    values = np.array([stratum.value for stratum in strata])  # (H, ...)
    between = values.var(axis=0, ddof=1) if len(strata) > 1 else np.nan
    found = [_jackknife(s, between, replicates=replicates) for s in strata]
    variance = np.sum([variance for variance, _ in found], axis=0) / len(strata) ** 2
    center = values.mean(axis=0) - np.mean([bias for _, bias in found], axis=0)
    grouped = counts.sum() < sum(len(stratum.groups) for stratum in strata)
    quantile = _quantile(np.inf if independent and not grouped else freedom)
    if bounded:
        return _wilson(np.clip(center, 0, 1), variance, int(counts.sum()), quantile)
    half = quantile * np.sqrt(variance)
    return np.array([center - half, center + half])


def _joined(strata: Sequence[Stratum]) -> Sequence[Stratum]:
    """The strata; a single one of all clips where a group has clips in several of them."""
    seen = [set(np.unique(stratum.groups).tolist()) for stratum in strata]
    if sum(map(len, seen)) == len(set().union(*seen)):
        return strata
    ends = np.cumsum([len(stratum.groups) for stratum in strata])[:-1]

    def statistic(weights: NDArray) -> NDArray:
        parts = zip(strata, np.split(weights, ends), strict=True)
        return np.mean([s.of(part) for s, part in parts if part.any()], axis=0)

    return [Stratum(np.concatenate([stratum.groups for stratum in strata]), statistic)]


def _jackknife(stratum: Stratum, between, *, replicates: int) -> tuple[NDArray, NDArray]:
    """Variance and bias of a stratum's statistic; `between` is the variance where it has one group.

    Replicates in which the statistic is undefined say nothing and are left out.
    """
    if stratum.count == 1:
        return between, np.zeros_like(between)
    variance, bias = _leaving_out(stratum, stratum.groups, replicates)
    if stratum.count < len(stratum.groups):
        alone, _ = _leaving_out(stratum, np.arange(len(stratum.groups)), replicates)
        variance = np.fmax(variance, alone)
    return variance, bias


def _leaving_out(stratum: Stratum, groups: NDArray, most: int) -> tuple[NDArray, NDArray]:
    _, group = np.unique(groups, return_inverse=True)
    count = int(group.max()) + 1
    if count > most:
        block = np.random.default_rng(_SEED).permutation(count) % most
        group, count = block[group], most
    left = np.array([stratum.of((group != g).astype(np.int64)) for g in range(count)])
    mean = np.nanmean(left, axis=0)
    variance = (count - 1) / count * np.nansum((left - mean) ** 2, axis=0)
    return variance, (count - 1) * (mean - stratum.value)


def _wilson(share: NDArray, variance: NDArray, groups: int, quantile: float) -> NDArray:
    """Wilson's interval of a share, of as many independent clips as the variance amounts to.

    Where the variance is 0 (all right, or all groups alike), each group counts as one clip.
    """
    spread = share * (1 - share)
    usual = (spread > 0) & (variance > 0)
    clips = np.divide(spread, variance, out=np.full_like(share, groups), where=usual)
    square = quantile**2 / clips
    middle = (share + square / 2) / (1 + square)
    half = np.sqrt(square * (spread + square / 4)) / (1 + square)
    return np.clip([middle - half, middle + half], 0, 1)


def of_median(
    groups: NDArray, statistic: Callable[[NDArray], float], *, replicates: int = 1000
) -> NDArray | None:
    """Computes the 95 % interval of a median, (2,): percentiles of a bootstrap that draws groups.

    A jackknife is inconsistent for medians. Returns None for fewer than FEWEST groups.
    """
    _, group = np.unique(groups, return_inverse=True)
    count = int(group.max()) + 1
    if count < FEWEST:
        return None
    rng, share = np.random.default_rng(_SEED), np.full(count, 1 / count)
    drawn = [statistic(rng.multinomial(count, share)[group]) for _ in range(replicates)]
    return np.percentile(drawn, [2.5, 97.5])
