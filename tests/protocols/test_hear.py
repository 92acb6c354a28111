"""HEAR's protocol from sounds to a score: its folds, its grid, its deviation over folds."""

import numpy as np
import pytest

import evar
from evar.probing import hear
from helpers.probed import Blocks

FAST = {"device": "cpu", "grid_points": 2, "epochs": 9}


@pytest.fixture
def folds(new_clips):
    made = new_clips(columns=("file", "label", "fold"))
    for i in range(40):
        label = ("low", "high")[(i % 2) ^ (i % 7 == 0)]
        made.add(f"{i:02d}.wav", label, i % 4, hertz=(300, 3000)[i % 2] + 9 * i)
    return made


def test_folds_are_tested_in_turn_with_one_point_of_the_grid(folds, monkeypatch):
    splits = []
    fit = hear.fit
    monkeypatch.setattr(
        hear, "fit", lambda x, y, sides, *a, **k: splits.append(sides) or fit(x, y, sides, *a, **k)
    )
    run = evar.evaluate(Blocks, folds.csv, "hear", **FAST)
    assert len(splits) == 2 + 3  # the grid on the first split, then the other three
    assert [len(s.train) for s in splits] == [20] * 5
    assert all(not set(s.train) & set(s.valid) for s in splits)
    (of_run,) = run.record.runs
    assert len({(f["hidden_layers"], f["lr"], f["initialisation"]) for f in of_run["folds"]}) == 1
    best = max(of_run["grid"], key=lambda point: point["valid_score"])
    assert of_run["folds"][0]["lr"] == best["lr"]
    scores = [fold["score"] for fold in of_run["folds"]]
    assert run.score == pytest.approx(np.mean(scores))
    assert of_run["fold_std"] == pytest.approx(np.std(scores, ddof=1))
    assert len(run.predictions) == 40


def test_a_split_is_validated_on_its_validation_side(clips):
    run = evar.evaluate(Blocks, clips.csv, "hear", **FAST)
    (fold,) = run.record.runs[0]["folds"]
    assert fold["held_out"] == "valid split"
    assert fold["best_epoch"] % 3 == 0
    assert (run.record.score.runs, run.record.score.ci95) == (1, None)
    assert "one run, as in HEAR" in run.record.extra["no_ci95"]
    several = evar.evaluate(Blocks, clips.csv, "hear", seeds=2, **FAST).record
    assert several.score.ci95 is not None
    assert "no_ci95" not in several.extra


def test_several_labels(several_labels):
    run = evar.evaluate(Blocks, several_labels.csv, "hear", **(FAST | {"epochs": 30}))
    assert run.score > 0.6


def test_the_command_line(command, clips, simple, refused):
    ran = command("hear", simple, clips.csv, "--quiet", "--grid_points=1", "--epochs=3")
    assert ran.code == 0, ran.err


def test_values_out_of_range_are_refused(command, clips, simple, refused):
    refused(command("hear", simple, clips.csv, "--grid_points=17"), "--grid_points")
    refused(command("hear", simple, clips.csv, "--quiet", "--epochs=2"), "validation check")


def test_two_folds_are_too_few(new_clips):
    made = new_clips(columns=("file", "label", "fold"))
    for i in range(8):
        made.add(f"{i}.wav", ("low", "high")[i % 2], i // 4, hertz=(300, 3000)[i % 2] + 9 * i)
    with pytest.raises(evar.UserError, match="3 folds"):
        evar.evaluate(Blocks, made.csv, "hear", **FAST)
