"""Learning rates: what is one, which of a grid is the best, what a fold records."""

from types import SimpleNamespace

import pytest

from evar import models
from evar.errors import UserError
from evar.probing import rates


def probes(*scores):
    grid = rates.RATES[: len(scores)]
    return {
        r: SimpleNamespace(valid_score=s, goodness=s) for r, s in zip(grid, scores, strict=True)
    }


def usual(model: str, name: str) -> float:
    spec = models.config(model)
    loaded = SimpleNamespace(config=spec, adapter=SimpleNamespace(lr=spec.lr))
    return rates.usual_rate(loaded, SimpleNamespace(task=SimpleNamespace(name=name, lr=None)))


@pytest.mark.parametrize(
    ("model", "name", "rate"),
    [
        ("ast", "surge", 1e-4),
        ("byola", "surge", 1e-4),
        ("byola", "gtzan", 1e-3),
        ("byola_v2", "us8k", 3e-5),
        ("cnn14", "nsynth", 1e-5),
        ("vggish", "vc1", 5e-4),
        ("vggish", "esc50", 3e-3),
        ("vggish", "gtzan", 3e-4),
        ("m2d", "esc50", 3e-5),
    ],
)
def test_rates_are_those_of_the_reference(model, name, rate):
    assert usual(model, name) == rate


def test_five_rates_or_one():
    assert len(rates.rates_of("auto")) == 5
    assert rates.rates_of(0.1) == (0.1,)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), True, "fast", None])
def test_what_is_no_rate_is_refused(value):
    with pytest.raises(UserError, match="auto"):
        rates.require_rate(value)


def test_the_best_has_the_best_validation_score_and_is_the_smallest_of_equals():
    assert rates.best(probes(0.1, 0.5, 0.5)) == rates.RATES[1]
    assert rates.best(probes(0.1, float("-inf"), 0.2)) == rates.RATES[2]


def test_a_fold_records_the_grid_and_nothing_of_a_single_rate():
    assert rates.record(probes(0.1)) == {}
    assert rates.record(probes(0.1, 0.5)) == {
        "lr": 3e-4,
        "valid_by_lr": {"3e-05": 0.1, "0.0003": 0.5},
    }


def test_a_rate_that_diverged_is_recorded_as_such():
    assert rates.record(probes(0.1, float("-inf"), 0.2)) == {
        "lr": 1e-3,
        "valid_by_lr": {"3e-05": 0.1, "0.0003": None, "0.001": 0.2},
        "diverged": ["0.0003"],
    }


def test_of_errors_the_smallest_is_the_best():
    tried = {
        rate: SimpleNamespace(valid_score=error, goodness=-error)
        for rate, error in ((1e-3, 0.4), (1e-2, 0.3))
    }
    assert rates.best(tried) == 1e-2
    assert rates.record(tried)["valid_by_lr"] == {"0.001": 0.4, "0.01": 0.3}


def test_probes_are_grouped_job_by_job():
    a, b, c, d = (SimpleNamespace(goodness=g) for g in (1.0, 2.0, float("-inf"), 4.0))
    assert rates.grouped([a, b, c, d], (0.1, 0.2)) == [{0.1: a, 0.2: b}, {0.1: c, 0.2: d}]


def test_a_job_that_diverged_at_every_rate_is_an_error():
    a, b = (SimpleNamespace(goodness=g) for g in (1.0, float("-inf")))
    with pytest.raises(ValueError, match="smaller --lr"):
        rates.grouped([a, a, b, b], (0.1, 0.2))
