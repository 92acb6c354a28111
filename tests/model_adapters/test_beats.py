import json
import sys

import pytest
import torch

from evar.errors import UserError
from evar.model_adapters import beats as beats_module
from evar.model_adapters.beats import Beats
from helpers import standin
from helpers.golden_cases import EXACT, Case, assert_steady, build, noise, tiny

CASE = Case("beats")
CONFIG = json.loads((standin.GOLDEN / "beats.cfg.json").read_text())


@pytest.fixture(scope="module")
def beats(tmp_path_factory):
    content = {"cfg": CONFIG, "model": CASE.state()}
    return build(Beats, content, tmp_path_factory.mktemp("beats"))


@pytest.mark.parametrize("seconds", CASE.seconds)
def test_equals_the_original(beats, seconds):
    audio = CASE.some_audio(seconds, 16000)
    assert CASE.error(beats.embed(audio), f"clip_{seconds}s", len(audio)) <= EXACT


def test_features_and_tokens_equal_the_original(beats):
    features = beats.features(CASE.audio(1, 16000))
    assert CASE.error(features.mT, "features_1s") <= EXACT
    tokens = beats.tokens(features)
    assert list(tokens.shape) == CASE.outputs["frames_shape_1s"].tolist()
    assert CASE.error(tokens[:, :2], "frames_head_1s") <= EXACT


def test_frames_are_in_the_order_of_time(beats):
    audio = CASE.audio(1, 16000)
    tokens = beats.tokens(beats.features(audio))  # eight tokens a time step
    torch.testing.assert_close(beats.frames(audio)[:, 1], tokens[:, 8:16].mean(dim=1))


def test_long_clips_are_encoded_few_at_a_time(monkeypatch):
    model, audio = tiny(Beats), noise(5, 32000)
    together = model.embed(audio)
    monkeypatch.setattr(beats_module, "_SCORES", 2 * 96**2)  # of two clips of 12 x 8 tokens
    torch.testing.assert_close(model.embed(audio), together)


def test_loads_a_checkpoint_that_was_fine_tuned(tmp_path):
    config = {**CONFIG, **Beats.TINY["config"]}
    state = tiny(Beats).net.state_dict()
    extras = {"predictor.weight": torch.zeros(527, 16), "predictor.bias": torch.zeros(527)}
    model = build(Beats, {"cfg": config, "model": {**state, **extras}}, tmp_path)
    assert torch.equal(model.net.layer_norm.weight, state["layer_norm.weight"])


def test_steady():
    assert_steady(tiny(Beats))


def test_what_differs_is_named(tmp_path):
    state = {"layer_norm.weight": torch.ones(512), "layer_norm.bias": torch.zeros(512)}
    with pytest.raises(UserError, match="not a checkpoint of BEATs: 'cfg' and 'model' are missing"):
        build(Beats, state, tmp_path)
    config = {**CONFIG, **Beats.TINY["config"]}
    with pytest.raises(UserError, match=r"not a checkpoint of BeatsEncoder: .*of another shape"):
        build(Beats, {"cfg": config, "model": state}, tmp_path)


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openbeats.beats_encoder", None)
    with pytest.raises(UserError, match="pip install openbeats"):
        tiny(Beats)
