"""Intervals against SciPy, against theory, and against cases worked by hand."""

import numpy as np
import pytest
from scipy import stats

from evar.scoring import statistics
from evar.scoring.statistics import Stratum


def test_interval_over_runs_is_students():
    scores = [0.70, 0.72, 0.71]
    summary = statistics.over_runs(scores)
    low, high = stats.t.interval(0.95, 2, np.mean(scores), stats.sem(scores))
    assert summary.mean == pytest.approx(0.71)
    assert summary.ci95 == pytest.approx((high - low) / 2, rel=1e-9)
    assert summary.std == pytest.approx(0.01)
    # By hand: 4.30265 * 0.01 / sqrt(3)
    assert summary.ci95 == pytest.approx(0.024841, abs=1e-6)


def test_one_run_has_no_interval():
    assert statistics.over_runs([0.5]) == statistics.Summary(0.5, None, None, 1)


@pytest.mark.parametrize("scores", [[], [np.nan], [[0.5]]])
def test_no_score_is_no_summary(scores):
    with pytest.raises(ValueError, match="finite"):
        statistics.over_runs(scores)


def accuracy_of(correct):
    return lambda weights: float((weights * correct).sum() / weights.sum())


def clips_of(correct, groups=None, **more):
    """The interval of an accuracy over clips in one stratum."""
    correct = np.asarray(correct, float)
    groups = np.arange(len(correct)) if groups is None else np.asarray(groups)
    return statistics.over_clips([Stratum(groups, accuracy_of(correct))], **more)


def wilson(share, clips, quantile):
    """Wilson's interval as the roots of (share - p)^2 = q^2 p (1 - p) / clips."""
    square = quantile**2 / clips
    return np.sort(np.roots([1 + square, -(2 * share + square), share**2]))


def test_independent_clips_have_wilsons_interval():
    """The jackknife variance of a share is p (1 - p) / (N - 1)."""
    found = clips_of([1] * 60 + [0] * 21, independent=True)
    np.testing.assert_allclose(found, wilson(60 / 81, 80, stats.norm.ppf(0.975)), rtol=1e-9)
    found = clips_of([1] * 60 + [0] * 21)
    np.testing.assert_allclose(found, wilson(60 / 81, 80, stats.t.ppf(0.975, 80)), rtol=1e-9)


def test_groups_have_students_quantile_of_their_means():
    means = np.array([0.2, 0.4, 0.5, 0.9, 0.6] * 2)
    correct = np.concatenate([[1] * int(10 * m) + [0] * int(10 - 10 * m) for m in means])
    found = clips_of(correct, np.repeat(np.arange(10), 10), independent=True)
    variance = means.var(ddof=1) / 10
    clips = 0.52 * 0.48 / variance
    np.testing.assert_allclose(found, wilson(0.52, clips, stats.t.ppf(0.975, 9)), rtol=1e-9)
    # Far from 0 and 1 it is nearly mean +- t s / sqrt(G): 0.52 +- 2.262 * 0.0772.
    assert found == pytest.approx([0.52 - 0.175, 0.52 + 0.175], abs=0.03)


def test_a_variance_that_few_groups_make_is_less_certain():
    """Nine groups at 0.9 and one at 0.3, by hand.

    Deviations are 0.06 (nine times) and -0.54: kurtosis 73 / 9, so that 9 degrees of freedom
    become 2 / ((73 / 9 - 3) / 10 + 2 / 9) = 90 / 33.
    """
    means = [0.9] * 9 + [0.3]
    correct = np.concatenate([[1] * round(10 * m) + [0] * round(10 - 10 * m) for m in means])
    found = clips_of(correct, np.repeat(np.arange(10), 10))
    variance = np.var(means, ddof=1) / 10  # 0.0036
    expected = wilson(0.84, 0.84 * 0.16 / variance, stats.t.ppf(0.975, 90 / 33))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_clips_of_one_group_count_once():
    """Ten copies of every clip tell no more than one: the interval stays as wide."""
    correct = np.random.default_rng(1).random(100) < 0.6
    single = clips_of(correct)
    copies = np.repeat(correct, 10)
    grouped = clips_of(copies, np.repeat(np.arange(100), 10))
    np.testing.assert_allclose(grouped, single, rtol=1e-9)
    naive = clips_of(copies)
    assert np.ptp(naive) < 0.5 * np.ptp(grouped)


