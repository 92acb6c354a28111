"""The linear probe against the reference's scores, scikit-learn and one at a time."""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_ind
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from evar.probing import probe
from evar.probing.probe import Job, ProbeSettings
from evar.scoring.metrics import METRICS

CASES = {
    c["name"]: c for c in json.loads((Path(__file__).parent / "../golden/probe.json").read_text())
}


def golden_data(n_train, n_valid, n_test, dim, classes, spread, multi_label=False, seed=0):
    """The embeddings of a golden case: a cluster a class, then unequal scales and offsets."""
    rng = np.random.Generator(np.random.PCG64(seed))
    n = n_train + n_valid + n_test
    centres = rng.standard_normal((classes, dim))
    if multi_label:
        y = (rng.random((n, classes)) < 2.0 / classes).astype(np.float32)
        y[np.arange(n), rng.integers(0, classes, n)] = 1
        x = (y @ centres) / y.sum(1, keepdims=True)
    else:
        y = rng.integers(0, classes, n)
        y[:classes] = np.arange(classes)
        x = centres[y]
    x = x + spread * rng.standard_normal((n, dim))
    x = x * np.exp(rng.standard_normal(dim)) + 5 * rng.standard_normal(dim)
    rows = np.arange(n)
    train, valid, test = np.split(rows, [n_train, n_train + n_valid])
    return x.astype(np.float32), y, train, valid if n_valid else None, test


def blobs(n=400, dim=20, classes=4, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    x = rng.standard_normal((classes, dim))[y] + spread * rng.standard_normal((n, dim))
    return x.astype(np.float32), y


@pytest.mark.parametrize("name", CASES)
def test_scores_are_those_of_the_reference(name):
    case = CASES[name]
    x, y, train, valid, test = golden_data(**case["data"])
    jobs = [Job(train, valid, test, seed) for seed in range(42, 42 + case["runs"])]
    fitted = probe.fit(x, y, jobs, ProbeSettings(lr=case["lr"]))
    ours = [probe.score(f.logits, y[test]) for f in fitted]
    assert ttest_ind(ours, case["scores"], equal_var=False).pvalue > 0.01
    assert abs(np.mean(ours) - case["mean"]) < 3 * max(case["std"], np.std(ours))


@pytest.mark.parametrize("hidden", [(), (16,)])
@pytest.mark.parametrize("multi_label", [False, True])
def test_together_is_the_same_as_one_at_a_time(hidden, multi_label):
    """Folds of unequal size, several seeds, with and without a validation split."""
    x, y = blobs(330)
    if multi_label:
        y = np.stack([y == c for c in range(4)] + [y > 1], axis=1).astype(np.int8)
    fold = np.arange(330) % 7 // 2
    sides = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(3)]
    jobs = [Job(a, None, b, seed, i) for seed in (1, 2) for i, (a, b) in enumerate(sides)]
    jobs.append(Job(np.arange(200), np.arange(200, 260), np.arange(260, 330), 3))
    settings = ProbeSettings(lr=3e-3, hidden=hidden, epochs=30, batch_size=64)
    together = probe.fit(x, y, jobs, settings)
    for job, fitted in zip(jobs, together, strict=True):
        (alone,) = probe.fit(x, y, [job], settings)
        np.testing.assert_allclose(alone.logits, fitted.logits, atol=2e-4)
        assert probe.score(alone.logits, y[job.test]) == probe.score(fitted.logits, y[job.test])
        assert (alone.epochs, alone.best_epoch) == (fitted.epochs, fitted.best_epoch)


def test_agrees_with_logistic_regression_on_an_easy_problem():
    x, y = blobs(600, spread=1.2)
    train, valid, test = np.split(np.arange(600), [400, 450])
    (fitted,) = probe.fit(x, y, [Job(train, valid, test, 42)], ProbeSettings(lr=1e-2))
    scale = StandardScaler().fit(x[train])
    sklearn = LogisticRegression(max_iter=1000).fit(scale.transform(x[train]), y[train])
    assert probe.score(fitted.logits, y[test]) == pytest.approx(
        sklearn.score(scale.transform(x[test]), y[test]), abs=0.04
    )


def test_agrees_with_a_dataloader_loop():
    path = Path(__file__).parent.parent.parent / "benchmarks/naive_probe.py"
    spec = importlib.util.spec_from_file_location("naive_probe", path)
    naive = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(naive)
    x, y = blobs(500, spread=3.0)
    train, valid, test = np.split(np.arange(500), [250, 350])
    seeds = range(6)
    jobs = [Job(train, valid, test, seed) for seed in seeds]
    ours = [probe.score(f.logits, y[test]) for f in probe.fit(x, y, jobs, ProbeSettings(lr=1e-3))]
    theirs = [naive.fit(x, y, train, valid, test, lr=1e-3, seed=seed) for seed in seeds]
    assert ttest_ind(ours, theirs, equal_var=False).pvalue > 0.01
    assert np.mean(ours) == pytest.approx(np.mean(theirs), abs=0.02)


