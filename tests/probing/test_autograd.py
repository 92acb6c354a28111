"""Training of modules: a grid of rates is single runs, held-out rows choose, divergence is seen."""

import numpy as np
import pytest
import torch

from evar.probing import autograd, rates
from evar.probing.attentive import AttentivePool, Frames
from evar.probing.autograd import Job, fit
from evar.probing.layerweights import Layers, WeightedLayers
from evar.probing.probe import ProbeSettings

RATES = (1e-4, 1e-3, 1e-2, 1e-1)


def data(count=150, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    x = rng.standard_normal((count, 4, 8)) + 0.7 * rng.standard_normal((3, 4, 8))[y]
    return x.astype(np.float32), y


def cases():
    x, _ = data()
    clips = [row[: 1 + i % 4] for i, row in enumerate(x)]
    yield "layers", Layers(x), lambda g: WeightedLayers(4, 8, 3, generator=g)
    yield "frames", Frames(clips), lambda g: AttentivePool(8, 3, queries=2, heads=4, generator=g)


@pytest.mark.parametrize(("name", "source", "make"), list(cases()), ids=["layers", "frames"])
def test_a_grid_of_rates_gives_the_bits_of_single_runs(name, source, make):
    _, y = data()
    settings = ProbeSettings(epochs=15, batch_size=40, patience=3)
    sides = np.arange(100), None, np.arange(100, 150)
    together = fit(source, y, Job(*sides, seed=1, rates=RATES), make, settings)
    for rate, fitted in zip(RATES, together, strict=True):
        (alone,) = fit(source, y, Job(*sides, seed=1, rates=(rate,)), make, settings)
        np.testing.assert_array_equal(alone.logits, fitted.logits)
        assert (alone.epochs, alone.best_epoch) == (fitted.epochs, fitted.best_epoch)
        assert (alone.rate, alone.valid_score) == (rate, fitted.valid_score)
    assert len({f.logits.tobytes() for f in together}) == len(RATES)


def test_the_best_rate_is_that_of_the_held_out_rows():
    x, y = data()
    job = Job(np.arange(80), np.arange(80, 110), np.arange(110, 150), seed=1, rates=RATES)
    fitted = fit(Layers(x), y, job, lambda g: WeightedLayers(4, 8, 3, generator=g))
    chosen = rates.best({f.rate: f for f in fitted})
    highest = max(f.valid_score for f in fitted)
    assert chosen == min(f.rate for f in fitted if f.valid_score == highest)


def test_a_rate_that_diverges_is_not_chosen_and_stops_nothing():
    x, y = data()
    job = Job(np.arange(80), np.arange(80, 110), np.arange(110, 150), seed=1, rates=(1e-2, np.inf))
    good, wild = fit(Layers(x), y, job, lambda g: WeightedLayers(4, 8, 3, generator=g))
    assert wild.epochs < good.epochs
    assert rates.best({good.rate: good, wild.rate: wild}) == good.rate
    with pytest.raises(ValueError, match="diverged"):
        fit(
            Layers(x),
            y,
            Job(np.arange(80), np.arange(80, 110), np.arange(110, 150), 1, rates=(np.inf,)),
            lambda g: WeightedLayers(4, 8, 3, generator=g),
        )


def test_stops_patience_epochs_after_the_last_best():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((150, 1, 30)).astype(np.float32)
    y = rng.integers(0, 3, 150)
    job = Job(np.arange(50), np.arange(50, 100), np.arange(100, 150), seed=42, rates=(0.1,))
    (fitted,) = fit(Layers(x), y, job, lambda g: WeightedLayers(1, 30, 3, generator=g))
    assert fitted.epochs == fitted.best_epoch + 20 < 200


def test_the_loss_is_a_mean_over_classes():
    logits, targets = torch.tensor([[0.0, 0.0]]), torch.tensor([1])
    assert float(autograd.loss_of(logits, targets)) == pytest.approx(np.log(2) / 2)
    assert float(autograd.loss_of(logits, torch.ones(1, 2))) == pytest.approx(np.log(2))
