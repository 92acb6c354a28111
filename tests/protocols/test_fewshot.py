"""Few shots from sounds to a curve: draws are runs, the preset is MTEB's, refusals are one line."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import evar
from evar import models
from evar.data import opening
from evar.embedding import embeddings
from evar.runtime import Runtime
from helpers.probed import Blocks


@pytest.fixture
def hard(clips):
    for row in clips.rows[::4]:
        row[1] = "low"
    return clips


def test_mtebs_preset_is_scikit_learn_on_mtebs_draws(hard):
    run = evar.evaluate(Blocks, hard.csv, "fewshot", preset="mteb", device="cpu")
    manifest = opening.open_task(hard.csv)
    found = embeddings.embed_task(models.load(Blocks), manifest, Runtime())
    x, table = found.values[found.first], manifest.table
    train = np.flatnonzero(table.split == "train")
    test = np.flatnonzero(table.split == "test")
    y = table.label.to_numpy(str)
    left, scores = list(range(len(train))), []
    for _ in range(10):
        np.random.RandomState(42).shuffle(left)
        rows = [
            r for c in ("high", "low") for r in [train[i] for i in left if y[train[i]] == c][:8]
        ]
        model = LogisticRegression(max_iter=100, random_state=42).fit(x[rows], y[rows])
        scores.append(model.score(x[test], y[test]))
    ours = [draw["folds"][0]["score"] for draw in run.record.runs]
    assert ours == pytest.approx(scores)
    assert run.score == pytest.approx(np.mean(scores))
    assert run.record.score.runs == 10
    assert run.record.settings["shots"] == (8,) or run.record.settings["shots"] == [8]


def test_the_curve_has_an_interval_over_draws(hard):
    run = evar.evaluate(Blocks, hard.csv, "fewshot", shots=(1, 4), seeds=5, device="cpu")
    curve = run.record.extra["curve"]
    assert [point["shots"] for point in curve] == [1, 4]
    assert curve[-1]["mean"] == pytest.approx(run.score)
    assert all(point["runs"] == 5 and point["ci95"] >= 0 for point in curve)
    table = run.tables["curve"]
    assert len(table) == 2 * 5
    assert table[table.shots == 4].score.mean() == pytest.approx(run.score)
    assert len(run.predictions) == 5 * 8
    assert run.interval is None, "eight clips are too few for one over clips"


def test_several_labels(several_labels):
    run = evar.evaluate(Blocks, several_labels.csv, "fewshot", shots=(8,), seeds=2, device="cpu")
    assert run.score > 0.7


def test_the_command_line_takes_one_number_or_several(command, clips, simple, refused):
    assert command("fewshot", simple, clips.csv, "--quiet", "--shots=2", "--seeds=2").code == 0
    assert command("fewshot", simple, clips.csv, "--quiet", "--shots=1,2", "--seeds=2").code == 0


def test_values_out_of_range_are_refused(command, clips, simple, refused):
    refused(command("fewshot", simple, clips.csv, "--shots=0"), "--shots")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"preset": "mtep"}, "mteb"),
        ({"preset": "mteb", "shots": (4,)}, "leave --shots out"),
        ({"shots": (4, 4)}, "different numbers"),
    ],
)
def test_what_cannot_be_is_refused(clips, options, word):
    with pytest.raises(evar.UserError, match=word):
        evar.evaluate(Blocks, clips.csv, "fewshot", device="cpu", **options)
