import pytest
import torch

from evar.errors import UserError
from evar.model_adapters._frontend import LogMelFrontEnd
from evar.model_adapters.htsat import Htsat
from helpers.golden_cases import EXACT, INDEX, Case, assert_steady, build, published_htsat, tiny

CASE = Case("htsat")


@pytest.fixture(scope="module")
def htsat(tmp_path_factory):
    extras = published_htsat("sed_model.", LogMelFrontEnd(32000))
    content = {"state_dict": {**CASE.state(), **extras}, "epoch": 1}
    return build(Htsat, content, tmp_path_factory.mktemp("htsat"))


def test_equals_the_original(htsat):
    for seconds in CASE.seconds:
        clip = htsat.embed(CASE.audio(seconds, 32000))
        assert CASE.error(clip, f"clip_{seconds}s") <= EXACT, seconds


def test_log_mel_equals_the_original():
    features = tiny(Htsat).features(CASE.audio(1, 32000)).mT
    assert CASE.error(features, "features_1s") <= EXACT


def test_relative_positions_equal_the_original():
    assert CASE.error(INDEX[:9], "relative_position_index") == 0


def test_loads_without_the_parts_that_are_not_the_encoders(htsat, tmp_path):
    bare = build(Htsat, {"state_dict": CASE.state()}, tmp_path)
    ours, theirs = bare.state_dict(), htsat.state_dict()
    counter = "net.audio_encoder.batch_norm.num_batches_tracked"
    assert all(torch.equal(ours[k], theirs[k]) for k in ours if k != counter)


def test_steady():
    assert_steady(tiny(Htsat))


def test_a_window_is_not_touched_by_the_next():
    model = tiny(Htsat)
    audio = CASE.audio(11, 32000)
    frames = model.frames(audio)
    assert frames.shape == (2, 64, model.embed_dim)
    torch.testing.assert_close(frames[:, :32], model.frames(audio[:, :320_000]))
    torch.testing.assert_close(frames[:, 32:], model.frames(audio[:, 320_000:]))


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    state = {k.replace("sed_model.", "encoder."): v for k, v in CASE.blank().items()}
    with pytest.raises(UserError, match=r"not a checkpoint of Htsat: .*missing \(net.audio_enc"):
        build(Htsat, {"state_dict": state}, tmp_path, **Htsat.TINY)


def test_other_mel_bands_are_named(tmp_path):
    extras = published_htsat("sed_model.", LogMelFrontEnd(48000))
    with pytest.raises(UserError, match="sed_model.logmel_extractor.melW holds other mel bands"):
        build(Htsat, {"state_dict": extras}, tmp_path, **Htsat.TINY)
