import pytest
import torch

from evar.errors import UserError
from evar.model_adapters.cnn14 import Cnn14
from helpers.golden_cases import EXACT, Case, assert_steady, build, published_cnn14, tiny

CASES = {16000: Case("cnn14_16k"), 32000: Case("cnn14_32k")}


@pytest.fixture(scope="module", params=CASES)
def rate_and_model(request, tmp_path_factory):
    rate = request.param
    extras = published_cnn14("", Cnn14(rate=rate, width=1).mel)
    content = {"model": {**CASES[rate].state(), **extras}}
    return rate, build(Cnn14, content, tmp_path_factory.mktemp("cnn14"), rate=rate)


def test_equals_the_original(rate_and_model):
    rate, model = rate_and_model
    case = CASES[rate]
    for seconds in case.seconds:
        audio = case.some_audio(seconds, rate)
        count = len(audio)
        assert case.error(model.embed(audio), f"clip_{seconds}s", count) <= EXACT, seconds
        if rate == 16000:
            frames = model.frames(audio)
            shape = case.outputs[f"frames_shape_{seconds}s"].tolist()
            assert list(frames.mT.shape) == [count, *shape[1:]]
            assert case.error(frames[:, :2], f"frames_head_{seconds}s", count) <= EXACT, seconds


@pytest.mark.parametrize("rate", CASES)
def test_log_mel_equals_the_original(rate):
    frames = CASES[rate].outputs["features_1s"].shape[1]
    features = tiny(Cnn14, rate=rate).features(CASES[rate].audio(1, rate)).mT[:, :frames]
    assert CASES[rate].error(features, "features_1s") <= EXACT


def test_loads_without_the_parts_that_are_not_the_encoders(tmp_path):
    state = tiny(Cnn14).net.state_dict()
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    model = build(Cnn14, {"model": state}, tmp_path, **Cnn14.TINY)
    assert torch.equal(model.net.fc1.weight, state["fc1.weight"])


@pytest.mark.parametrize("rate", CASES)
def test_steady(rate):
    assert_steady(tiny(Cnn14, rate=rate))


def test_the_checkpoint_of_the_other_rate_is_named(tmp_path):
    extras = published_cnn14("", Cnn14(rate=32000, width=1).mel)
    with pytest.raises(UserError, match="logmel_extractor.melW holds other mel bands"):
        build(Cnn14, {"model": extras}, tmp_path, rate=16000, **Cnn14.TINY)


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"not a checkpoint of Cnn14Net: .*missing \(bn0.bias"):
        build(Cnn14, {"model": Case("byola_v2").blank()}, tmp_path, **Cnn14.TINY)


def test_an_unpublished_rate_is_refused():
    with pytest.raises(UserError, match="not published for 8000 Hz; known: 16000, 32000"):
        Cnn14(rate=8000)
