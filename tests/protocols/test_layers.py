"""Layers from sounds to a curve: each layer is its linear probe, validation chooses among them."""

import numpy as np
import pytest

import evar
from evar import models
from evar.data import opening
from evar.embedding import embeddings
from evar.embedding.layers import Columns, every_layer
from evar.probing import probe
from evar.runtime import Runtime
from helpers.probed import Blocks, scores_of


@pytest.fixture
def hard(clips):
    for row in clips.rows[::4]:
        row[1] = "low"
    return clips


def test_each_layer_is_a_linear_probe_of_its_own(hard):
    run = evar.evaluate(Blocks, hard.csv, "layers", lr=0.05, seeds=2, epochs=30, device="cpu")
    manifest = opening.open_task(hard.csv)
    model = every_layer(models.load(Blocks), manifest.task.seconds)
    found = embeddings.embed_task(model, manifest, Runtime())
    side = manifest.table.split
    y = (manifest.table.label == "low").to_numpy(int)
    rows = [found.first[side == name] for name in ("train", "valid", "test")]
    of_view = np.zeros(len(found.values), int)
    of_view[found.first] = y
    columns = Columns(found.values, model.adapter.layers)
    for number in range(4):
        jobs = [probe.Job(*rows, seed) for seed in (42, 43)]
        settings = probe.ProbeSettings(lr=0.05, epochs=30)
        fitted = probe.fit(columns[number], of_view, jobs, settings)
        expected = [probe.score(fit.logits, of_view[rows[2]]) for fit in fitted]
        assert run.record.extra["curve"][number]["mean"] == pytest.approx(np.mean(expected))
    assert [point["layer"] for point in run.record.extra["curve"]] == [0, 1, 2, 3]


def test_validation_chooses_the_layer_never_the_test(hard):
    run = evar.evaluate(Blocks, hard.csv, "layers", seeds=3, epochs=20, device="cpu")
    table = run.tables["layers"]
    for (seed, fold), found in table.groupby(["seed", "fold"]):
        (record,) = [
            one
            for of_run in run.record.runs
            if of_run["seed"] == seed
            for one in of_run["folds"]
            if one["fold"] == fold
        ]
        best = found.valid_score.max()
        first = found[found.valid_score == best].layer.min()
        assert (record["layer"], record["valid_score"]) == (first, best)
    means = table.groupby("layer").valid_score.mean()
    assert run.record.extra["chosen_layer"] == means.idxmax()


def test_a_mixture_is_learned_and_its_weights_are_recorded(hard):
    run = evar.evaluate(
        Blocks, hard.csv, "layers", layers="weighted", seeds=2, epochs=30, device="cpu"
    )
    weights = run.record.extra["layer_weights"]
    assert len(weights) == 4
    assert sum(weights.values()) == pytest.approx(1)
    assert len(run.predictions) == 2 * 8
    assert set(run.tables["layers"].columns) == {"layer", "seed", "fold", "weight"}


def test_a_grid_of_rates_is_searched_for_each_layer(hard):
    run = evar.evaluate(Blocks, hard.csv, "layers", lr="auto", seeds=1, epochs=5, device="cpu")
    (fold,) = run.record.runs[0]["folds"]
    assert len(fold["valid_by_lr"]) == 5
    assert fold["valid_by_lr"][f"{fold['lr']:g}"] == fold["valid_score"]


def test_kept_embeddings_give_the_same_scores(hard, tmp_path):
    options = {"seeds": 1, "epochs": 5, "device": "cpu", "cache": tmp_path / "cache"}
    first = evar.evaluate(Blocks, hard.csv, "layers", **options)
    again = evar.evaluate(Blocks, hard.csv, "layers", **options)
    assert scores_of(first).equals(scores_of(again))


@pytest.mark.parametrize(
    ("model", "options", "word"),
    [
        ("logmel", {}, "has no blocks"),
        (Blocks, {"layers": "every"}, "each"),
        (Blocks, {"lr": "automatic"}, "auto"),
    ],
)
def test_what_cannot_be_is_refused(clips, model, options, word):
    with pytest.raises(evar.UserError, match=word):
        evar.evaluate(model, clips.csv, "layers", device="cpu", **options)
