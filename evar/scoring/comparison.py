"""Does one model beat another? Paired tests on the same test clips, and ranks over many tasks.

N clips (or queries), M models, T tasks. Values are float, one per clip, higher is better: of
accuracy the share of runs in which the clip was right. Clips of one group (speaker, recording)
are not independent: they are drawn together, or their influence is summed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evar.scoring.metrics import Metric

REPLICATES = 10_000


@dataclass(frozen=True)
class Difference:
    """A difference a - b, its 95 % interval, the two-sided p-value, and what was drawn."""

    mean: float
    low: float
    high: float
    p: float
    clips: int
    groups: int


@dataclass(frozen=True)
class McNemar:
    """Clips that one model alone has right, and the exact two-sided p-value."""

    only_a: int
    only_b: int
    p: float


def validate(a: ArrayLike, b: ArrayLike) -> tuple[NDArray, NDArray]:
    """Returns two (N,) float arrays; raises ValueError unless they are finite, N >= 1."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"need two (N,) arrays of the same clips, not {a.shape} and {b.shape}")
    if a.size == 0:
        raise ValueError("no clips to compare")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("values must be finite")
    return a, b


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    rng: np.random.Generator,
    *,
    groups: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    replicates: int = REPLICATES,
) -> Difference:
    """Bootstraps the difference of means of two models over the same clips.

    a, b: values (N,). groups (N,): drawn as one; by default every clip is its own. strata (N,):
    such as the test fold; groups are drawn within each, and the mean is the mean over strata.
    Percentile interval; p = 2 min(P(d* <= 0), P(d* >= 0)), with one added to counts and draws so
    that it is never 0 (Davison and Hinkley 1997, Section 4.2.5).

    >>> d = paired_bootstrap([1, 1, 0, 1], [0, 1, 0, 0], np.random.default_rng(0))
    >>> d.mean, d.groups
    (0.5, 4)
    """
    return paired_draws(a, b, rng, groups=groups, strata=strata, replicates=replicates).difference()


@dataclass(frozen=True, eq=False)
class Draws:
    """A difference and its bootstrap replicates (R,); clips and groups that were drawn from."""

    mean: float
    drawn: NDArray
    clips: int
    groups: int

    def difference(self) -> Difference:
        """Returns mean, percentile interval and p-value."""
        low, high = np.nanpercentile(self.drawn, [2.5, 97.5])
        tail = int(min((self.drawn <= 0).sum(), (self.drawn >= 0).sum()))
        p = min(1.0, 2 * (1 + tail) / (1 + len(self.drawn)))
        return Difference(self.mean, float(low), float(high), p, self.clips, self.groups)


def paired_draws(
    a: ArrayLike,
    b: ArrayLike,
    rng: np.random.Generator,
    *,
    groups: ArrayLike | None = None,
    strata: ArrayLike | None = None,
    replicates: int = REPLICATES,
) -> Draws:
    """Draws the replicates of `paired_bootstrap`; the arguments are the same."""
    a, b = validate(a, b)
    strata = np.zeros(len(a)) if strata is None else np.asarray(strata)
    groups = np.arange(len(a)) if groups is None else np.asarray(groups)
    drawn, means, count = np.zeros(replicates), [], 0
    names = np.unique(strata)
    for name in names:
        here = strata == name
        sums, sizes = _group_sums(a[here] - b[here], groups[here])
        drawn += _draw_means(sums, sizes, rng, replicates) / len(names)
        means.append(sums.sum() / sizes.sum())
        count += len(sums)
    return Draws(float(np.mean(means)), drawn, len(a), count)


