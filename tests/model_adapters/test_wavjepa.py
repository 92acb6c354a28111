"""WavJEPA against the network and the HEAR runtime of the authors' repository, at small size."""

import pytest
import torch

from evar.errors import UserError
from evar.model_adapters.wavjepa import WavJepa, frames_of
from helpers.golden_cases import EXACT, Case, build, noise, tiny

CASE = Case("wavjepa")
SIZES = {"width": 32, "depth": 2, "heads": 4, "channels": 24}


@pytest.fixture(scope="module")
def wavjepa(tmp_path_factory):
    state = CASE.state()
    state["pos_encoding_encoder"] = WavJepa(**SIZES).pos_encoding_encoder  # fixed, as in the file
    state["teacher_encoder.norm.weight"] = torch.ones(32)
    return build(WavJepa, {"state_dict": state}, tmp_path_factory.mktemp("wavjepa"), **SIZES)


def test_equals_the_original(wavjepa):
    for seconds in CASE.seconds:
        audio = CASE.audio(seconds, 16000)
        assert CASE.error(wavjepa.embed(audio), f"clip_{seconds}s") <= EXACT, seconds
        frames = wavjepa.frames(audio)
        assert list(frames.shape) == CASE.outputs[f"frames_shape_{seconds}s"].tolist()
        assert CASE.error(frames[:, :8], f"frames_head_{seconds}s") <= EXACT, seconds
        assert CASE.error(frames[:, -8:], f"frames_tail_{seconds}s") <= EXACT, seconds


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (160, 1), (16000, 99), (32160, 200)])
def test_padding_is_not_heard(samples, frames):
    """By hand: a window of 32,160 samples has 200 frames, and 160 samples of padding take one."""
    assert frames_of(samples) == frames


def test_positions_are_those_that_the_file_holds(tmp_path):
    """Another table than the fixed one counts: it is what the weights were trained with."""
    model = tiny(WavJepa)
    state = model.state_dict()
    shifted = {**state, "pos_encoding_encoder": state["pos_encoding_encoder"] + 1}
    other = build(WavJepa, shifted, tmp_path, **WavJepa.TINY)
    assert not torch.equal(other.embed(noise(1, 16000)), model.embed(noise(1, 16000)))


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"not a checkpoint of WavJepa"):
        build(WavJepa, Case("byola_2048").blank(), tmp_path, **WavJepa.TINY)
