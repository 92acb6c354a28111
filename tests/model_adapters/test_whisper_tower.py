"""Towers grown from Whisper, against transformers' extractor and towers as `hf:` runs them."""

import json

import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel

from evar.errors import UserError
from evar.model_adapters.hf import HfModel
from evar.model_adapters.whisper_tower import WhisperTower
from helpers import standin
from helpers.audio_architectures import shrink
from helpers.golden_cases import EXACT, frozen, noise

KINDS = ("audioflamingo3", "qwen2_audio")


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    """The whole model, its language model included, as transformers saves it."""
    path = tmp_path_factory.mktemp(kind)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        AutoModel.from_config(shrink(AutoConfig.for_model(kind))).save_pretrained(path)
    transformers.WhisperFeatureExtractor(feature_size=128).save_pretrained(path)
    return path


@pytest.mark.parametrize("seconds", [1, 2.5, 31])
def test_equals_transformers(kind, folder, seconds):
    ours = frozen(WhisperTower(folder, architecture=kind))
    theirs = frozen(HfModel(str(folder)))
    audio = noise(2, int(16000 * seconds))
    frames = ours.frames(audio)
    # hf: keeps a last frame of 40 ms of which 20 are the clip's; the model's own lengths do not.
    expected = theirs.frames(audio)[:, : frames.shape[1]]
    assert frames.shape[1] == int(seconds / 0.04)
    assert standin.relative_error(frames[:, :25], expected[:, :25]) <= EXACT
    if seconds != 2.5:
        assert standin.relative_error(frames, expected) <= EXACT


def test_of_a_whole_model_the_tower_alone_is_read(kind, folder, tmp_path, monkeypatch):
    from evar.model_adapters import whisper_tower

    read = []

    def load(path, **options):
        read.append(options)
        state = load_checkpoint(path, **options)
        assert all("audio_tower." in name for name in state)
        return state

    load_checkpoint = whisper_tower.load_checkpoint
    monkeypatch.setattr(whisper_tower, "load_checkpoint", load)
    WhisperTower(folder, architecture=kind)
    assert read == [{"part": "audio_tower."}]


def test_a_folder_of_the_tower_alone_loads(kind, folder, tmp_path):
    whole = frozen(WhisperTower(folder, architecture=kind))
    whole.net.save_pretrained(tmp_path)
    alone = frozen(WhisperTower(tmp_path, architecture=kind))
    audio = noise(1, 16000)
    assert torch.equal(alone.embed(audio), whole.embed(audio))


def test_half_precision_is_computed_in_single(kind, folder, tmp_path):
    whole = frozen(WhisperTower(folder, architecture=kind))
    state = {f"audio_tower.{k}": v.bfloat16() for k, v in whole.net.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"dtype": "bfloat16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    half = frozen(WhisperTower(tmp_path, architecture=kind))
    audio = noise(1, 16000)
    assert half.embed(audio).dtype == torch.float32
    assert standin.relative_error(half.embed(audio), whole.embed(audio)) < 16 * 2.0**-8


def test_other_folders_are_named(kind, folder, tmp_path):
    other = KINDS[1 - KINDS.index(kind)]
    with pytest.raises(UserError, match=f"holds a {kind}_encoder, not a {other}_encoder"):
        WhisperTower(folder, architecture=other)
    with pytest.raises(UserError, match="no configuration of a model with an audio tower"):
        WhisperTower(tmp_path, architecture=kind)
    with pytest.raises(UserError, match="known are audioflamingo3, qwen2_audio"):
        WhisperTower(architecture="whisper")
