import pytest
import torch

from evar.errors import UserError
from evar.model_adapters._frontend import LogMelFrontEnd
from evar.model_adapters.wavcaps import WavCaps
from helpers.golden_cases import (
    EXACT,
    Case,
    assert_reads_captions,
    assert_steady,
    build,
    published_htsat,
    tiny,
    write_tokenizer,
)

AUDIO, TEXT = Case("wavcaps_audio"), Case("wavcaps_text")


@pytest.fixture(scope="module")
def wavcaps(tmp_path_factory):
    extras = {
        **published_htsat("audio_encoder.audio_enc.", LogMelFrontEnd(32000)),
        "text_encoder.text_encoder.embeddings.position_ids": torch.arange(512)[None],
        "temp": torch.tensor(0.07),
    }
    state = {**AUDIO.state(), **TEXT.state(), **extras}
    content = {"model": state, "config": {"seed": 20}, "optimizer": {}, "epoch": 1}
    return build(WavCaps, content, tmp_path_factory.mktemp("wavcaps"))


def test_equals_the_original(wavcaps):
    for seconds in AUDIO.seconds:
        audio = AUDIO.audio(seconds, 32000)
        clip = wavcaps.embed(audio)
        for key in (f"clip_{seconds}s", f"clap_audio_{seconds}s"):
            assert AUDIO.error(clip, key) <= EXACT, key
    assert TEXT.text_error(wavcaps) <= EXACT


def test_log_mel_equals_the_original():
    features = tiny(WavCaps).features(AUDIO.audio(1, 32000)).mT
    assert list(features.shape) == AUDIO.outputs["features_shape_1s"].tolist()
    assert AUDIO.error(features[:, :40], "features_1s") <= EXACT


def test_steady():
    assert_steady(tiny(WavCaps))


def test_reads_captions(tmp_path):
    assert_reads_captions(WavCaps, "bert", tmp_path)


def test_long_captions_are_cut_at_30_tokens(tmp_path):
    tokenizer = tiny(WavCaps, tokenizer=str(write_tokenizer(tmp_path, "bert"))).tokenizer
    ids, mask = tokenizer(["a b c " * 20, "rain"])
    assert ids.shape == (2, 30)
    assert mask.sum(dim=1).tolist() == [30, 6]


def test_without_its_text_tower_it_still_hears(tmp_path):
    model = build(WavCaps, {"model": AUDIO.state(), "config": {}}, tmp_path)
    with pytest.raises(UserError, match="holds no text tower"):
        model.embed_text(["rain"])


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    state = Case("msclap_2023_audio").blank()
    with pytest.raises(UserError, match=r"not a checkpoint of WavCaps: .*missing .*unexpected"):
        build(WavCaps, {"model": state}, tmp_path, **WavCaps.TINY)
