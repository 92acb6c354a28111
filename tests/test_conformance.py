"""Every registered adapter, built tiny and untrained, keeps the contract."""

import pytest
import torch

from evar import check, models
from helpers.registered import distinct, tiny

NAMES = models.names()
BUILDS = distinct(NAMES)  # every network once
WITHOUT_PACKAGE = {
    name for name in NAMES if models.adapter_class(models.config(name).adapter).TINY is None
}


@pytest.mark.parametrize("name", BUILDS)
def test_adapter_conforms(name, tmp_path):
    failed = [finding for finding in check.check(tiny(name, tmp_path)) if not finding.ok]
    assert not failed, failed


@pytest.mark.parametrize("name", BUILDS)
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


@pytest.mark.parametrize("name", BUILDS)
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
    assert {"openl3", "opensmile", "perch2"} >= WITHOUT_PACKAGE


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