def test_two_classes_work():
    x, y = blobs(200, classes=2, spread=0.3)
    (fitted,) = probe.fit(x, y, [Job(np.arange(150), None, np.arange(150, 200), 42)])
    assert fitted.logits.shape == (50, 2)
    assert probe.score(fitted.logits, y[150:]) == 1.0


def test_scaler_is_that_of_scikit_learn_constant_features_too():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((5000, 4)) * [1, 1e-3, 50, 0] + [0, 900, -3, 7]).astype(np.float32)
    rows = np.arange(0, 5000, 3)
    mean, scale = probe.scaler(x, rows)
    expected = StandardScaler().fit(x[rows].astype(np.float64))
    np.testing.assert_allclose(mean, expected.mean_, rtol=1e-12)
    np.testing.assert_allclose(scale, expected.scale_, rtol=1e-7)


def test_every_fold_is_scaled_by_its_own_training_rows():
    """Another fold's rows, however wild, leave a fold's probe as it was."""
    x, y = blobs(120)
    wild = x.copy()
    wild[100:] = wild[100:] * 1e3 + 1e4
    a = Job(np.arange(60), np.arange(60, 80), np.arange(80, 100), 42)
    b = Job(np.arange(40, 120), np.arange(20), np.arange(20, 40), 42)
    settings = ProbeSettings(lr=1e-2, epochs=20)
    (alone,) = probe.fit(x, y, [a], settings)
    beside, _ = probe.fit(wild, y, [a, b], settings)
    np.testing.assert_allclose(alone.logits, beside.logits, atol=1e-4)
    _, second = probe.fit(wild, y, [a, b], settings)
    (second_alone,) = probe.fit(wild, y, [b], settings)
    np.testing.assert_allclose(second.logits, second_alone.logits, atol=1e-3)


def test_stops_patience_epochs_after_the_last_best_and_restores_it():
    x, y = blobs(100, spread=0.05)  # perfect from the first epochs on: ties count as better
    (fitted,) = probe.fit(
        x, y, [Job(np.arange(50), np.arange(50, 75), np.arange(75, 100), 42)], ProbeSettings(lr=0.1)
    )
    assert (fitted.epochs, fitted.best_epoch) == (200, 200)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((150, 30)).astype(np.float32), rng.integers(0, 3, 150)
    (fitted,) = probe.fit(
        x,
        y,
        [Job(np.arange(50), np.arange(50, 100), np.arange(100, 150), 42)],
        ProbeSettings(lr=0.1),
    )
    assert fitted.epochs == fitted.best_epoch + 20 < 200
    weight, bias = fitted.layers[0]
    mean, scale = probe.scaler(x, np.arange(50))
    by_hand = ((x[100:] - mean) / scale) @ weight.T + bias
    np.testing.assert_allclose(fitted.logits, by_hand, atol=1e-4)


def test_saturated_scores_go_to_the_lower_class():
    """float32 sigmoid is 1 from about 16.64 on, so that 20 and 30 are equal."""
    assert probe.score(np.array([[20.0, 30.0]]), np.array([0])) == 1.0
    assert probe.score(np.array([[10.0, 12.0]]), np.array([0])) == 0.0


@pytest.mark.parametrize("hidden", [(), (16,)])
def test_a_grid_of_rates_gives_the_bits_of_a_run_at_each(hidden):
    """Folds of unequal size; probes that end early; classes that fill no vector register."""
    x, y = blobs(330, dim=19, spread=2.0)
    fold = np.arange(330) % 7 // 2
    sides = [(np.flatnonzero(fold != f), np.flatnonzero(fold == f)) for f in range(3)]
    settings = ProbeSettings(hidden=hidden, epochs=40, patience=4, batch_size=64)
    rates = (1e-3, 1e-2, 5e-2)

    def jobs(lr=None):
        return [
            Job(a, None, b, seed, i, lr=lr) for seed in (1, 2) for i, (a, b) in enumerate(sides)
        ]

    grid = probe.fit(x, y, [job for lr in rates for job in jobs(lr)], settings)
    alone = [f for lr in rates for f in probe.fit(x, y, jobs(), replace(settings, lr=lr))]
    assert len({f.epochs for f in grid}) > 2
    for ours, single in zip(grid, alone, strict=True):
        np.testing.assert_array_equal(ours.logits, single.logits)
        assert (ours.epochs, ours.best_epoch) == (single.epochs, single.best_epoch)


def test_a_rate_that_diverges_stops_no_other():
    x, y = blobs(120, spread=2.0)
    train, valid, test = np.split(np.arange(120), [70, 90])
    jobs = [Job(train, valid, test, s, lr=lr) for s in (1, 2) for lr in (1e-2, np.inf, 1e-3)]
    fitted = probe.fit(x, y, jobs, ProbeSettings(epochs=10))
    assert [f.goodness == -np.inf for f in fitted] == [False, True, False] * 2
    assert [f.epochs for f in fitted] == [10, 1, 10] * 2
    alone = probe.fit(x, y, [job for job in jobs if job.lr == 1e-2], ProbeSettings(epochs=10))
    for ours, single in zip(fitted[::3], alone, strict=True):
        np.testing.assert_array_equal(ours.logits, single.logits)