def metric_draws(
    metric: Metric,
    truth: NDArray,
    a: NDArray,
    b: NDArray,
    rng: np.random.Generator,
    *,
    groups: ArrayLike | None = None,
    strata: ArrayLike | None = None,
) -> Draws:
    """Draws the difference of a metric that is no mean over clips, such as mAP.

    truth: (N,) or (N, C). a, b: scores (R, N, C) of two models. groups, strata (N,): as in
    `paired_bootstrap`. Both models see the same clips in every replicate.
    """
    count = len(truth)
    groups = np.arange(count) if groups is None else np.asarray(groups)
    strata = np.zeros(count) if strata is None else np.asarray(strata)
    if metric.weighted is None:
        raise ValueError(f"{metric.name} cannot be weighted by clip")
    names = np.unique(strata)
    drawn, mean, total = np.zeros(metric.replicates), 0.0, 0
    for here in (strata == name for name in names):
        of_a, of_b = (metric.weighted(truth[here], scores[:, here]) for scores in (a, b))
        _, group = np.unique(groups[here], return_inverse=True)
        size = int(group.max()) + 1
        weights = rng.multinomial(size, np.full(size, 1 / size), size=metric.replicates)
        drawn += [(of_a(w[group]) - of_b(w[group])) / len(names) for w in weights]
        ones = np.ones(int(here.sum()), np.int64)
        mean += (of_a(ones) - of_b(ones)) / len(names)
        total += size
    return Draws(float(mean), drawn, count, total)


def over_tasks(found: Sequence[Draws], rng: np.random.Generator) -> Draws:
    """Averages differences over tasks, which are drawn independently of each other."""
    size = max(len(draws.drawn) for draws in found)
    even = [
        draws.drawn if len(draws.drawn) == size else rng.choice(draws.drawn, size)
        for draws in found
    ]
    return Draws(
        mean=float(np.mean([draws.mean for draws in found])),
        drawn=np.mean(even, axis=0),
        clips=sum(draws.clips for draws in found),
        groups=sum(draws.groups for draws in found),
    )


def _group_sums(values: NDArray, groups: NDArray) -> tuple[NDArray, NDArray]:
    """Sums the values of each group (G,), and counts its clips (G,)."""
    _, group = np.unique(groups, return_inverse=True)
    return np.bincount(group, values), np.bincount(group).astype(float)


