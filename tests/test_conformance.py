"""Every registered adapter, built tiny and untrained, keeps the contract."""

import sys
from pathlib import Path

import pytest
import torch

from evar import check, models

sys.path.append(str(Path(__file__).parent / "model_adapters"))

NAMES = models.names()
WITHOUT_PACKAGE = {
    name for name in NAMES if models.adapter_class(models.config(name).adapter).TINY is None
}

TOKENIZERS = {
    "laion_clap": "roberta",
    "clap_2022": "bert",
    "clap_2023": "gpt2",
    "wavcaps": "bert",
    "wavcaps_zs": "bert",
}


def text_options(name, folder):
    """Files of a text tower that a tiny audio-language model can be built with."""
    from golden_cases import write_tokenizer

    if name in TOKENIZERS:
        write_tokenizer(folder, TOKENIZERS[name])
        return {"tokenizer": str(folder)}
    if name.startswith("m2d_clap"):
        from transformers import BertConfig, BertModel

        write_tokenizer(folder, "bert")
        sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        BertModel(BertConfig(intermediate_size=24, **sizes)).save_pretrained(folder)
        return {"text_encoder": str(folder)}
    return {}


def tiny(name, folder):
    """A registered model, built tiny and untrained, in evaluation mode."""
    config = models.config(name)
    cls = models.adapter_class(config.adapter)
    if cls.TINY is None:
        pytest.skip(f"{name} needs an optional package")
    torch.manual_seed(0)  # so narrow a network can be deaf by chance
    return cls(**{**config.options, **cls.TINY, **text_options(name, folder)}).eval()


@pytest.mark.parametrize("name", NAMES)
def test_adapter_conforms(name, tmp_path):
    failed = [finding for finding in check.check(tiny(name, tmp_path)) if not finding.ok]
    assert not failed, failed


@pytest.mark.parametrize("name", NAMES)
def test_adapter_can_be_trained_in_all_its_layers(name, tmp_path):
    """A training step moves every layer, and the layers have all that it moves, each once."""
    adapter = tiny(name, tmp_path)
    torch.manual_seed(0)
    audio = 0.1 * torch.randn(2, adapter.sample_rate)
    with torch.inference_mode():
        adapter.embed(audio)  # evaluation leaves nothing behind that training stumbles over
    layers = adapter.layer_parameters()
    assert all(layers)
    listed = [id(p) for layer in layers for p in layer]
    assert len(listed) == len(set(listed)), "a parameter stands in two layers"
    if not listed:
        assert not any(True for _ in adapter.parameters())
        return
    embedding = adapter.train().embed(audio)
    (embedding * torch.randn(embedding.shape)).sum().backward()
    moved = {id(p) for p in adapter.parameters() if p.grad is not None}
    assert moved == set(listed)
    assert all(torch.isfinite(p.grad).all() for layer in layers for p in layer)
    assert all(any(p.grad.any() for p in layer) for layer in layers)


@pytest.mark.parametrize("name", NAMES)
def test_adapter_takes_an_augmented_spectrogram(name, tmp_path):
    adapter = tiny(name, tmp_path)
    audio = 0.1 * torch.randn(2, adapter.sample_rate)
    seen = []

    def augment(features):
        seen.append(features.shape)
        return features.flip(1)

    with torch.inference_mode():
        plain = adapter.embed(audio.clone())
        adapter.augment = augment
        augmented = adapter.embed(audio.clone())
        adapter.augment = None
        after = adapter.embed(audio.clone())
    assert torch.equal(plain, after)
    assert len(seen) == adapter.has_features
    if adapter.has_features:
        assert len(seen[0]) == 3
        assert not torch.equal(plain, augmented)


def test_few_adapters_cannot_be_built_here():
    assert {"openl3", "opensmile"} >= WITHOUT_PACKAGE


@pytest.mark.parametrize("name", NAMES)
def test_every_model_is_documented(name):
    config = models.config(name)
    cls = models.adapter_class(config.adapter)
    assert config.title or cls.__doc__
    if config.weights is not None:
        assert config.weights.url or config.weights.how
        assert config.paper
        assert config.verified
        assert "VERIFIED_" not in config.verified
