"""Metrics against scikit-learn, and against cases worked by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from evar.errors import UserError
from evar.scoring import metrics
from evar.task import KINDS


def random_case(n, classes, *, ties, seed):
    rng = np.random.default_rng(seed)
    truth = rng.random((n, classes)) < 0.3
    truth[0] = True
    truth[1] = False
    scores = rng.standard_normal((n, classes))
    return truth.astype(int), np.round(scores, 1) if ties else scores


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [3, 50, 400])
def test_average_precision_is_that_of_scikit_learn(n, ties):
    truth, scores = random_case(n, 7, ties=ties, seed=n)
    expected = average_precision_score(truth, scores, average=None)
    np.testing.assert_allclose(metrics.average_precision(truth, scores), expected, rtol=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_roc_auc_is_that_of_scikit_learn(ties):
    truth, scores = random_case(120, 5, ties=ties, seed=1)
    expected = roc_auc_score(truth, scores, average=None)
    np.testing.assert_allclose(metrics.roc_auc(truth, scores), expected, rtol=1e-12)


def test_average_precision_by_hand():
    # Ranking by score: hit, miss, hit -> precisions 1 and 2/3 at recalls 1/2 and 1.
    truth, scores = [[1], [0], [1]], [[0.9], [0.8], [0.1]]
    assert metrics.average_precision(truth, scores)[0] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    # All equal: one threshold, precision = share of positives.
    assert metrics.average_precision(truth, [[1], [1], [1]])[0] == pytest.approx(2 / 3)


def test_undefined_classes_are_nan_counted_and_left_out():
    truth, scores = [[1, 0, 1], [0, 0, 1]], [[0.9, 0.2, 0.1], [0.1, 0.3, 0.2]]
    ap, auc = metrics.average_precision(truth, scores), metrics.roc_auc(truth, scores)
    assert np.isnan(ap).tolist() == [False, True, False]
    assert np.isnan(auc).tolist() == [False, True, True]
    assert (metrics.undefined(ap), metrics.undefined(auc)) == (1, 2)
    assert metrics.mean_average_precision(truth, scores) == 1.0
    assert np.isnan(metrics.mean_defined([np.nan]))


def test_accuracy_and_recall_by_hand():
    truth, predicted = [0, 0, 1, 1, 1], [0, 1, 1, 1, 0]
    assert metrics.accuracy(truth, predicted) == pytest.approx(0.6)
    np.testing.assert_allclose(
        metrics.accuracy_per_class(truth, predicted, 3), [1 / 2, 2 / 3, np.nan]
    )


def test_d_prime_by_hand():
    # Unit-variance normals one deviation apart: AUC = Phi(1 / sqrt(2)), d' = 1.
    assert metrics.d_prime(0.7602499389065233) == pytest.approx(1.0, abs=1e-9)
    assert metrics.d_prime(0.5) == 0.0


@pytest.mark.parametrize(
    ("function", "arguments", "reason"),
    [
        (metrics.accuracy, ([], []), "no clips"),
        (metrics.accuracy, ([0, 1], [0]), "two"),
        (metrics.accuracy, ([0.5], [0]), "whole numbers"),
        (metrics.accuracy_per_class, ([3], [3], 2), "lie in"),
        (metrics.average_precision, ([0, 1], [0, 1]), "two"),
        (metrics.average_precision, ([[2]], [[0.5]]), "0 or 1"),
        (metrics.average_precision, ([[1]], [[np.nan]]), "finite"),
        (metrics.roc_auc, (np.zeros((0, 2)), np.zeros((0, 2))), "no clips"),
    ],
)
def test_wrong_input_is_refused(function, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        function(*arguments)


def test_a_metric_is_found_by_name():
    assert metrics.get("mAP") is metrics.METRICS["mAP"]
    assert metrics.names() == sorted(metrics.METRICS)
    with pytest.raises(UserError, match="did you mean accuracy"):
        metrics.get("accuracy_")


def test_every_metric_fits_a_kind_of_task_that_names_it():
    for metric in metrics.METRICS.values():
        assert metric.kinds
        for kind in metric.kinds:
            assert metric.name in KINDS[kind].metrics


def run_of(metric, runs=2, seed=0, clips=40):
    """Truth and the scores (R, N, C) of some runs, with ties."""
    rng = np.random.default_rng(seed)
    scores = np.round(rng.standard_normal((runs, clips, 6)), 1)
    if "tagging" in metric.kinds:
        return (rng.random((clips, 6)) < 0.3).astype(int), scores
    return rng.integers(0, 6, clips), scores


@pytest.mark.parametrize("metric", metrics.METRICS.values(), ids=lambda metric: metric.name)
def test_the_weighted_value_is_that_of_repeated_clips(metric):
    truth, scores = run_of(metric)
    weights = np.random.default_rng(1).integers(0, 4, len(truth))
    repeated = np.repeat(truth, weights, axis=0)
    expected = [metric.value(repeated, np.repeat(run, weights, axis=0)) for run in scores]
    statistic = metric.weighted(truth, scores)
    assert statistic(weights) == pytest.approx(np.mean(expected), rel=1e-12)
    once = [metric.value(truth, run) for run in scores]
    assert statistic(np.ones(len(truth), int)) == pytest.approx(np.mean(once), rel=1e-12)


@pytest.mark.parametrize("metric", metrics.METRICS.values(), ids=lambda metric: metric.name)
def test_a_metric_refuses_scores_that_are_not_finite(metric):
    truth, scores = run_of(metric)
    metric.validate(truth, scores[0])
    scores[0, 3, 2] = np.nan
    with pytest.raises(ValueError, match="finite"):
        metric.validate(truth, scores[0])


def test_what_a_metric_leaves_out_is_made_from_its_value():
    top = metrics.Metric(
        name="top-2",
        title="share of clips with the true class among the best two",
        kinds=frozenset({"classification"}),
        value=lambda t, s: float((np.argsort(-s, axis=1)[:, :2] == t[:, None]).any(1).mean()),
        validate=metrics.METRICS["accuracy"].validate,
    )
    truth = np.array([0, 1, 2])
    scores = np.array([[[3.0, 2, 1], [3, 2, 1], [3, 2, 1]], [[1, 2, 3], [1, 2, 3], [1, 2, 3]]])
    assert top.details(truth, scores) == {"top-2": pytest.approx(2 / 3)}
    # Clip 0 twice, clip 2 once: right are 2 of 3 in the first run, 1 of 3 in the second.
    assert top.weighted(truth, scores)(np.array([2, 0, 1])) == pytest.approx((2 / 3 + 1 / 3) / 2)


@pytest.mark.parametrize(
    ("value", "unit", "expected"), [(0.963, "fraction", "96.3"), (3.5, "plain", "3.5")]
)
def test_a_value_is_printed_in_its_unit(value, unit, expected):
    assert metrics.format_value(value, unit) == expected


def test_a_metric_that_cannot_score_a_kind_of_task_is_refused():
    assert metrics.of_task("mAP", "tagging") is metrics.METRICS["mAP"]
    with pytest.raises(UserError, match="mAP is a metric of tagging, not of classification"):
        metrics.of_task("mAP", "classification")