def _draw_means(sums: NDArray, sizes: NDArray, rng, replicates: int) -> NDArray:
    """Means over clips (R,) when G groups are drawn G times with replacement.

    Groups that are equal in sum and size need not be told apart: how often one of a kind is drawn
    is multinomial with the share of that kind. Of accuracies there are few kinds.
    """
    pairs = np.stack([sums.round(9), sizes], axis=1)  # thirds add up to whole numbers
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    means, block = [], max(1, 10_000_000 // len(kinds))
    for at in range(0, replicates, block):
        size = min(block, replicates - at)
        times = rng.multinomial(len(sums), counts / len(sums), size=size)  # (R, kinds)
        means.append(times @ kinds[:, 0] / (times @ kinds[:, 1]))
    return np.concatenate(means)


def mcnemar(a_right: ArrayLike, b_right: ArrayLike) -> McNemar:
    """Tests whether two models are right equally often: exact binomial of discordant clips.

    a_right, b_right: bool (N,). McNemar 1947; exact as in Dietterich 1998. It takes clips for
    independent: where they come in groups, the paired bootstrap is the one to believe.

    >>> mcnemar([1, 1, 1, 0], [0, 0, 0, 0])
    McNemar(only_a=3, only_b=0, p=0.25)
    """
    from scipy.stats import binomtest

    a, b = validate(a_right, b_right)
    if not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        raise ValueError("McNemar's test needs right or wrong for every clip")
    only_a, only_b = int((a > b).sum()), int((b > a).sum())
    total = only_a + only_b
    p = 1.0 if total == 0 else float(binomtest(only_a, total, 0.5).pvalue)
    return McNemar(only_a, only_b, p)


def pairwise_p(
    values: ArrayLike, *, groups: ArrayLike | None = None, strata: ArrayLike | None = None
) -> NDArray:
    """Returns two-sided p-values (M, M) of all pairs of models on the same clips.

    values (M, N). The cluster-robust paired t-test: the normal approximation of `paired_bootstrap`,
    for all pairs from one (M, M) covariance of the groups' influence on the means (Cameron, Gelbach
    and Miller 2008). The diagonal is 1.
    """
    from scipy.special import stdtr

    values = np.asarray(values, float)
    if values.ndim != 2 or values.shape[1] == 0 or not np.isfinite(values).all():
        raise ValueError(f"need finite (M, N) values of one clip or more, not {values.shape}")
    total = values.shape[1]
    groups = np.arange(total) if groups is None else np.asarray(groups)
    strata = np.zeros(total) if strata is None else np.asarray(strata)
    names = np.unique(strata)
    means, covariance, degrees = np.zeros(len(values)), 0.0, -len(names)
    for name in names:
        here = strata == name
        _, group = np.unique(groups[here], return_inverse=True)
        mean = values[:, here].mean(axis=1)
        count = int(group.max()) + 1
        influence = np.stack(
            [np.bincount(group, v - m) for v, m in zip(values[:, here], mean, strict=True)]
        )
        scale = count / max(count - 1, 1) / here.sum() ** 2 / len(names) ** 2
        covariance = covariance + scale * influence @ influence.T
        means += mean / len(names)
        degrees += count
    variance = np.diag(covariance)
    variance = np.maximum(variance[:, None] + variance[None, :] - 2 * covariance, 0)
    difference = np.abs(means[:, None] - means[None, :])
    noise = np.sqrt(np.maximum(variance, 1e-24))  # of equal models nothing but rounding is left
    p = 2 * stdtr(max(degrees, 1), -difference / noise)
    return np.where((difference < 1e-12) | (degrees < 1), 1.0, p)


def ranks_with_ties(values: ArrayLike, separated: ArrayLike) -> NDArray:
    """Returns ranks (M,) from 1: one more than the number of models that are separated and better.

    values (M,), higher is better. separated: bool (M, M). Models that no test separates from any
    better one share rank 1.

    >>> ranks_with_ties([0.9, 0.8, 0.5], [[0, 0, 1], [0, 0, 1], [1, 1, 0]])
    array([1, 1, 3])
    """
    values = np.asarray(values, float)
    better = (values[None, :] > values[:, None]) & np.asarray(separated, bool)
    return 1 + better.sum(axis=1)


def mean_ranks(scores: ArrayLike) -> NDArray:
    """Returns the mean rank (M,) of each model over tasks; scores (T, M), ties share their mean."""
    from scipy.stats import rankdata

    scores = np.asarray(scores, float)
    if scores.ndim != 2 or scores.size == 0 or not np.isfinite(scores).all():
        raise ValueError(f"need finite (T, M) scores, not {scores.shape}")
    return rankdata(-scores, axis=1).mean(axis=0)


def friedman(scores: ArrayLike) -> float:
    """Returns the p-value of Friedman's test that all models are equal; scores (T, M), M >= 3."""
    from scipy.stats import friedmanchisquare

    scores = np.asarray(scores, float)
    if (scores == scores[:, :1]).all():
        return 1.0
    return float(friedmanchisquare(*scores.T).pvalue)


def critical_difference(models: int, tasks: int, *, alpha: float = 0.05) -> float:
    """Returns the difference of mean ranks that Nemenyi's test takes for one.

    q sqrt(M (M + 1) / (6 T)), q the studentised range over sqrt(2) (Demsar 2006, Section 3.2.2).
    """
    from scipy.stats import studentized_range

    if models < 2 or tasks < 1:
        raise ValueError(f"need two models and one task or more, not {models} and {tasks}")
    q = float(studentized_range.ppf(1 - alpha, models, np.inf)) / np.sqrt(2)
    return q * float(np.sqrt(models * (models + 1) / (6 * tasks)))


def cliques(ranks: Sequence[float], critical: float) -> list[tuple[int, int]]:
    """Returns the longest stretches of sorted mean ranks no wider than the critical difference.

    Pairs (first, last) of positions, of two models or more: the bars of a critical-difference plot.

    >>> cliques([1.0, 1.5, 3.0, 3.2], 1.0)
    [(0, 1), (2, 3)]
    """
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(ranks):
        last = max(i for i, other in enumerate(ranks) if other - rank <= critical)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found
