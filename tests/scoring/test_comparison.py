"""Paired tests and ranks: against SciPy, tables of the papers, and cases worked by hand."""

import numpy as np
import pytest
from scipy import stats

from evar.scoring import comparison, metrics


def test_the_bootstrap_agrees_with_a_plain_one():
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 2, (2, 60))
    groups = np.repeat(np.arange(20), 3)
    found = comparison.paired_bootstrap(a, b, np.random.default_rng(2), groups=groups)
    sums = (a - b).reshape(20, 3).sum(axis=1)
    drawn = sums[rng.integers(0, 20, (20_000, 20))].sum(axis=1) / 60
    assert found.mean == pytest.approx((a - b).mean())
    assert (found.low, found.high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.02)
    assert found.p == pytest.approx(2 * min((drawn <= 0).mean(), (drawn >= 0).mean()), abs=0.02)
    assert (found.clips, found.groups) == (60, 20)


def test_groups_widen_the_interval():
    rng = np.random.default_rng(0)
    a = np.repeat(rng.integers(0, 2, 30), 10)
    b = np.repeat(rng.integers(0, 2, 30), 10)
    by_clip = comparison.paired_bootstrap(a, b, np.random.default_rng(0))
    by_group = comparison.paired_bootstrap(
        a, b, np.random.default_rng(0), groups=np.repeat(np.arange(30), 10)
    )
    width = by_clip.high - by_clip.low
    assert by_group.high - by_group.low == pytest.approx(width * np.sqrt(10), rel=0.1)


def test_strata_count_alike_whatever_their_size():
    a, b, strata = [1, 1, 1, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]
    found = comparison.paired_bootstrap(a, b, np.random.default_rng(0), strata=strata)
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)


def test_equal_models_are_not_separated():
    same = comparison.paired_bootstrap([1, 0, 1], [1, 0, 1], np.random.default_rng(0))
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([], [], "no clips"),
        ([1, 0], [1], "same clips"),
        ([[1, 0]], [[1, 0]], "same clips"),
        ([np.nan], [0], "finite"),
    ],
)
def test_bad_input_is_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        comparison.paired_bootstrap(a, b, np.random.default_rng(0))


def test_mcnemar_by_hand():
    a = np.array([1] * 5 + [0] * 15 + [1] * 30)
    b = np.array([0] * 5 + [1] * 15 + [1] * 30)
    found = comparison.mcnemar(a, b)
    by_hand = 2 * sum(stats.binom.pmf(k, 20, 0.5) for k in range(6))
    assert (found.only_a, found.only_b) == (5, 15)
    assert found.p == pytest.approx(by_hand, rel=1e-12)
    assert found.p == pytest.approx(0.04139, abs=1e-5)
    assert comparison.mcnemar([1, 0], [1, 0]).p == 1
    with pytest.raises(ValueError, match="right or wrong"):
        comparison.mcnemar([0.5], [1])


def test_all_pairs_are_the_paired_t_test_where_every_clip_is_its_own_group():
    values = np.random.default_rng(3).random((4, 50))
    found = comparison.pairwise_p(values)
    for i in range(4):
        for j in range(i):
            expected = stats.ttest_rel(values[i], values[j]).pvalue
            assert found[i, j] == found[j, i] == pytest.approx(expected, rel=1e-9)
    assert (np.diag(found) == 1).all()


def test_all_pairs_agree_with_the_bootstrap_over_groups_and_strata():
    rng = np.random.default_rng(5)
    groups, strata = np.repeat(np.arange(100), 4), np.repeat([0, 1], [160, 240])
    values = (rng.random((2, 400)) < [[0.6], [0.52]]) * 1.0
    drawn = comparison.paired_bootstrap(*values, rng, groups=groups, strata=strata)
    found = comparison.pairwise_p(values, groups=groups, strata=strata)
    assert found[0, 1] == pytest.approx(drawn.p, abs=0.02)


def test_equal_rows_and_single_groups_have_no_difference():
    values = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert comparison.pairwise_p(values)[0, 1] == 1
    assert (comparison.pairwise_p(values, groups=[0, 0]) == 1).all()


def test_ranks_are_shared_where_no_test_separates():
    separated = np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]], bool)
    assert comparison.ranks_with_ties([0.9, 0.8, 0.7], separated).tolist() == [1, 1, 2]


def test_mean_ranks_and_friedman():
    scores = np.array([[0.9, 0.8, 0.8], [0.7, 0.6, 0.5], [0.6, 0.7, 0.5]])
    assert comparison.mean_ranks(scores).tolist() == pytest.approx([4 / 3, 5.5 / 3, 8.5 / 3])
    assert comparison.friedman(scores) == stats.friedmanchisquare(*scores.T).pvalue
    assert comparison.friedman(np.ones((3, 3))) == 1


@pytest.mark.parametrize(("models", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_critical_differences_are_those_of_demsar(models, q):
    """Demsar 2006, Table 5(a)."""
    expected = q * np.sqrt(models * (models + 1) / (6 * 14))
    assert comparison.critical_difference(models, 14) == pytest.approx(expected, rel=5e-4)


def test_cliques_are_the_longest_stretches():
    assert comparison.cliques([1, 1.5, 2, 4], 1.1) == [(0, 2)]
    assert comparison.cliques([1, 2, 3], 0.5) == []
    assert comparison.cliques([1, 2, 3], 1) == [(0, 1), (1, 2)]


def test_a_metric_drawn_by_clips_is_the_bootstrap_of_its_mean():
    """Of accuracy both ways must agree: as a metric of scores, and as a mean over clips."""
    rng = np.random.default_rng(0)
    truth, groups = rng.integers(0, 3, 120), np.repeat(np.arange(40), 3)
    a, b = rng.random((2, 2, 120, 3))
    found = comparison.metric_draws(
        metrics.get("accuracy"), truth, a, b, np.random.default_rng(1), groups=groups
    ).difference()
    right = [(scores.argmax(axis=2) == truth).mean(axis=0) for scores in (a, b)]
    expected = comparison.paired_bootstrap(*right, np.random.default_rng(2), groups=groups)
    assert found.mean == pytest.approx(expected.mean, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.03)
    assert (found.clips, found.groups) == (expected.clips, expected.groups)


def test_over_tasks_the_mean_of_means_and_a_narrower_interval():
    rng = np.random.default_rng(0)
    draws = [comparison.Draws(m, rng.normal(m, 0.1, 4000), 10, 5) for m in (0.1, 0.3)]
    draws.append(comparison.Draws(0.2, rng.normal(0.2, 0.1, 200), 10, 5))
    found = comparison.over_tasks(draws, rng)
    assert found.mean == pytest.approx(0.2)
    assert found.drawn.std() == pytest.approx(0.1 / np.sqrt(3), rel=0.1)
    assert (found.clips, found.groups) == (30, 15)
