"""Attentive pooling from sounds to a score: frames in the cache, rates chosen on validation."""

import pytest

import evar
from helpers.probed import Blocks, scores_of

FAST = {"device": "cpu", "seeds": 2, "epochs": 8}
SLOW = FAST | {"epochs": 60}


@pytest.mark.parametrize("queries", [1, 3])
def test_easy_classes_are_told_apart(clips, queries):
    run = evar.evaluate(Blocks, clips.csv, "attentive", queries=queries, **SLOW)
    assert run.score == 1.0
    assert run.record.extra["heads"] == 8
    assert len(run.predictions) == 2 * 8
    assert run.record.score.ci95 is not None


def test_kept_frames_give_the_same_scores_and_half_of_them_nearly(clips, tmp_path):
    cache = tmp_path / "cache"
    first, again, half = (
        evar.evaluate(Blocks, clips.csv, "attentive", cache=cache, **more, **FAST)
        for more in ({}, {}, {"half": True})
    )
    assert scores_of(first).equals(scores_of(again))
    difference = (scores_of(first).score - scores_of(half).score).abs()
    assert 0 < difference.max() < 0.01


def test_the_rate_is_chosen_on_validation_and_is_that_of_a_single_run(clips):
    run = evar.evaluate(Blocks, clips.csv, "attentive", lr="auto", **FAST)
    for of_run in run.record.runs:
        (fold,) = of_run["folds"]
        assert fold["valid_score"] == max(fold["valid_by_lr"].values())
        alone = evar.evaluate(Blocks, clips.csv, "attentive", lr=fold["lr"], **FAST)
        seed = of_run["seed"]
        ours, theirs = (r.predictions[r.predictions.seed == seed] for r in (run, alone))
        assert ours.score.to_list() == theirs.score.to_list()


def test_the_command_says_how_much_disk_the_frames_need(command, clips):
    from pathlib import Path

    import helpers.probed

    model = f"{Path(helpers.probed.__file__)}:Blocks"
    ran = command("attentive", model, clips.csv, "--seeds=1", "--epochs=2", "--half")
    assert ran.code == 0, ran.err
    assert "float16 values need" in ran.err
    quiet = command("attentive", model, clips.csv, "--seeds=1", "--epochs=2", "--quiet")
    assert quiet.err == ""


def test_what_cannot_be_is_refused(command, clips, simple, refused):
    refused(command("attentive", simple, clips.csv, "--quiet"), "has no frames")
    refused(command("attentive", "logmel", clips.csv, "--quiet", "--half=2"), "--half")
    refused(command("attentive", "logmel", clips.csv, "--quiet", "--queries=0"), "--queries")
