"""Few shots: scikit-learn's classifier on the same rows, and MTEB's way to draw them."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from evar.probing import fewshot
from evar.probing.prepared import Sides


def blobs(n=300, dim=8, classes=4, spread=0.8, seed=0):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    x = rng.standard_normal((classes, dim))[y] + spread * rng.standard_normal((n, dim))
    return x.astype(np.float32), y


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("shots", [1, 8])
def test_scores_are_scikit_learns_on_the_same_rows(classes, shots):
    x, y = blobs(classes=classes)
    train, test = np.arange(200), np.arange(200, 300)
    (order,) = fewshot.orders(200, [7])
    fitted = fewshot.fit(x, y, train, test, order, shots=shots)
    drawn = np.concatenate([[i for i in order if y[i] == c][:shots] for c in range(classes)])
    assert sorted(fitted.rows) == sorted(drawn)
    model = LogisticRegression(max_iter=100).fit(x[fitted.rows], y[fitted.rows])
    np.testing.assert_allclose(fitted.scores, model.predict_proba(x[test]), atol=1e-6)
    assert fitted.converged


def test_mtebs_draws_shuffle_what_the_draw_before_left():
    left = list(range(50))
    expected = []
    for _ in range(3):
        np.random.RandomState(42).shuffle(left)
        expected.append(list(left))
    drawn = [order.tolist() for order in fewshot.orders(50, [1, 2, 3], mteb=True)]
    assert drawn == expected
    assert drawn[0] != drawn[1] != drawn[2]


def test_a_draw_depends_on_its_seed_alone():
    a, b = fewshot.orders(30, [1, 2])
    (alone,) = fewshot.orders(30, [2])
    assert a.tolist() != b.tolist() == alone.tolist()


def test_more_shots_contain_the_fewer():
    _, y = blobs()
    (order,) = fewshot.orders(len(y), [3])
    few, many = (set(fewshot.first_of_each(y, order, n)) for n in (4, 16))
    assert few < many
    assert np.bincount(y[list(many)]).tolist() == [16] * 4


def test_a_class_with_fewer_clips_gives_all_it_has():
    y = np.array([0, 0, 0, 0, 1])
    rows = fewshot.first_of_each(y, np.arange(5), 3)
    assert rows.tolist() == [0, 1, 2, 4]


def test_several_labels_are_regressions_of_their_own():
    x, y = blobs()
    labels = np.stack([y == 0, y > 1, y >= 0], axis=1).astype(np.int8)  # the last: always
    train, test = np.arange(200), np.arange(200, 300)
    (order,) = fewshot.orders(200, [1])
    fitted = fewshot.fit(x, labels, train, test, order, shots=8)
    assert labels[fitted.rows].sum(axis=0).min() >= 8
    for c in (0, 1):
        model = LogisticRegression(max_iter=100).fit(x[fitted.rows], labels[fitted.rows, c])
        np.testing.assert_allclose(
            fitted.scores[:, c], model.predict_proba(x[test])[:, 1], atol=1e-6
        )
    assert (fitted.scores[:, 2] == 1).all()


def test_classes_that_a_fold_never_trains_have_no_probability():
    x, y = blobs()
    train = np.flatnonzero(y < 3)
    (order,) = fewshot.orders(len(train), [1])
    fitted = fewshot.fit(x, y, train, np.flatnonzero(y == 3), order, shots=4)
    assert fitted.scores.shape[1] == 4
    assert (fitted.scores[:, 3] == 0).all()


def test_a_fit_that_did_not_converge_says_so():
    x, y = blobs(spread=3)
    x = x * np.float32([1, 1, 1, 1, 1, 10, 100, 1000])  # an ill-conditioned problem
    (order,) = fewshot.orders(200, [1])
    fitted = fewshot.fit(x, y, np.arange(200), np.arange(200, 300), order, shots=16)
    assert not fitted.converged


def test_the_curve_has_every_draw_and_fold():
    x, y = blobs()
    halves = np.arange(150), np.arange(150, 300)
    sides = [Sides(halves[0], None, halves[1]), Sides(halves[1], None, halves[0])]
    found = fewshot.curve(x, y, sides, shots=(1, 4), seeds=(5, 6, 7))
    assert list(found) == [1, 4]
    assert [len(draws) for draws in found.values()] == [3, 3]
    fitted = found[4][2][1]
    (order,) = fewshot.orders(150, [7])
    alone = fewshot.fit(x, y, halves[1], halves[0], order, shots=4)
    np.testing.assert_array_equal(fitted.scores, alone.scores)
    mean = {
        n: np.mean(
            [
                (f.scores.argmax(1) == y[side.test]).mean()
                for draw in draws
                for f, side in zip(draw, sides, strict=True)
            ]
        )
        for n, draws in found.items()
    }
    assert mean[4] > mean[1]
