"""Intervals against SciPy, against theory, and against cases worked by hand."""

import numpy as np
import pytest
from scipy import stats

from evar.scoring import statistics


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


def test_bootstrap_has_the_width_of_theory():
    rng = np.random.default_rng(0)
    correct = rng.random(1000) < 0.7
    low, high = statistics.bootstrap_clusters(np.arange(1000), accuracy_of(correct), rng)
    width = 2 * 1.96 * np.sqrt(correct.mean() * (1 - correct.mean()) / 1000)
    assert low < correct.mean() < high
    assert high - low == pytest.approx(width, rel=0.15)


def test_clips_of_one_group_count_once():
    """Ten copies of every clip tell no more than one: the interval stays as wide."""
    rng = np.random.default_rng(0)
    correct = np.random.default_rng(1).random(100) < 0.6
    single = statistics.bootstrap_clusters(np.arange(100), accuracy_of(correct), rng)
    copies = np.repeat(correct, 10)
    groups = np.repeat(np.arange(100), 10)
    grouped = statistics.bootstrap_clusters(groups, accuracy_of(copies), rng)
    naive = statistics.bootstrap_clusters(np.arange(1000), accuracy_of(copies), rng)
    assert grouped[1] - grouped[0] == pytest.approx(single[1] - single[0], rel=0.15)
    assert naive[1] - naive[0] < 0.5 * (grouped[1] - grouped[0])


def test_strata_keep_their_size():
    strata = np.array([0] * 30 + [1] * 10)
    seen = []

    def statistic(weights):
        seen.append((weights[:30].sum(), weights[30:].sum()))
        return 0.0

    rng = np.random.default_rng(0)
    statistics.bootstrap_clusters(np.arange(40), statistic, rng, strata=strata, replicates=20)
    assert set(seen) == {(30, 10)}
