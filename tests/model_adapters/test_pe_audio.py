"""PE-A-Frame against transformers' own class and feature extractor."""

import numpy as np
import pytest
import torch
from transformers import PeAudioConfig, PeAudioFeatureExtractor, PeAudioFrameLevelModel

from evar import models
from evar.model_adapters.pe_audio import PeAudioFrame
from helpers import standin
from helpers.golden_cases import EXACT, frozen, noise, write_tokenizer


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pe_a_frame")
    torch.manual_seed(2)
    net = frozen(PeAudioFrameLevelModel(PeAudioConfig(**PeAudioFrame.TINY["config"])))
    net.save_pretrained(folder)
    write_tokenizer(folder, "bert")
    return folder, net


@pytest.mark.parametrize("samples", [480, 1, 48000, 50001])
def test_equals_transformers(published, samples):
    folder, net = published
    model = frozen(PeAudioFrame(folder))
    audio = noise(2, samples)
    inputs = PeAudioFeatureExtractor()(list(audio.numpy()), sampling_rate=48000)
    heard = torch.as_tensor(np.stack(inputs["input_values"]))  # (B, 1, S)
    states = net.audio_encoder(heard).last_hidden_state
    assert model.frames(audio).shape == (2, -(-samples // 1920), model.embed_dim)
    assert standin.relative_error(model.frames(audio), states) <= EXACT
    joint = net.get_audio_embeds(heard)
    assert standin.relative_error(model.embed_joint(audio), joint.mean(dim=1)) <= EXACT


def test_captions_equal_transformers(published):
    folder, net = published
    model = frozen(PeAudioFrame(folder))
    captions = ["a dog barks", "rain falls on a tin roof"]
    ids, mask = model.tokenizer(captions)
    expected = net(input_ids=ids, attention_mask=mask, input_values=noise(2, 1920)[:, None])
    text = model.embed_text(captions)
    assert text.shape == (2, model.joint_dim)
    assert standin.relative_error(text, expected.text_audio_embeds) <= EXACT
    alone = model.embed_text(captions[:1])
    assert standin.relative_error(alone, text[:1]) <= EXACT


@pytest.mark.parametrize(
    ("size", "width", "millions"), [("small", 768, 440), ("base", 1024, 561), ("large", 1792, 1457)]
)
def test_the_three_are_of_their_published_sizes(size, width, millions):
    """Their model card: 450 M, 560 M and 1.4 G parameters."""
    with torch.device("meta"):
        model = PeAudioFrame(**models.config(f"pe_a_frame_{size}").options)
    assert model.embed_dim == width
    assert model.joint_dim == 1024
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions
