import pytest
import torch
from torch.nn.functional import normalize

from evar.errors import UserError
from evar.model_adapters._frontend import LogMelFrontEnd
from evar.model_adapters.pengi import WINDOW, Pengi
from helpers.golden_cases import (
    EXACT,
    Case,
    assert_steady,
    build,
    noise,
    published_htsat,
    tiny,
    windows,
)

CASE = Case("pengi_audio")
EXTRAS = {  # the other two parts of the published file
    "caption_encoder.base.text_model.final_layer_norm.weight": torch.ones(512),
    "caption_decoder.gpt.transformer.ln_f.weight": torch.ones(768),
}


@pytest.fixture(scope="module", params=["", "module."])
def pengi(request, tmp_path_factory):
    state = {
        **CASE.state(),
        **published_htsat("audio_encoder.base.htsat.", LogMelFrontEnd(32000)),
        **EXTRAS,
    }
    state = {request.param + name: value for name, value in state.items()}
    return build(Pengi, {"model": state}, tmp_path_factory.mktemp("pengi"))


def test_equals_the_original(pengi):
    for seconds in CASE.seconds:
        audio = CASE.audio(seconds, 44100)
        if seconds > 7:
            audio = windows(audio, CASE.outputs["crop_start_11s"], WINDOW)
        clip = pengi.embed(audio)
        assert CASE.error(clip, f"clip_{seconds}s") <= EXACT
        assert CASE.error(normalize(clip), f"prefix_input_{seconds}s") <= EXACT


def test_log_mel_equals_the_original():
    features = tiny(Pengi).features(CASE.audio(1, 44100)).mT
    assert list(features.shape) == CASE.outputs["features_shape_1s"].tolist()
    assert CASE.error(features[:, :40], "features_1s") <= EXACT


def test_steady():
    assert_steady(tiny(Pengi))


def test_of_a_long_clip_one_window_is_heard_always_the_same():
    audio = noise(2, WINDOW + 44100)
    first, again, other = (tiny(Pengi, seed=s).embed(audio) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_it_is_no_audio_language_model():
    model = tiny(Pengi)
    assert not model.reads_text
    with pytest.raises(NotImplementedError, match="audio-only"):
        model.embed_text(["rain"])


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"not a checkpoint of Pengi: .*missing \(audio_encoder"):
        build(Pengi, {"model": {"audio_encoder.base.bn0.weight": torch.ones(64)}}, tmp_path)
