"""What fine-tuning asks of an adapter: its layers in order, and augmentation between its halves."""

import pytest
import torch
from torch import nn

from evar import Adapter
from evar.errors import UserError


class Bands(Adapter):
    """Sixteen samples at a time as a column of a spectrogram; blocks, registered out of order."""

    sample_rate = 1600
    embed_dim = 4

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.text = nn.ModuleList(nn.Linear(4, 4) for _ in range(5))  # not of the audio
        self.token = nn.Parameter(torch.zeros(4))
        self.stages = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Dropout()) for _ in range(3))
        self.unused = nn.Linear(4, 4)
        self.stem = nn.Linear(16, 4)

    def features(self, audio):
        return audio.unfold(1, 16, 16).transpose(1, 2)

    def encode(self, features):
        x = self.stem(features.transpose(1, 2)) + self.token
        for stage in self.stages:
            x = stage(x)
        return self.norm(x)


class Louder(Bands):
    def features(self, audio):
        return super().features(2 * audio)


class Inherited(Louder):
    pass


class Pooled(Bands):
    def embed(self, audio):
        return self.frames(audio).amax(dim=1)


def audio(seed=0):
    return torch.randn(2, 1600, generator=torch.Generator().manual_seed(seed))


def names(adapter, seconds=1):
    known = {p: name for name, p in adapter.named_parameters()}
    return [[known[p] for p in layer] for layer in adapter.layer_parameters(seconds)]


def test_layers_follow_the_audio_not_the_order_of_registration():
    assert names(Bands()) == [
        ["token", "stem.weight", "stem.bias"],
        ["stages.0.0.weight", "stages.0.0.bias"],
        ["stages.1.0.weight", "stages.1.0.bias"],
        ["stages.2.0.weight", "stages.2.0.bias"],
        ["norm.weight", "norm.bias"],
    ]


def test_an_adapter_may_name_its_blocks():
    class Halves(Bands):
        def encoder_blocks(self):
            return [self.stages[:2], self.stages[2]]

    assert [len(layer) for layer in Halves().layer_parameters()] == [3, 4, 2, 2]


def test_a_shared_parameter_stands_in_the_first_layer_that_has_it():
    class Tied(Bands):
        def __init__(self):
            super().__init__()
            self.stages[2][0].weight = self.stages[1][0].weight

    assert names(Tied())[2:4] == [["stages.1.0.weight", "stages.1.0.bias"], ["stages.2.0.bias"]]


def test_modules_that_are_never_called_do_not_move_the_stem():
    class Attentive(Bands):
        """Attention reads the weights of its output projection without calling it."""

        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            self.stages = nn.TransformerEncoder(layer, 2).layers

    layers = names(Attentive())
    assert layers[0] == ["token", "stem.weight", "stem.bias"]
    assert [{name.split(".")[1] for name in layer} for layer in layers[1:3]] == [{"0"}, {"1"}]
    assert layers[3] == ["norm.weight", "norm.bias"]


def test_a_network_without_a_list_of_blocks_is_one_layer():
    class Flat(Adapter):
        sample_rate, embed_dim = 16, 2

        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(16, 4), nn.Linear(4, 2)

        def embed(self, audio):
            return self.second(self.first(audio))

    assert names(Flat()) == [["first.weight", "first.bias", "second.weight", "second.bias"]]


class Detached(Bands):
    def embed(self, audio):
        with torch.no_grad():
            return super().embed(audio)


class Bare(Bands):
    def __init__(self):
        Adapter.__init__(self)

    def embed(self, audio):
        return audio[:, :4]


@pytest.mark.parametrize("cls", [Detached, Bare])
def test_what_cannot_be_trained_has_no_layers(cls):
    assert cls().layer_parameters() == []


def test_an_embedding_that_leaves_pytorch_is_a_users_error():
    class ThroughNumpy(Bands):
        def embed(self, audio):
            return torch.from_numpy(super().embed(audio).numpy())

    with pytest.raises(UserError, match=r"ThroughNumpy\.embed.*not fine-tuned"):
        ThroughNumpy().layer_parameters()


def test_looking_for_layers_changes_nothing():
    adapter = Bands().train().requires_grad_(False)
    adapter.stages[1].eval()
    adapter.stem.requires_grad_(True)
    modes = [m.training for m in adapter.modules()]
    flags = [p.requires_grad for p in adapter.parameters()]
    state = torch.get_rng_state()
    with torch.inference_mode():
        assert len(adapter.layer_parameters()) == 5
    assert [m.training for m in adapter.modules()] == modes
    assert [p.requires_grad for p in adapter.parameters()] == flags
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in adapter.parameters())
    assert not any(m._forward_pre_hooks for m in adapter.modules())


@pytest.mark.parametrize("cls", [Bands, Louder, Inherited, Pooled])
def test_augmentation_happens_once_between_features_and_encoder(cls):
    adapter = cls().eval()
    plain, calls = adapter.embed(audio()), []

    def augment(features):
        calls.append(features)
        return torch.zeros_like(features)

    adapter.augment = augment
    augmented = adapter.embed(audio())
    assert len(calls) == 1
    expected = audio().unfold(1, 16, 16).transpose(1, 2)
    assert torch.equal(calls[0], expected if cls in (Bands, Pooled) else 2 * expected)
    assert torch.equal(augmented, adapter.embed(audio(1))), "the encoder saw something else"
    adapter.augment = None
    assert torch.equal(adapter.embed(audio()), plain)


def test_augmentation_is_in_float32_under_mixed_precision():
    adapter, seen = Bands(), []
    adapter.augment = lambda features: seen.append((features @ features.mT).dtype) or features
    with torch.autocast("cpu", torch.bfloat16):
        adapter.embed(audio())
    assert seen == [torch.float32]


def test_an_adapter_of_waveforms_has_no_features():
    class Waves(Adapter):
        def frames(self, audio):
            return audio[:, :, None]

    assert not Waves().has_features
    assert Bands().has_features
    assert Inherited().has_features


def test_patches_are_left_out_by_adapters_that_say_so_only():
    adapter = Bands()
    assert adapter.keep is None
    assert adapter.patch_grid(adapter.features(audio())) is None


def test_layers_are_those_that_clips_of_the_given_length_need():
    class Chunked(Bands):
        """A clip's second second goes through a layer of its own."""

        def __init__(self):
            super().__init__()
            self.later = nn.Linear(4, 4)

        def embed(self, audio):
            first, later = super().embed(audio[:, :1600]), audio[:, 1600:]
            return first + self.later(super().embed(later)) if later.shape[1] else first

    short, long = ({n for layer in names(Chunked(), s) for n in layer} for s in (1, 2))
    assert long - short == {"later.weight", "later.bias"}
