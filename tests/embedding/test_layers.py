"""Every layer of an encoder: worked out by hand, transformers' own, and nothing left behind."""

import pytest
import torch
from torch import nn

from evar import models
from evar.adapter import Adapter
from evar.embedding import layers
from evar.embedding.layers import EveryLayer
from evar.errors import UserError


class Stack(Adapter):
    """Three linear blocks on four tokens, a norm, a pooling of its own: mean + maximum."""

    sample_rate, embed_dim = 100, 6

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(25, 6)
        self.blocks = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.norm = nn.LayerNorm(6)
        self.calls = []

    def features(self, audio):
        self.calls.append(len(audio))
        return audio.unflatten(1, (4, 25))

    def encode(self, features):
        x = self.stem(features)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def embed(self, audio):
        frames = self.frames(audio)
        return frames.mean(dim=1) + frames.amax(dim=1)


class Tuples(Stack):
    """The same, with blocks that return a tuple and are called by keyword."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(_Tuple() for _ in range(2))

    def encode(self, features):
        x = self.stem(features)
        for block in self.blocks:
            x, _ = block(states=x)
        return self.norm(x)


class _Tuple(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, states):
        return self.linear(states), None


class Convolutions(Adapter):
    """Blocks of other widths, which are slices of one nn.Sequential."""

    sample_rate, embed_dim = 100, 5

    def __init__(self):
        super().__init__()
        parts = [nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Conv2d(3, 5, 3), nn.ReLU()]
        self.net = nn.Sequential(*parts)

    def encoder_blocks(self):
        return [self.net[:2], self.net[2:]]

    def embed(self, audio):
        return self.net(audio.unflatten(1, (10, 10))[:, None]).mean(dim=(2, 3))


def audio(batch=3):
    return torch.randn(batch, 100, generator=torch.Generator().manual_seed(1))


def built(cls):
    torch.manual_seed(0)
    return cls().eval()


@torch.no_grad()
def test_layers_are_pooled_by_the_adapter_itself():
    adapter = built(Stack)
    every = EveryLayer(adapter)
    assert [(one.number, one.pooling, one.width) for one in every.layers] == [
        (n, "own", 6) for n in range(4)
    ]
    states = [adapter.stem(adapter.features(audio()))]
    for block in adapter.blocks:
        states.append(block(states[-1]))
    pooled = [adapter.norm(x).mean(dim=1) + adapter.norm(x).amax(dim=1) for x in states]
    torch.testing.assert_close(every.embed(audio()), torch.cat(pooled, dim=1))
    assert torch.equal(every.embed(audio())[:, -6:], adapter.embed(audio()))


@torch.no_grad()
def test_the_front_end_and_the_blocks_run_once():
    adapter = built(Stack)
    every = EveryLayer(adapter)
    adapter.calls.clear()
    ran = []
    hooks = [b.register_forward_hook(lambda *_: ran.append(1)) for b in adapter.blocks]
    products = []
    linear = torch.nn.functional.linear

    def counted(x, weight, bias):
        products.append(weight)
        return linear(x, weight, bias)

    torch.nn.functional.linear = counted
    try:
        every.embed(audio())
    finally:
        torch.nn.functional.linear = linear
        for hook in hooks:
            hook.remove()
    assert adapter.calls == [3]
    for block in adapter.blocks:
        assert sum(weight is block.weight for weight in products) == 1


@torch.no_grad()
def test_nothing_is_left_behind():
    adapter = built(Stack)
    before = adapter.embed(audio())
    EveryLayer(adapter).embed(audio())
    assert torch.equal(adapter.embed(audio()), before)
    assert "features" not in vars(adapter)
    assert all("forward" not in vars(m) and not m._forward_hooks for m in adapter.modules())


@torch.no_grad()
def test_blocks_may_return_tuples_and_take_keywords():
    adapter = built(Tuples)
    every = EveryLayer(adapter)
    states = [adapter.stem(adapter.features(audio()))]
    for block in adapter.blocks:
        states.append(block(states=states[-1])[0])
    pooled = [adapter.norm(x).mean(dim=1) + adapter.norm(x).amax(dim=1) for x in states]
    torch.testing.assert_close(every.embed(audio()), torch.cat(pooled, dim=1))


@torch.no_grad()
def test_layers_of_another_shape_are_means_over_tokens():
    adapter = built(Convolutions)
    every = EveryLayer(adapter)
    assert [(one.number, one.pooling, one.width) for one in every.layers] == [
        (1, "mean", 3),
        (2, "own", 5),
    ]
    grid = audio().unflatten(1, (10, 10))[:, None]
    first = adapter.net[:2](grid).mean(dim=(2, 3))
    torch.testing.assert_close(every.embed(audio())[:, :3], first)


@torch.no_grad()
def test_layers_of_whisper_are_transformers_hidden_states():
    adapter = models.load("whisper", weights="random", width=16, depth=3, heads=2, n_mels=8).adapter
    sounds = 0.1 * torch.randn(2, 16000)
    every = EveryLayer(adapter)
    mel = adapter.features(sounds)
    filled = torch.nn.functional.pad(mel, (0, 3000 - mel.shape[2]))
    filled[:, :, mel.shape[2] :] = (mel.amax(dim=(1, 2)) - 2).clamp(min=-1.5)[:, None, None]
    states = adapter.net(filled, output_hidden_states=True).hidden_states
    norm = adapter.net.layer_norm
    # The last of transformers' states has been through the norm, the others have not.
    expected = [norm(h)[:, :50].mean(dim=1) for h in states[:-1]] + [states[-1][:, :50].mean(dim=1)]
    torch.testing.assert_close(
        every.embed(sounds), torch.cat(expected, dim=1), atol=1e-5, rtol=1e-4
    )


def test_an_encoder_without_blocks_has_no_layers():
    with pytest.raises(UserError, match="has no blocks"):
        EveryLayer(models.load("logmel").adapter)


def test_a_model_of_every_layer_is_another_model():
    model = models.load("whisper", weights="random", width=16, depth=1, heads=2, n_mels=8)
    every = layers.every_layer(model, 1.0)
    assert every.identity != model.identity
    assert every.adapter.embed_dim == 32
    assert every.identity["options"] == model.identity["options"]
