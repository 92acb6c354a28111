import pytest
import torch
from transformers import ASTConfig, ASTModel, WhisperConfig, WhisperFeatureExtractor, WhisperModel

from evar.errors import UserError
from evar.model_adapters.whisper import Whisper
from helpers import standin
from helpers.golden_cases import EXACT, assert_steady, frozen, noise, tiny
from helpers.transformers_models import WHISPER


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A transformers folder of a tiny Whisper, with its feature extractor."""
    folder = tmp_path_factory.mktemp("whisper")
    with torch.random.fork_rng():
        torch.manual_seed(2)
        WhisperModel(WhisperConfig(**WHISPER)).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=8).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("samples", [160, 16001, 40000, 479_500, 479_999, 480_000])
def test_equals_transformers_on_a_filled_window(folder, samples):
    """Front end, encoder, and the cut after ceil(samples / 320) frames."""
    audio = torch.from_numpy(standin.audio(samples / 16000, 16000))[:, :samples]
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    inputs = extractor(list(audio.numpy()), sampling_rate=16000, return_tensors="pt")
    published = WhisperModel.from_pretrained(folder).encoder.eval()
    model = frozen(Whisper(folder))
    with torch.inference_mode():
        expected = published(inputs.input_features).last_hidden_state[:, : -(-samples // 320)]
        frames = model.frames(audio)
    assert standin.relative_error(frames, expected) <= EXACT
    assert standin.relative_error(model.embed(audio), expected.mean(dim=1)) <= EXACT


def test_a_window_is_not_touched_by_the_next():
    model = tiny(Whisper)
    audio = noise(1, 16000 * 35)
    frames = model.frames(audio)
    assert frames.shape == (1, 35 * 50, 16)
    torch.testing.assert_close(frames[:, :1500], model.frames(audio[:, : 16000 * 30]))
    torch.testing.assert_close(frames[:, 1500:], model.frames(audio[:, 16000 * 30 :]))


def test_steady():
    assert_steady(tiny(Whisper))


def test_silence():
    assert torch.isfinite(tiny(Whisper).embed(torch.zeros(2, 16000))).all()


def test_another_models_folder_is_named(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ASTModel(ASTConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="not whisper"):
        Whisper(tmp_path)
