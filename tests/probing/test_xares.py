"""X-ARES' probe against the facts of its code, worked out here a second time with autograd."""

import numpy as np
import pytest
import torch
from torch import nn

from evar.probing import xares
from evar.probing.prepared import Sides
from evar.scoring import metrics


def accuracy(y, scores):
    return metrics.accuracy(y, scores.argmax(axis=1))


def blobs(n=180, dim=10, classes=3, spread=1.5, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    x = rng.standard_normal((classes, dim))[y] + spread * rng.standard_normal((n, dim))
    return x.astype(np.float32), y


SPLIT = np.split(np.arange(180), [100, 140])


def test_the_schedule_is_torchs_cosine():
    parameter = nn.Parameter(torch.zeros(1))
    adam = torch.optim.Adam([parameter], lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=10, eta_min=1e-4)
    for epoch in range(10):
        assert xares.rate_of(epoch, 10) == pytest.approx(schedule.get_last_lr()[0], rel=1e-12)
        adam.step()
        schedule.step()


def test_training_is_a_plain_loop_of_layer_norm_and_linear_layer():
    x, y = blobs()
    train, valid, test = SPLIT
    ours = xares.fit(x, y, Sides(train, valid, test), score=accuracy, seed=7)

    drawn = torch.Generator().manual_seed(7)
    start = xares.NormLinear(10, 3, drawn)
    net = nn.Sequential(nn.LayerNorm(10), nn.Linear(10, 3))
    net[1].load_state_dict({"weight": start.weight, "bias": start.bias})
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=10, eta_min=1e-4)
    best = -1.0
    for epoch in range(1, 11):
        order = train[torch.randperm(100, generator=drawn).numpy()]
        for at in range(0, 100, 32):
            rows = order[at : at + 32]
            adam.zero_grad()
            loss = nn.functional.cross_entropy(net(torch.tensor(x[rows])), torch.tensor(y[rows]))
            loss.backward()
            adam.step()
        schedule.step()
        with torch.no_grad():
            right = (net(torch.tensor(x[valid])).argmax(dim=1).numpy() == y[valid]).mean()
            if right > best:
                best, best_epoch = right, epoch
                expected = net(torch.tensor(x[test])).softmax(dim=1).numpy()
    assert (ours.best_epoch, ours.held_out) == (best_epoch, "valid split")
    assert ours.goodness == pytest.approx(best)
    np.testing.assert_allclose(ours.scores, expected, atol=1e-5)


def test_a_fold_selects_by_the_test_rows():
    x, y = blobs(spread=3.0)
    train, valid, test = SPLIT
    fitted = xares.fit(x, y, Sides(train, valid, test), score=accuracy, seed=1, on_test=True)
    assert fitted.held_out == xares.ON_TEST
    assert fitted.goodness == accuracy(y[test], fitted.scores)


def test_without_validation_a_tenth_is_held_out_and_test_rows_decide_nothing():
    x, y = blobs()
    train, _, test = SPLIT
    spoilt = y.copy()
    spoilt[test] = 0
    a, b = (
        xares.fit(x, of, Sides(train, None, test), score=accuracy, seed=1) for of in (y, spoilt)
    )
    assert a.held_out == "random tenth"
    np.testing.assert_array_equal(a.scores, b.scores)


def test_several_labels_are_scored_by_sigmoids():
    x, y = blobs(classes=4, spread=0.5)
    labels = np.stack([y == c for c in range(3)] + [y > 1], axis=1).astype(np.int8)
    fitted = xares.fit(
        x,
        labels,
        Sides(*SPLIT),
        xares.XaresSettings(epochs=100),
        score=metrics.mean_average_precision,
        seed=1,
    )
    assert fitted.scores.sum(axis=1).max() > 1.05
    assert metrics.mean_average_precision(labels[SPLIT[2]], fitted.scores) > 0.5


def test_the_global_generator_is_left_alone():
    x, y = blobs()
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    a, b = (xares.fit(x, y, Sides(*SPLIT), score=accuracy, seed=5) for _ in range(2))
    np.testing.assert_array_equal(a.scores, b.scores)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_embeddings_that_are_no_numbers_are_an_error():
    x, y = blobs()
    x[:] = np.inf
    with pytest.raises(ValueError, match="diverged"):
        xares.fit(x, y, Sides(*SPLIT), score=accuracy, seed=5)
