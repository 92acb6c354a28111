"""Metrics against scikit-learn, and against cases worked by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from evar.scoring import metrics


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
