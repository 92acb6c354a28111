"""k nearest neighbours from sounds to a score: scikit-learn's, without chance, k on validation."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

import evar
from evar import models
from evar.data import opening
from evar.embedding import embeddings
from evar.runtime import Runtime
from helpers.probed import Blocks, scores_of


def test_the_score_is_scikit_learns_on_the_same_embeddings(clips):
    for row in clips.rows[::3]:  # a hard problem: every third label is wrong
        row[1] = "low"
    run = evar.evaluate(Blocks, clips.csv, "knn", device="cpu", k=3)
    manifest = opening.open_task(clips.csv)
    found = embeddings.embed_task(models.load(Blocks), manifest, Runtime())
    x = found.values[found.first]
    side, y = manifest.table.split, manifest.table.label
    sklearn = KNeighborsClassifier(
        3, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
    ).fit(x[side == "train"], y[side == "train"])
    assert run.score == pytest.approx(sklearn.score(x[side == "test"], y[side == "test"]))
    expected = sklearn.predict_proba(x[side == "test"]).max(axis=1)
    np.testing.assert_allclose(run.predictions.score, expected, atol=1e-5)


def test_nothing_is_random_and_k_is_chosen_on_validation(clips):
    run = evar.evaluate(Blocks, clips.csv, "knn", device="cpu")
    assert run.record.score.ci95 is None
    assert "nothing is random" in run.record.extra["no_ci95"]
    assert run.interval is None  # eight test clips are too few
    (fold,) = run.record.runs[0]["folds"]
    assert set(fold["valid_by_k"]) == {"1", "5", "10", "12"}  # of twelve training clips
    assert fold["k"] == 1
    assert len(run.predictions) == 8
    assert scores_of(run).equals(scores_of(evar.evaluate(Blocks, clips.csv, "knn", device="cpu")))


def test_folds_have_no_validation_and_take_ten(new_clips):
    made = new_clips(columns=("file", "label", "fold"))
    for i in range(36):
        made.add(f"{i}.wav", ("low", "high")[i % 2], i % 3, hertz=(300, 3000)[i % 2] + 9 * i)
    run = evar.evaluate(Blocks, made.csv, "knn", device="cpu")
    assert [fold["k"] for fold in run.record.runs[0]["folds"]] == [10] * 3
    assert run.score == 1.0


def test_several_labels_are_ranked_by_their_share(several_labels):
    run = evar.evaluate(Blocks, several_labels.csv, "knn", device="cpu")
    assert run.record.score.metric == "mAP"
    assert run.score > 0.8


def test_the_command_line_has_its_options(command, clips, simple, refused):
    ran = command("knn", simple, clips.csv, "--quiet", "--k=3")
    assert ran.code == 0, ran.err
    assert "knn  accuracy" in ran.out.splitlines()[-1]


def test_values_out_of_range_are_refused(command, clips, simple, refused):
    refused(command("knn", simple, clips.csv, "--quiet", "--k=0"), "--k")
    refused(command("knn", simple, clips.csv, "--quiet", "--seeds=3"), "--seeds")
