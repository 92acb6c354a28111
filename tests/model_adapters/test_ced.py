import pytest
import torch

from evar.errors import UserError
from evar.model_adapters.ced import Ced
from helpers import standin
from helpers.golden_cases import EXACT, Case, assert_steady, build, noise, tiny

CASE = Case("ced_base")


@pytest.fixture(scope="module")
def ced(tmp_path_factory):
    head = {"outputlayer.0.weight": torch.ones(768), "outputlayer.1.bias": torch.zeros(527)}
    counter = {"encoder.init_bn.num_batches_tracked": torch.tensor(1000)}
    content = {**CASE.state(), **head, **counter}
    return build(Ced, content, tmp_path_factory.mktemp("ced"))


@pytest.mark.parametrize("seconds", CASE.seconds)
def test_equals_the_original(ced, seconds):
    features = ced.features(CASE.audio(seconds, 16000))
    tokens = torch.cat(ced.tokens(features), dim=1)
    assert list(tokens.shape) == CASE.outputs[f"frames_shape_{seconds}s"].tolist()
    assert CASE.error(tokens[:, :2], f"frames_head_{seconds}s") <= EXACT
    assert CASE.error(ced.encode(features).mean(dim=1), f"clip_{seconds}s") <= EXACT
    if seconds == 1:
        assert CASE.error(features, "features_1s") <= EXACT


def test_clips_are_not_mixed(ced):
    """What the published code gives for two long clips in one batch is not to be reproduced."""
    clip = ced.embed(CASE.audio(11, 16000)[:1])
    golden = CASE.outputs["clip_11s"][:1]
    assert standin.relative_error(clip, golden) <= EXACT
    assert standin.relative_error(clip, CASE.outputs["clip_mixed_11s"][:1]) > 0.01


def test_a_last_chunk_that_is_exactly_full_is_kept():
    model = tiny(Ced)
    audio = noise(2, 2023 * 160)  # 2,024 frames: two chunks of 1,012
    features = model.features(audio)
    assert features.shape[2] == 2 * model.length
    frames = model.encode(features)
    assert frames.shape[1] == 2 * 63
    torch.testing.assert_close(frames[:, 63:], model.encode(features[..., model.length :]))


def test_frames_are_in_the_order_of_time():
    model = tiny(Ced)
    features = model.features(noise(2, 16000))
    tokens = model.tokens(features)[0]  # four bands of six time steps
    torch.testing.assert_close(model.encode(features)[:, 2], tokens[:, 2::6].mean(dim=1))


@pytest.mark.parametrize("container", [None, "model"])
def test_loads_the_other_published_layout(tmp_path, container):
    """Zenodo's file: no `encoder.`, the library's name of the norm, tables of the front end."""
    state = tiny(Ced).net.state_dict()
    tables = {"front_end.0.mel_scale.fb": torch.zeros(257, 64)}
    heads = {"outputlayer.0.weight": torch.ones(16), "outputlayer.1.bias": torch.zeros(527)}
    content = {**state, **tables, **heads}
    model = build(Ced, {container: content} if container else content, tmp_path, **Ced.TINY)
    assert torch.equal(model.net.norm.weight, state["norm.weight"])


def test_steady():
    assert_steady(tiny(Ced))


def test_a_quiet_clip_beside_a_loud_one():
    """120 dB below the loudest value of the batch would cut the quiet clip's spectrogram off."""
    model = tiny(Ced)
    audio = noise(2, 16000) * torch.tensor([[1.0], [1e-6]])
    torch.testing.assert_close(model.features(audio)[1:], model.features(audio[1:]))


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"not a checkpoint of Dasheng: .*missing \(blocks"):
        build(Ced, Case("ast").blank(), tmp_path, **Ced.TINY)
