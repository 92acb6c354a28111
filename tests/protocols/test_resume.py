"""Every probe of frozen embeddings that is stopped in the middle goes on where it was."""

import pytest

import evar
from evar.embedding import engine
from helpers.probed import Blocks, scores_of

FAST = {
    "linear": {"epochs": 3},
    "knn": {},
    "fewshot": {"shots": (1, 2)},
    "layers": {"epochs": 3},
    "attentive": {"epochs": 3},
    "hear": {"grid_points": 1, "epochs": 3},
    "xares": {"epochs": 2},
}
STEADY = 8  # at most two batches, by which the model is compared with the one of the cache


@pytest.fixture
def evaluate(clips, monkeypatch):
    """A function that evaluates until `most` clips were heard; returns the run and their number.

    What counts them is no attribute of the model, whose identity it would change.
    """
    features, state = Blocks.features, {}

    def counting(self, audio):
        if state["heard"] + len(audio) > state["most"]:
            raise KeyboardInterrupt
        state["heard"] += len(audio)
        return features(self, audio)

    monkeypatch.setattr(Blocks, "features", counting)
    monkeypatch.setattr(engine, "_SHARD_CLIPS", 4)  # 24 clips are six shards

    def call(protocol, cache, *, most=10**9):
        state.update(heard=0, most=most)
        options = {"device": "cpu", "batch_size": 4, "cache": cache, **FAST[protocol]}
        return evar.evaluate(Blocks, clips.csv, protocol, **options), state["heard"]

    return call


@pytest.mark.parametrize("protocol", FAST)
def test_what_was_embedded_before_a_stop_is_kept(protocol, evaluate, tmp_path):
    whole, heard = evaluate(protocol, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        evaluate(protocol, tmp_path / "stopped", most=heard - 6)
    resumed, again = evaluate(protocol, tmp_path / "stopped")
    assert again <= heard - 8  # two shards at least were not embedded again
    assert resumed.score == whole.score
    assert scores_of(resumed).equals(scores_of(whole))
    assert evaluate(protocol, tmp_path / "stopped")[1] <= STEADY
