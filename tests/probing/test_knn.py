"""k nearest neighbours against scikit-learn, a case worked by hand, and one large block."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from evar.probing import knn
from evar.probing.prepared import Sides
from evar.scoring import metrics


def accuracy(y, scores):
    return metrics.accuracy(y, scores.argmax(axis=1))


def blobs(n=400, dim=16, classes=5, spread=1.5, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    x = rng.standard_normal((classes, dim))[y] + spread * rng.standard_normal((n, dim))
    return x.astype(np.float32), y


def sklearn_votes(k):
    return KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
    )


@pytest.mark.parametrize("k", [1, 5, 10, 50])
def test_votes_are_those_of_scikit_learn(k):
    x, y = blobs()
    train, test = np.arange(300), np.arange(300, 400)
    ours = knn.votes(knn.neighbours(x, train, test, k), y[train], k, 5)
    theirs = sklearn_votes(k).fit(x[train].astype(np.float64), y[train])
    np.testing.assert_allclose(ours, theirs.predict_proba(x[test].astype(np.float64)), atol=2e-5)


def test_of_several_labels_the_mean_of_the_neighbours_is_scikit_learns():
    x, y = blobs()
    labels = np.stack([y == 0, y > 1, y == 4], axis=1).astype(np.int8)
    train, test = np.arange(300), np.arange(300, 400)
    ours = knn.votes(knn.neighbours(x, train, test, 7), labels[train], 7, 3)
    theirs = KNeighborsClassifier(7, metric="cosine", algorithm="brute").fit(
        x[train], labels[train]
    )
    expected = np.stack([p[:, 1] for p in theirs.predict_proba(x[test])], axis=1)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_blocks_find_what_one_search_finds(monkeypatch):
    x, _ = blobs(500)
    gallery, queries = np.arange(0, 500, 2), np.arange(1, 500, 3)
    whole = knn.neighbours(x, gallery, queries, 20)
    distance, index = (
        NearestNeighbors(n_neighbors=20, metric="cosine").fit(x[gallery]).kneighbors(x[queries])
    )
    np.testing.assert_array_equal(whole.index, index)
    np.testing.assert_allclose(whole.similarity, 1 - distance, atol=1e-5)
    monkeypatch.setattr(knn, "_QUERIES", 7)
    monkeypatch.setattr(knn, "_GALLERY", 13)  # fewer rows than neighbours
    blocks = knn.neighbours(x, gallery, queries, 20)
    np.testing.assert_array_equal(blocks.index, whole.index)
    np.testing.assert_allclose(blocks.similarity, whole.similarity, atol=1e-6)


def test_votes_by_hand():
    """Similarities 1 and 1 - 0.07: the votes are e : 1."""
    found = knn.Neighbours(np.array([[1.0, 0.93]], np.float32), np.array([[0, 1]]))
    scores = knn.votes(found, np.array([2, 0]), 2, 3)
    np.testing.assert_allclose(scores, [[1 / (1 + np.e), 0, np.e / (1 + np.e)]], atol=1e-6)


def test_equal_neighbours_stand_in_the_order_of_the_gallery():
    x = np.ones((6, 4), np.float32)
    found = knn.neighbours(x, np.arange(5), np.array([5]), 5)
    assert found.index.tolist() == [[0, 1, 2, 3, 4]]


def test_k_is_chosen_on_validation_never_on_test():
    x, y = blobs(spread=2.5)
    train, valid, test = np.split(np.arange(400), [200, 300])
    fitted = knn.fit(x, y, Sides(train, valid, test), score=accuracy)
    by_k = {k: sklearn_votes(k).fit(x[train], y[train]).score(x[valid], y[valid]) for k in knn.KS}
    assert fitted.tried == pytest.approx(by_k)
    assert by_k[fitted.k] == max(by_k.values())
    spoilt = y.copy()
    spoilt[test] = 0
    assert knn.fit(x, spoilt, Sides(train, valid, test), score=accuracy).k == fitted.k


def test_of_equally_good_k_the_smallest_is_taken():
    x, y = blobs(spread=0.01)
    train, valid, test = np.split(np.arange(400), [200, 300])
    assert knn.fit(x, y, Sides(train, valid, test), score=accuracy).k == 1


def test_without_validation_k_is_ten_and_never_more_than_there_are_rows():
    x, y = blobs(60)
    fitted = knn.fit(x, y, Sides(np.arange(40), None, np.arange(40, 60)), score=accuracy)
    assert (fitted.k, fitted.tried) == (10, {})
    few = knn.fit(x, y, Sides(np.arange(6), np.arange(6, 20), np.arange(40, 60)), score=accuracy)
    assert set(few.tried) == {1, 5, 6}
    fixed = knn.fit(x, y, Sides(np.arange(40), np.arange(9), np.arange(9)), score=accuracy, k=3)
    assert (fixed.k, fixed.tried) == (3, {})
    with pytest.raises(ValueError, match="1 ... 6"):
        knn.neighbours(x, np.arange(6), np.arange(9), 7)


def test_a_silent_embedding_has_no_direction():
    x = np.eye(3, dtype=np.float32)
    x[2] = 0
    found = knn.neighbours(x, np.arange(2), np.array([2]), 2)
    assert found.similarity.tolist() == [[0, 0]]