def test_groups_that_score_alike_are_no_more_certain_than_their_clips():
    correct = [1, 0] * 50
    alike = clips_of(correct, np.repeat(np.arange(10), 10))
    alone = clips_of(correct)
    assert np.ptp(alike) >= np.ptp(alone)


@pytest.mark.parametrize("share", [0, 1])
def test_a_perfect_score_has_an_interval(share):
    low, high = clips_of([share] * 100, np.repeat(np.arange(10), 10))
    expected = wilson(share, 10, stats.t.ppf(0.975, 9))
    assert (low, high) == (pytest.approx(expected[0]), pytest.approx(expected[1]))
    assert high - low > 0.2


def test_each_fold_is_a_stratum():
    """The variance of a mean over folds is the mean of theirs over the number of folds."""
    rng = np.random.default_rng(0)
    folds = [(rng.random(40) < share).astype(float) for share in (0.2, 0.9)]
    found = statistics.over_clips(
        [Stratum(np.arange(40) + 100 * i, accuracy_of(c)) for i, c in enumerate(folds)]
    )
    share = np.mean([c.mean() for c in folds])
    variance = np.mean([c.var(ddof=1) / 40 for c in folds]) / 2
    clips = share * (1 - share) / variance
    kurtosis = stats.kurtosis(np.concatenate([c - c.mean() for c in folds]), fisher=False)
    freedom = 2 / ((kurtosis - 3) / 80 + 2 / 78)
    assert 40 < freedom < 78
    np.testing.assert_allclose(found, wilson(share, clips, stats.t.ppf(0.975, freedom)), rtol=1e-9)


def test_clips_are_the_least_variance_of_all_folds_together():
    """Two folds of five groups each: groups alike in one, far apart in the other, by hand."""
    alike, apart = np.tile([1.0, 0.0], 25), np.repeat([1.0, 1.0, 0.0, 1.0, 0.0], 10)
    groups = np.repeat(np.arange(5), 10)
    found = statistics.over_clips(
        [Stratum(groups, accuracy_of(alike)), Stratum(groups + 5, accuracy_of(apart))]
    )
    by_group = 0 + np.var([1, 1, 0, 1, 0], ddof=1) / 5  # more than by clip: (0.25 + 0.24) / 49
    variance = by_group / 4
    share = 0.55
    deviations = np.array([0] * 5 + [0.4, 0.4, -0.6, 0.4, -0.6])
    kurtosis = np.mean(deviations**4) / np.mean(deviations**2) ** 2
    freedom = 2 / (max(kurtosis - 3, 0) / 10 + 2 / 8)
    expected = wilson(share, share * (1 - share) / variance, stats.t.ppf(0.975, freedom))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_folds_of_one_group_have_the_variance_between_folds():
    shares = [0.3, 0.4, 0.5, 0.8, 0.6, 0.7, 0.2, 0.5, 0.6, 0.9]
    strata = []
    for i, share in enumerate(shares):
        correct = np.array([1.0] * round(10 * share) + [0.0] * round(10 - 10 * share))
        strata.append(Stratum(np.full(10, i), accuracy_of(correct)))
    found = statistics.over_clips(strata)
    variance = np.var(shares, ddof=1) / 10
    mean = np.mean(shares)
    expected = wilson(mean, mean * (1 - mean) / variance, stats.t.ppf(0.975, 9))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_group_in_several_folds_is_one_group():
    rng = np.random.default_rng(0)
    correct = [(rng.random(50) < 0.5).astype(float) for _ in range(2)]
    groups = np.repeat(np.arange(10), 5)
    crossing = statistics.over_clips([Stratum(groups, accuracy_of(c)) for c in correct])
    merged = statistics.over_clips(
        [
            Stratum(
                np.tile(groups, 2),
                lambda w: (accuracy_of(correct[0])(w[:50]) + accuracy_of(correct[1])(w[50:])) / 2,
            )
        ]
    )
    np.testing.assert_allclose(crossing, merged, rtol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 5, 9])
