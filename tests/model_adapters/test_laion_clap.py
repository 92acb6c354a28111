import pytest
import torch
from transformers import ClapConfig, ClapModel

from evar.errors import UserError
from evar.model_adapters._frontend import LogMelFrontEnd, zero_pad
from evar.model_adapters.laion_clap import WINDOW, LaionClap
from helpers.golden_cases import (
    EXACT,
    Case,
    assert_reads_captions,
    assert_steady,
    build,
    frozen,
    noise,
    published_htsat,
    tiny,
    windows,
)

AUDIO, TEXT = Case("laion_clap_audio"), Case("laion_clap_text")


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    extras = {
        **published_htsat("module.audio_branch.", LogMelFrontEnd(48000, hop=480)),
        "module.text_branch.embeddings.position_ids": torch.arange(514)[None],
        "module.audio_transform.sequential.0.weight": torch.zeros(512, 512),
        "module.text_transform.sequential.0.weight": torch.zeros(512, 512),
        "module.logit_scale_a": torch.tensor(2.66),
        "module.logit_scale_t": torch.tensor(2.66),
    }
    state = {**AUDIO.state(), **TEXT.state(), **extras}
    content = {"epoch": 1, "name": "", "state_dict": state}
    return build(LaionClap, content, tmp_path_factory.mktemp("laion_clap"))


def test_equals_the_original(clap):
    for seconds in AUDIO.seconds:
        audio = AUDIO.audio(seconds, 48000)
        if seconds > 10:  # the original's two calls drew the same two windows
            audio = windows(audio, AUDIO.outputs["crop_start_11s"][:2], WINDOW)
        clip = clap.embed(audio)
        for key in (f"clip_{seconds}s", f"clap_audio_{seconds}s"):
            assert AUDIO.error(clip, key) <= EXACT, key
    assert TEXT.text_error(clap) <= EXACT


def test_log_mel_equals_the_original():
    features = tiny(LaionClap).features(AUDIO.audio(1, 48000)).mT
    assert list(features.shape) == AUDIO.outputs["features_shape_1s"].tolist()
    assert AUDIO.error(features[:, :40], "features_1s") <= EXACT


def test_steady():
    assert_steady(tiny(LaionClap))


def test_of_a_long_clip_one_window_is_heard_always_the_same():
    audio = noise(2, WINDOW + 48000)
    first, again, other = (tiny(LaionClap, seed=s).embed(audio) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_short_clip_is_repeated_whole_then_padded():
    model = tiny(LaionClap)
    audio = noise(1, 200_000)
    repeated = zero_pad(audio.repeat(1, 2), WINDOW)
    assert torch.equal(model.features(audio), model.features(repeated))


def test_reads_captions(tmp_path):
    assert_reads_captions(LaionClap, "roberta", tmp_path)


def test_the_hugging_face_port_loads(tmp_path):
    text = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    text |= {"intermediate_size": 256, "layer_norm_eps": 1e-5}
    audio = {"patch_embeds_hidden_size": 24, "hidden_size": 192, "depths": [1, 1, 1, 1]}
    audio |= {"num_attention_heads": [1, 2, 4, 8]}
    port = frozen(ClapModel(ClapConfig(text_config=text, audio_config=audio)))
    port.save_pretrained(tmp_path)
    model = frozen(LaionClap(tmp_path, **LaionClap.TINY))
    sound = noise(2, WINDOW)
    expected = port.get_audio_features(model.features(sound).transpose(1, 2)[:, None]).pooler_output
    torch.testing.assert_close(model.embed(sound), expected)
    ids, mask = torch.tensor([[0, 9, 8, 2], [0, 7, 2, 1]]), torch.tensor([[1] * 4, [1, 1, 1, 0]])
    expected = port.get_text_features(ids, attention_mask=mask).pooler_output
    torch.testing.assert_close(model.embed_tokens(ids, mask), expected)


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    state = Case("wavcaps_audio").blank()
    with pytest.raises(UserError, match=r"not a checkpoint of LaionClap: .*missing .*unexpected"):
        build(LaionClap, {"state_dict": state}, tmp_path, **LaionClap.TINY)
