"""How certain a score is: intervals over runs and over test clips.

docs/results.md says how often the interval over test clips covers the true score, and
`benchmarks/coverage.py` computes that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
FEWEST = 10  # groups: with fewer, intervals cover more than they say where scores are near 100 %
# Student's t at 97.5 % for 1, 2, ... degrees of freedom, and the normal distribution's value: most
# runs need no others. scipy.special, which computes them, takes a quarter of a second to import.
_T = (
    12.706204736174694,
    4.302652729749462,
    3.1824463052837078,
    2.7764451051977934,
    2.5705818356363146,
    2.4469118511449786,
    2.364624251592784,
    2.306004135204166,
    2.262157162798205,
)
_NORMAL = 1.959963984540054
_LEAST_FREEDOM = 4  # degrees, as of 10 groups in 6 folds
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
    t = float(_quantile(scores.size - 1))
    return Summary(float(scores.mean()), t * std / np.sqrt(scores.size), std, scores.size)


def _quantile(freedom: ArrayLike) -> NDArray:
    """Returns the two-sided 95 % quantile of Student's t; the normal one for infinity."""
    known = {n + 1: value for n, value in enumerate(_T)} | {np.inf: _NORMAL}
    freedom = np.asarray(freedom, float)
    if freedom.ndim == 0 and freedom.item() in known:
        return np.array(known[freedom.item()])
    from scipy.special import ndtri, stdtrit

    upper = (1 + CONFIDENCE) / 2
    return np.where(np.isinf(freedom), ndtri(upper), stdtrit(freedom, upper))


def _freedom(apart: NDArray, usual: int) -> NDArray:
    """Degrees of freedom of a variance estimated from G values, (...) of (G, ...) deviations.

    By its own variance, s^4 ((k - 3) / G + 2 / usual) for a kurtosis k: a variance that a few poor
    groups make is known less well than one to which all contribute. With normal values (k = 3)
    these are the usual degrees of freedom, and never more.
    """
    apart = apart[~np.isnan(apart).reshape(len(apart), -1).any(axis=1)]
    square = np.mean(apart**2, axis=0)
    fourth = np.mean(apart**4, axis=0)
    kurtosis = np.divide(fourth, square**2, out=np.full_like(square, 3.0), where=square > 0)
    return 2 / (np.maximum(kurtosis - 3, 0) / max(len(apart), 1) + 2 / usual)


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
    make no score more certain, and has the square of the bias added. A stratum of one group has the
    variance between strata. The quantile is Student's on groups minus strata degrees of freedom,
    fewer where a few groups are far from the others (`_freedom`).

    bounded: the score lies in [0, 1]. Its variance is then that of a share of so many independent
    clips, and the ends are Wilson's for their number (as in Korn and Graubard 1998): they stay in
    [0, 1], and are no point where all groups score alike. independent: the score is a share of
    clips; without groups the variance then follows from the score, so that the quantile is the
    normal distribution's. replicates: at most so many groups are left out one by one, more are
    joined at random into so many blocks.

    Returns None for fewer than FEWEST groups, or 4 degrees of freedom.
    """
    strata = _joined(strata)
    counts = np.array([stratum.count for stratum in strata])
    freedom = int(counts.sum() - len(strata) + (len(strata) - 1) * (counts == 1).any())
    if counts.sum() < FEWEST or freedom < _LEAST_FREEDOM:
        return None
    values = np.array([stratum.value for stratum in strata])  # (H, ...)
    between = values.var(axis=0, ddof=1) if len(strata) > 1 else np.nan
    found = [_jackknife(s, between, replicates=replicates) for s in strata]
    # What is taken off for bias is an estimate, which varies about as much as it amounts to.
    squares = np.sum([one.bias**2 for one in found], axis=0)
    by_group = np.sum([one.variance for one in found], axis=0)
    by_clip = np.sum([one.of_clips for one in found], axis=0)
    variance = (np.fmax(by_group, by_clip) + squares) / len(strata) ** 2
    center = values.mean(axis=0) - np.mean([one.bias for one in found], axis=0)
    grouped = counts.sum() < sum(len(stratum.groups) for stratum in strata)
    apart = [one.apart for one in found] if (counts > 1).all() else [values - values.mean(axis=0)]
    usual = _freedom(np.concatenate(apart), freedom)
    quantile = _quantile(np.inf if independent and not grouped else usual)
    if bounded:
        return _wilson(np.clip(center, 0, 1), variance, int(counts.sum()), quantile)
    half = quantile * np.sqrt(variance)
    return np.array([center - half, center + half])


def _joined(strata: Sequence[Stratum]) -> Sequence[Stratum]:
    """Returns the strata; a single one of all clips where a group has clips in several of them."""
    seen = [set(np.unique(stratum.groups).tolist()) for stratum in strata]
    if sum(map(len, seen)) == len(set().union(*seen)):
        return strata
    ends = np.cumsum([len(stratum.groups) for stratum in strata])[:-1]

    def statistic(weights: NDArray) -> NDArray:
        parts = zip(strata, np.split(weights, ends), strict=True)
        return np.mean([s.of(part) for s, part in parts if part.any()], axis=0)

    return [Stratum(np.concatenate([stratum.groups for stratum in strata]), statistic)]


@dataclass(frozen=True, eq=False)
class _Jackknife:
    """Of a statistic (...): its variance, that of single clips, its bias, what groups move it by.

    of_clips: 0 where each clip is a group. apart: (G, ...).
    """

    variance: NDArray
    of_clips: NDArray
    bias: NDArray
    apart: NDArray


def _jackknife(stratum: Stratum, between, *, replicates: int) -> _Jackknife:
    """Computes a stratum's jackknife; `between` is its variance where it has one group.

    Replicates in which the statistic is undefined say nothing and are left out.
    """
    if stratum.count == 1:
        none = np.zeros_like(between)
        return _Jackknife(between, none, none, none[None])
    found = _leaving_out(stratum, stratum.groups, replicates)
    if stratum.count < len(stratum.groups):
        alone = _leaving_out(stratum, np.arange(len(stratum.groups)), replicates)
        found = replace(found, of_clips=alone.variance)
    return found


def _leaving_out(stratum: Stratum, groups: NDArray, most: int) -> _Jackknife:
    _, group = np.unique(groups, return_inverse=True)
    count = int(group.max()) + 1
    if count > most:
        block = np.random.default_rng(_SEED).permutation(count) % most
        group, count = block[group], most
    left = np.array([stratum.of((group != g).astype(np.int64)) for g in range(count)])
    mean = np.nanmean(left, axis=0)
    variance = (count - 1) / count * np.nansum((left - mean) ** 2, axis=0)
    bias = (count - 1) * (mean - stratum.value)
    return _Jackknife(variance, np.zeros_like(variance), bias, left - mean)


def _wilson(share: NDArray, variance: NDArray, groups: int, quantile: NDArray) -> NDArray:
    """Computes Wilson's interval of a share, of as many clips as the variance amounts to.

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
