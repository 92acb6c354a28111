"""X-ARES' protocol from sounds to a score: what selects the epoch, and what a result says of it."""

import numpy as np
import pytest

import evar
from evar.results import text
from helpers.probed import Blocks

FAST = {"device": "cpu", "epochs": 4}


def test_a_split_is_validated_on_its_validation_side(clips):
    run = evar.evaluate(Blocks, clips.csv, "xares", **FAST)
    (fold,) = run.record.runs[0]["folds"]
    assert fold["held_out"] == "valid split"
    assert run.record.select is None
    assert run.record.seeds == (42,)
    assert "one run, as in X-ARES" in run.record.extra["no_ci95"]


def test_folds_select_on_the_fold_that_is_tested_and_the_result_says_oracle(new_clips):
    made = new_clips(columns=("file", "label", "fold"))
    for i in range(24):
        label = ("low", "high")[(i % 2) ^ (i % 7 == 0)]
        made.add(f"{i:02d}.wav", label, i % 3, hertz=(300, 3000)[i % 2] + 9 * i)
    run = evar.evaluate(Blocks, made.csv, "xares", **FAST)
    folds = run.record.runs[0]["folds"]
    assert [fold["held_out"] for fold in folds] == ["test fold"] * 3
    assert all(fold["valid_score"] == pytest.approx(fold["score"]) for fold in folds)
    assert run.score == pytest.approx(np.mean([fold["score"] for fold in folds]))
    assert "oracle" in text.caveats(run.record)
    assert len(run.predictions) == 24


def test_several_labels(several_labels):
    run = evar.evaluate(Blocks, several_labels.csv, "xares", **(FAST | {"epochs": 60}))
    assert run.score > 0.6


def test_the_command_line(command, clips, simple):
    ran = command("xares", simple, clips.csv, "--quiet", "--epochs=2", "--batch_size=8")
    assert ran.code == 0, ran.err


def test_values_out_of_range_are_refused(command, clips, simple, refused):
    refused(command("xares", simple, clips.csv, "--epochs=0"), "--epochs")
    refused(command("xares", simple, clips.csv, "--batch_size=0"), "--batch_size")