def test_too_few_groups_have_no_interval(groups):
    assert clips_of([1, 0] * 45, np.arange(90) % groups) is None


def test_folds_leave_degrees_of_freedom():
    correct, groups = np.tile([1.0, 0.0], 6), np.repeat(np.arange(2), 6)
    folds = [Stratum(groups + 2 * i, accuracy_of(correct)) for i in range(6)]
    assert statistics.over_clips(folds[:5]) is not None  # 10 groups in 5 folds
    uneven = [Stratum(np.repeat(np.arange(2), 6) + 2 * i, accuracy_of(correct)) for i in range(3)]
    uneven += [Stratum(np.full(12, 10 + i), accuracy_of(correct)) for i in range(3)]
    assert statistics.over_clips(uneven) is None  # nine groups


def test_many_clips_are_left_out_in_blocks():
    correct = np.random.default_rng(0).random(3000) < 0.7
    exact, blocks = clips_of(correct, replicates=3000), clips_of(correct, replicates=200)
    assert np.ptp(blocks) == pytest.approx(np.ptp(exact), rel=0.15)
    np.testing.assert_array_equal(blocks, clips_of(correct, replicates=200))


def test_a_score_without_bounds_has_students_interval():
    values = np.random.default_rng(0).uniform(3, 11, 30)
    found = statistics.over_clips(
        [Stratum(np.arange(30), lambda w: np.average(values, weights=w))], bounded=False
    )
    expected = stats.t.interval(0.95, 29, values.mean(), stats.sem(values))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_bias_of_a_statistic_is_taken_off():
    """The jackknife finds the bias of the plug-in variance, -s^2 / N, exactly."""
    values = np.random.default_rng(0).normal(0, 1, 20)

    def variance(weights):
        return np.cov(values, fweights=weights, bias=True)

    stratum = Stratum(np.arange(20), variance)
    low, high = statistics.over_clips([stratum], bounded=False)
    assert (low + high) / 2 == pytest.approx(values.var(ddof=1), rel=1e-9)
    # And its square is added to the variance: what is taken off is an estimate as well.
    left = np.array([np.delete(values, i).var() for i in range(20)])
    squares = 19 / 20 * np.sum((left - left.mean()) ** 2) + (values.var(ddof=1) / 20) ** 2
    freedom = 2 / ((stats.kurtosis(left, fisher=False) - 3) / 20 + 2 / 19)
    assert stats.kurtosis(left, fisher=False) > 3
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, freedom) * np.sqrt(squares))


def test_a_median_is_drawn_by_groups():
    values = np.arange(101.0)
    low, high = statistics.of_median(
        np.arange(101), lambda w: float(np.median(np.repeat(values, w)))
    )
    assert 35 < low < 45 < 55 < high < 65
    assert statistics.of_median(np.arange(4), lambda w: 0.0) is None


@pytest.mark.parametrize(("groups", "folds"), [(10, 1), (10, 5), (20, 1)])
def test_an_interval_covers_the_truth(groups, folds):
    """Of 400 sets of speakers, whose accuracies vary by 0.16, 93 % and more."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        strata = []
        for fold in range(folds):
            members = np.repeat(np.arange(groups // folds), 10) + 1000 * fold
            skill = np.repeat(rng.beta(4.9, 2.1, groups // folds), 10)
            correct = (rng.random(len(skill)) < skill).astype(float)
            strata.append(Stratum(members, accuracy_of(correct)))
        low, high = statistics.over_clips(strata)
        covered.append(low <= 0.7 <= high)
    assert np.mean(covered) > 0.93


def test_quantiles_that_are_known_are_scipys():
    freedom = [*range(1, 10), np.inf]
    known = [float(statistics._quantile(n)) for n in freedom]
    assert known == pytest.approx([stats.t.ppf(0.975, n) for n in freedom], rel=1e-9)
    computed = statistics._quantile(np.array([*freedom, 12.5]))
    assert computed[:-1].tolist() == pytest.approx(known, rel=1e-9)