def test_what_diverges_late_does_not_count_either():
    """The second epoch's step is too large for float32; the first epoch's score was good."""
    x, y = blobs(120, spread=0.1)
    train, valid, test = np.split(np.arange(120), [70, 90])
    (fitted,) = probe.fit(x, y, [Job(train, valid, test, 1, lr=2.5e38)], ProbeSettings(epochs=10))
    assert 1 <= fitted.epochs < 10
    assert fitted.goodness == -np.inf


def test_rates_in_one_stack_as_on_a_gpu_agree_with_stacks_of_their_own(monkeypatch):
    x, y = blobs(200, spread=2.0)
    jobs = [
        Job(np.arange(150), None, np.arange(150, 200), seed, lr=lr)
        for lr in (1e-3, 3e-2)
        for seed in (1, 2)
    ]
    settings = ProbeSettings(hidden=(8,), epochs=40, patience=4, batch_size=64)
    apart = probe.fit(x, y, jobs, settings)
    monkeypatch.setattr(probe, "_groups", lambda jobs, *_: [[list(range(len(jobs)))]])
    together = probe.fit(x, y, jobs, settings)
    assert len({f.epochs for f in apart}) > 1
    for a, b in zip(apart, together, strict=True):
        np.testing.assert_allclose(a.logits, b.logits, atol=2e-4)
        assert (a.epochs, a.best_epoch) == (b.epochs, b.best_epoch)


def test_each_job_reads_its_own_matrix_which_is_looked_up_once():
    """Embeddings of several layers, of different sizes."""
    x, y = blobs(120, dim=6)
    layers = [x, (x @ np.eye(6, 9)).astype(np.float32), 2 * x[:, ::-1].copy()]

    class Lookup(list):
        asked = []

        def __getitem__(self, at):
            self.asked.append(at)
            return super().__getitem__(at)

    train, valid, test = np.split(np.arange(120), [70, 90])
    jobs = [Job(train, valid, test, s, features=i) for s in (1, 2) for i in (2, 0, 1)]
    settings, seen = ProbeSettings(lr=1e-2, epochs=15), []
    fitted = probe.fit(Lookup(layers), y, jobs, settings, on_epoch=lambda *told: seen.append(told))
    assert Lookup.asked == [0, 1, 2]
    for job, result in zip(jobs, fitted, strict=True):
        own = [Job(train, valid, test, s) for s in (1, 2)]
        single = probe.fit(layers[job.features], y, own, settings)[job.seed - 1]
        np.testing.assert_array_equal(result.logits, single.logits)
    assert seen[0] == (1, 6)
    assert seen[-1] == (15, 2)


def test_input_is_left_alone_unless_it_may_be_overwritten():
    x, y = blobs(50)
    before = x.copy()
    job = Job(np.arange(30), np.arange(30, 40), np.arange(40, 50), 1)
    kept = probe.fit(x, y, [job], ProbeSettings(epochs=3))
    assert np.array_equal(x, before)
    overwritten = probe.fit(x, y, [job], ProbeSettings(epochs=3), overwrite_x=True)
    assert not np.array_equal(x, before)
    np.testing.assert_array_equal(kept[0].logits, overwritten[0].logits)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="must be"):
        probe.fit(np.zeros((3, 2), np.float32), np.zeros(4, int), [])


ERRORS = replace(
    METRICS["accuracy"],
    name="errors",
    value=lambda y, s: float((s.argmax(1) != y).mean()),
    higher_is_better=False,
)


def test_the_metric_selects_the_epoch_in_its_direction():
    """Errors, of which fewer are better, select what accuracy selects."""
    x, y = blobs(150)
    job = Job(np.arange(80), np.arange(80, 120), np.arange(120, 150), 1)
    settings = ProbeSettings(lr=1e-2, patience=3)
    (usual,), (other,) = (probe.fit(x, y, [job], settings, metric=m) for m in (None, ERRORS))
    assert usual.best_epoch == other.best_epoch > 1
    np.testing.assert_array_equal(usual.logits, other.logits)
    assert other.valid_score == pytest.approx(1 - usual.valid_score)
    assert other.goodness == -other.valid_score


def test_another_metric_selects_another_epoch():
    """One that ranks epochs the other way round stops at once: later epochs are never better."""
    x, y = blobs(150)
    job = Job(np.arange(80), np.arange(80, 120), np.arange(120, 150), 1)
    wrong = replace(ERRORS, higher_is_better=True)
    settings = ProbeSettings(lr=1e-2, patience=3)
    (usual,), (other,) = (probe.fit(x, y, [job], settings, metric=m) for m in (None, wrong))
    assert usual.best_epoch > other.best_epoch
