"""HEAR's scene protocol against the facts of its kit, worked out here a second time in NumPy."""

import numpy as np
import pytest
import torch
from sklearn.model_selection import ParameterGrid
from torch import nn

from evar.probing import hear
from evar.probing.hear import HearSettings, Point
from evar.probing.prepared import Sides
from evar.scoring import metrics


def accuracy(y, scores):
    return metrics.accuracy(y, scores.argmax(axis=1))


def blobs(n=180, dim=10, classes=3, spread=1.5, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    x = rng.standard_normal((classes, dim))[y] + spread * rng.standard_normal((n, dim))
    return x.astype(np.float32), y


def test_eight_of_sixteen_points_are_tried():
    grid = hear.points(16)
    assert len(set(grid)) == 16
    assert {p.hidden_layers for p in grid} == {1, 2}
    assert {p.lr for p in grid} == {3.2e-3, 1e-3, 3.2e-4, 1e-4}
    assert {p.initialisation for p in grid} == {"xavier_uniform", "xavier_normal"}
    assert hear.points() == grid[:8] == hear.points()
    values = {
        "lr": hear.RATES,
        "initialisation": hear.INITIALISATIONS,
        "hidden_layers": hear.HIDDEN_LAYERS,
    }
    unshuffled = [Point(**values) for values in ParameterGrid(values)]
    assert set(unshuffled) == set(grid)
    assert unshuffled != grid


def test_the_network_is_linear_norm_dropout_relu():
    net = hear.network(10, 5, Point(2, 1e-3, "xavier_normal"))
    block = [nn.Linear, nn.BatchNorm1d, nn.Dropout, nn.ReLU]
    assert [type(m) for m in net] == [*block, *block, nn.Linear]
    assert [m.out_features for m in net if isinstance(m, nn.Linear)] == [1024, 1024, 5]
    assert {m.p for m in net if isinstance(m, nn.Dropout)} == {0.1}


def test_weights_have_xaviers_gain_of_what_comes_before():
    torch.manual_seed(0)
    net = hear.network(400, 600, Point(1, 1e-3, "xavier_uniform"))
    first, last = net[0].weight.detach(), net[4].weight.detach()
    assert float(first.abs().max()) == pytest.approx((6 / 1424) ** 0.5, rel=1e-3)
    assert float(last.abs().max()) == pytest.approx(2**0.5 * (6 / 1624) ** 0.5, rel=1e-3)
    normal = hear.network(400, 600, Point(1, 1e-3, "xavier_normal"))
    assert float(normal[0].weight.detach().std()) == pytest.approx((2 / 1424) ** 0.5, rel=0.02)


def test_folds_are_tested_validated_and_trained_in_turn():
    folds = [np.array([10 * i, 10 * i + 1]) for i in range(5)]
    splits = hear.k_fold_sides(folds, folds)
    assert [s.test[0] // 10 for s in splits] == [0, 1, 2, 3, 4]
    assert [s.valid[0] // 10 for s in splits] == [1, 2, 3, 4, 0]
    assert [sorted({row // 10 for row in s.train}) for s in splits] == [
        [2, 3, 4],
        [0, 3, 4],
        [0, 1, 4],
        [0, 1, 2],
        [1, 2, 3],
    ]
    with pytest.raises(ValueError, match="3 folds"):
        hear.k_fold_sides(folds[:2], folds[:2])


class ByHand:
    """One hidden layer with batch normalisation and Adam, in NumPy and float64."""

    def __init__(self, state, lr):
        names = ("0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias")
        self.p = [state[n].numpy().copy() for n in names]
        self.m, self.v = ([np.zeros_like(p) for p in self.p] for _ in range(2))
        self.mean, self.var, self.lr, self.t = 0.0, 1.0, lr, 0

    def step(self, x, y):
        w, b, gain, shift, u, c = self.p
        n = len(x)
        h = x @ w.T + b
        mean, var = h.mean(axis=0), h.var(axis=0)
        self.mean = 0.9 * self.mean + 0.1 * mean
        self.var = 0.9 * self.var + 0.1 * var * n / (n - 1)
        z = (h - mean) / np.sqrt(var + 1e-5)
        a = np.maximum(gain * z + shift, 0)
        logits = a @ u.T + c
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        d = (p - np.eye(len(c))[y]) / n
        da = (d @ u) * (a > 0)
        dz = da * gain
        dh = (dz - dz.mean(axis=0) - z * (dz * z).mean(axis=0)) / np.sqrt(var + 1e-5)
        gradients = [dh.T @ x, dh.sum(0), (da * z).sum(0), da.sum(0), d.T @ a, d.sum(0)]
        self.t += 1
        for i, g in enumerate(gradients):
            self.m[i] = 0.9 * self.m[i] + 0.1 * g
            self.v[i] = 0.999 * self.v[i] + 0.001 * g * g
            first, second = self.m[i] / (1 - 0.9**self.t), self.v[i] / (1 - 0.999**self.t)
            self.p[i] -= self.lr * first / (np.sqrt(second) + 1e-8)

    def predict(self, x):
        w, b, gain, shift, u, c = self.p
        z = (x @ w.T + b - self.mean) / np.sqrt(self.var + 1e-5)
        logits = np.maximum(gain * z + shift, 0) @ u.T + c
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True)


@pytest.fixture
def double():
    """In float64: Adam divides the bias before a norm, whose gradient is 0, by its rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_training_is_that_of_the_facts_worked_out_in_numpy(double):
    """Fixed order, batches of 32, a check every third epoch, stop after 4 checks without a gain."""
    x, y = blobs()
    x = x.astype(np.float64)
    train, valid, test = np.split(np.arange(180), [100, 140])
    settings = HearSettings(width=16, dropout=0.0, batch_size=32, epochs=200, patience=4)
    point = Point(1, 1e-2, "xavier_uniform")
    ours = hear.fit(x, y, Sides(train, valid, test), point, settings, score=accuracy, seed=7)

    torch.manual_seed(7)
    twin = ByHand(hear.network(10, 3, point, settings).state_dict(), 1e-2)
    order = np.random.RandomState(0).permutation(train)
    best, since, epoch = -1.0, 0, 0
    while since < 4:
        epoch += 1
        for at in range(0, 100, 32):
            rows = order[at : at + 32]
            twin.step(x[rows], y[rows])
        if epoch % 3 == 0:
            value = float((twin.predict(x[valid]).argmax(axis=1) == y[valid]).mean())
            since += 1
            if value > best:
                best, since, best_epoch, expected = value, 0, epoch, twin.predict(x[test])
    assert (ours.best_epoch, ours.epochs) == (best_epoch, epoch)
    assert ours.epochs == ours.best_epoch + 12
    assert ours.goodness == pytest.approx(best)
    np.testing.assert_allclose(ours.scores, expected, atol=1e-9)


def test_the_grid_is_searched_on_the_first_split_and_its_best_serves_all():
    x, y = blobs()
    folds = np.array_split(np.arange(180), 4)
    splits = hear.k_fold_sides(folds, folds)
    settings = HearSettings(width=8, epochs=9, batch_size=64)
    grid = [Point(1, 1e-6, "xavier_uniform"), Point(2, 1e-2, "xavier_normal")]
    fits = []
    chosen, tried = hear.search(
        x, y, splits, grid, settings, score=accuracy, seed=1, on_fit=lambda: fits.append(1)
    )
    assert [t.point for t in tried] == grid
    assert {c.point for c in chosen} == {grid[1]}
    assert chosen[0] is tried[1]  # not trained a second time
    assert len(fits) == 2 + 3
    assert [len(c.scores) for c in chosen] == [45] * 4


def test_several_labels_are_scored_by_sigmoids():
    x, y = blobs(classes=4)
    labels = np.stack([y == c for c in range(3)] + [y > 1], axis=1).astype(np.int8)
    train, valid, test = np.split(np.arange(180), [100, 140])
    fitted = hear.fit(
        x,
        labels,
        Sides(train, valid, test),
        Point(1, 1e-2, "xavier_uniform"),
        HearSettings(width=16, epochs=30),
        score=metrics.mean_average_precision,
        seed=1,
    )
    assert fitted.scores.sum(axis=1).max() > 1.05
    assert metrics.mean_average_precision(labels[test], fitted.scores) > 0.5


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_generator():
    x, y = blobs()
    sides = Sides(*np.split(np.arange(180), [100, 140]))
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    settings = HearSettings(width=8, epochs=6)
    a, b = (
        hear.fit(x, y, sides, Point(2, 1e-3, "xavier_normal"), settings, score=accuracy, seed=5)
        for _ in range(2)
    )
    np.testing.assert_array_equal(a.scores, b.scores)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_last_batch_of_one_row_is_left_out():
    x, y = blobs()
    sides = Sides(*np.split(np.arange(180), [65, 100]))
    settings = HearSettings(width=8, epochs=3, batch_size=64)
    fitted = hear.fit(x, y, sides, hear.points()[0], settings, score=accuracy, seed=5)
    assert np.isfinite(fitted.scores).all()


def test_a_point_that_diverges_stops_nothing_and_is_not_chosen():
    x, y = blobs()
    splits = [Sides(*np.split(np.arange(180), [100, 140]))]
    wild, good = Point(1, float("inf"), "xavier_uniform"), Point(1, 1e-3, "xavier_normal")
    settings = HearSettings(width=8, epochs=6)
    fitted, tried = hear.search(x, y, splits, [wild, good], settings, score=accuracy, seed=1)
    assert (fitted[0].point, tried[0].goodness) == (good, -np.inf)
    with pytest.raises(ValueError, match="diverged"):
        hear.search(x, y, splits, [wild], settings, score=accuracy, seed=1)
