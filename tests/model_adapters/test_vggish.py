import pytest
import torch

from evar.errors import UserError
from evar.model_adapters.vggish import Vggish
from helpers.golden_cases import EXACT, Case, assert_steady, build, noise, tiny

CASE = Case("vggish")


@pytest.fixture(scope="module")
def vggish(tmp_path_factory):
    return build(Vggish, CASE.state(), tmp_path_factory.mktemp("vggish"))


def test_equals_the_original(vggish):
    for seconds in CASE.seconds:
        audio = CASE.audio(seconds, 16000)
        assert CASE.error(vggish.embed(audio), f"clip_{seconds}s") <= EXACT, seconds
        frames = vggish.frames(audio)
        assert list(frames.shape) == CASE.outputs[f"frames_shape_{seconds}s"].tolist()
        head = CASE.outputs[f"frames_head_{seconds}s"].shape[1]
        assert CASE.error(frames[:, :head], f"frames_head_{seconds}s") <= EXACT, seconds


def test_log_mel_equals_the_original():
    assert CASE.error(tiny(Vggish).features(CASE.audio(1, 16000)).mT, "features_1s") <= EXACT


def test_the_other_conversion_loads(tmp_path):
    model = tiny(Vggish)
    state = {k.replace("fc.", "embeddings."): v for k, v in model.net.state_dict().items()}
    other = build(Vggish, state, tmp_path, **Vggish.TINY)
    audio = noise(1, 16000)
    assert torch.equal(other.embed(audio), model.embed(audio))


def test_steady():
    assert_steady(tiny(Vggish))


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"VggishNet: .*missing .*unexpected .*of another shape"):
        build(Vggish, Case("byola_2048").blank(), tmp_path, **Vggish.TINY)
