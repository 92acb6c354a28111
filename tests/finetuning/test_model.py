"""The network that is fine-tuned: head, losses, frozen layers, augmentation, exported weights."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from evar import models
from evar.errors import UserError
from evar.finetuning import model as model_
from evar.finetuning.model import Classifier, Head
from evar.finetuning.settings import Settings, usual
from helpers.finetune_net import Net

BASE = usual("none") | {"epochs": 2, "warmup": 1, "select": "last"}


def settings(**more):
    return Settings(**BASE | more)


def classifier(encoder=None, **more):
    torch.manual_seed(0)
    encoder = encoder or Net()
    encoder.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    return Classifier(encoder, 3, settings(**more), seconds=0.2, generator=generator)


def tiny_m2d(**more):
    tiny = models.adapter_class("m2d:M2D").TINY
    return models.load("m2d", weights="random", **tiny, flat=True, **more).adapter


def audio(rows=4, seconds=0.2):
    return 0.1 * torch.randn(rows, int(16000 * seconds), generator=torch.Generator().manual_seed(1))


def test_the_head_normalises_and_starts_small():
    head = Head(512, 100, generator=torch.Generator().manual_seed(0))
    assert head.linear.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert head.linear.bias.eq(0).all()
    assert [n for n, _ in head.named_parameters()] == ["linear.weight", "linear.bias"]
    x = 5 + 3 * torch.randn(64, 512, generator=torch.Generator().manual_seed(1))
    seen = head.norm(x)
    torch.testing.assert_close(seen.mean(0), torch.zeros(512), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.var(0, correction=0), torch.ones(512), atol=1e-4, rtol=0)


def test_the_loss_of_one_label_is_cross_entropy_over_the_number_of_classes():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
    y = torch.tensor([[1.0, 0, 0], [0.3, 0.7, 0]])
    by_hand = (math.log(2) - 0.3 * math.log(0.1) - 0.7 * math.log(0.8)) / 3
    loss = model_.summed_loss(logits, y, multi_label=False)
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)


def test_the_loss_of_several_labels_is_binary_cross_entropy():
    p = torch.tensor([[0.5, 0.9], [0.2, 0.4]])
    y = torch.tensor([[1.0, 0.0], [0.5, 1.0]])
    terms = [math.log(0.5), math.log(0.1), 0.5 * math.log(0.2) + 0.5 * math.log(0.8), math.log(0.4)]
    loss = model_.summed_loss(torch.logit(p), y, multi_label=True)
    assert loss.item() == pytest.approx(-sum(terms) / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("freeze", "first"), [("none", 0), ("patch_embed", 1), (1, 2), (2, 3), ("encoder", 4)]
)
def test_layers_are_frozen_from_the_input_on(freeze, first):
    made = classifier(freeze=freeze)
    assert len(made.layers) == 4  # stem, two blocks, what follows
    trained = [all(p.requires_grad for p in layer) for layer in made.layers]
    assert trained == [i >= first for i in range(4)]
    assert not any(p.requires_grad for p in made.encoder.unused.parameters())
    made.train()(audio()).sum().backward()
    for layer, trains in zip(made.layers, trained, strict=True):
        assert all((p.grad is not None) == trains for p in layer)


def test_the_adapters_own_flags_do_not_decide_what_is_trained():
    """A hand-made adapter whose parameters all have a gradient, which no loader turned off."""
    encoder = Net()
    assert all(p.requires_grad for p in encoder.parameters())
    generator = torch.Generator().manual_seed(0)
    made = Classifier(encoder, 3, settings(freeze="encoder"), seconds=0.2, generator=generator)
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not made.trains_encoder
    made = Classifier(encoder, 3, settings(freeze=1), seconds=0.2, generator=generator)
    names = {n for n, p in encoder.named_parameters() if p.requires_grad}
    assert names == {"blocks.1.0.weight", "blocks.1.0.bias", "last.weight", "last.bias"}


def test_a_frozen_patch_embedding_is_the_projection_alone():
    m2d = tiny_m2d()
    made = classifier(m2d, freeze="patch_embed")
    fixed = [n for layer in made.layers for n, p in m2d.named_parameters() if p in set(layer)]
    fixed = {n for n in fixed if not dict(m2d.named_parameters())[n].requires_grad}
    assert fixed == {"backbone.patch_embed.proj.weight", "backbone.patch_embed.proj.bias"}
    assert m2d.backbone.cls_token.requires_grad


def test_a_first_layer_without_a_projection_is_frozen_whole():
    class Scaled(Net):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(20))
            del self.stem

        def encode(self, features):
            x = (features.mT * self.gain)[..., :8]
            for block in self.blocks:
                x = x + block(x)
            return self.last(x)

    made = classifier(Scaled(), freeze="patch_embed")
    frozen = {n for n, p in made.encoder.named_parameters() if not p.requires_grad}
    assert frozen == {"gain", "unused.weight", "unused.bias"}


def test_spectrograms_are_mixed_where_the_settings_say_so():
    made = classifier(Net(dropout=0.0), freq_mask=0, time_mask=0, domain="spectrogram").train()
    mixing = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.5, 0.5]])
    made.augment.key, made.augment.places, made.augment.mixing = (0,), [0, 1], mixing
    x = audio(3)
    plain = Net.features.__wrapped__(made.encoder, x)
    expected = made.encoder.encode(torch.einsum("bm,mft->bft", mixing, plain)).mean(dim=1)
    torch.testing.assert_close(made.embed(x), expected)
    assert made.eval().embed(x).shape == (3, 8)


def test_lengths_reach_the_front_end_and_are_gone_afterwards():
    m2d = tiny_m2d()
    made = classifier(m2d).eval()
    clip = audio(2, seconds=8.0)
    clip[:, 16000:] = 0
    lengths = torch.tensor([16000, 16000])
    short, plain = made.embed(clip, lengths), made.embed(clip)
    m2d.lengths = lengths
    assert short.equal(m2d.embed(clip))
    assert not short.equal(plain)
    m2d.lengths = None
    assert plain.equal(m2d.embed(clip))


def test_more_blocks_than_there_are_cannot_be_frozen():
    with pytest.raises(UserError, match="4 layers"):
        classifier(freeze=3)


def test_a_model_without_parameters_trains_its_head_only():
    baseline = models.load("logmel").adapter
    with pytest.raises(UserError, match="nothing that could be trained"):
        classifier(baseline)
    made = classifier(baseline, freeze="encoder")
    assert [n for n, p in made.named_parameters() if p.requires_grad] == [
        "head.linear.weight",
        "head.linear.bias",
    ]


class Normed(Net):
    """A network with dropout and batch normalisation."""

    def __init__(self):
        super().__init__(dropout=0.5)
        self.norm = nn.BatchNorm1d(20)

    def encode(self, features):
        return super().encode(self.norm(features))


def test_batch_normalisation_inside_the_encoder_keeps_its_statistics():
    made = classifier(Normed()).train()
    before = made.encoder.norm.running_mean.clone()
    made(audio()).sum().backward()
    assert made.encoder.norm.running_mean.equal(before)
    assert made.encoder.norm.weight.grad is not None
    assert made.encoder.blocks.training
    assert made.head.norm.running_mean.ne(0).any()


def test_a_frozen_encoder_drops_nothing_out():
    made = classifier(Normed(), freeze="encoder", freq_mask=0, time_mask=0).train()
    assert made.embed(audio()).equal(made.embed(audio()))


@pytest.mark.parametrize("how", [{}, {"rrc": True}, {"freq_mask": 0, "time_mask": 0, "rrc": True}])
def test_augmentation_is_the_same_for_a_batch_in_parts(how):
    made = classifier(Net(dropout=0.0), freq_mask=8, time_mask=8).train()
    made.augment.settings = settings(**{"freq_mask": 8, "time_mask": 8, **how})
    x = audio(6)

    def embedded(places, step=0):
        made.augment.key, made.augment.places = (43, 0, 0, step), list(places)
        return made.embed(x[list(places)])

    whole = embedded(range(6))
    torch.testing.assert_close(torch.cat([embedded(range(2)), embedded(range(2, 6))]), whole)
    assert not torch.allclose(embedded(range(6), step=1), whole)


@pytest.mark.parametrize("blank", [0.0, None])
def test_what_is_masked_holds_nothing(blank):
    made = classifier(freq_mask=19, time_mask=0)
    made.encoder.blank, made.augment.key = blank, (1, 0, 0, 0)
    features = torch.rand(3, 20, 30) - torch.tensor([80.0, 40, 20])[:, None, None]  # decibels
    out = made.augment(features)
    masked = (out != features).any(dim=2)
    assert masked.any()
    assert (masked == masked[0]).all()
    nothing = torch.zeros(3) if blank == 0 else features.mean(dim=(1, 2))
    torch.testing.assert_close(
        out[:, masked[0]], nothing[:, None, None].expand_as(out)[:, masked[0]]
    )


def test_nothing_is_augmented_in_evaluation():
    encoder = Net()
    plain = encoder.eval().embed(audio())
    made = classifier(encoder, rrc=True)
    made.train()
    made.augment.key, made.augment.places = (0,), list(range(4))
    assert not made.embed(audio()).equal(plain)
    assert made.eval().embed(audio()).equal(plain)
    assert encoder.augment is None
    assert encoder.keep is None


def test_probabilities_are_those_of_the_task():
    logits = np.array([[0.0, math.log(3)]], np.float32)
    one = model_.probabilities(logits, multi_label=False)
    np.testing.assert_allclose(one, [[0.25, 0.75]], rtol=1e-6)
    np.testing.assert_allclose(
        model_.probabilities(logits, multi_label=True), [[0.5, 0.75]], rtol=1e-6
    )


def test_patches_are_left_out_in_training_and_all_seen_in_evaluation():
    m2d = models.load(
        "m2d", weights="random", **models.adapter_class("m2d:M2D").TINY, flat=True
    ).adapter
    clip = audio(2, seconds=1.0)
    made = classifier(m2d, patchout=0.5, freq_mask=0, time_mask=0)
    whole = made.eval().embed(clip)
    made.train()
    made.augment.key, made.augment.places = (43, 0, 0, 0), [0, 1]
    part = made.embed(clip)
    rows, columns = m2d.patch_grid(m2d.features(clip))
    assert m2d.keep.shape[0] == 2
    assert rows * columns * 0.4 <= m2d.keep.shape[1] < rows * columns
    assert not m2d.keep[0].equal(m2d.keep[1])
    assert not torch.allclose(part, whole)
    made.eval()
    assert made.embed(clip).equal(whole)


def test_exported_weights_hold_what_decides_the_scores_and_come_back():
    made, other = classifier(Normed()), classifier(Normed())
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
    tensors = other.eval().exported()
    assert not any("unused" in name for name in tensors)
    assert {"stem.weight", "norm.running_mean", "evar_head.linear.weight"} <= set(tensors)
    made.load_exported(tensors)
    assert made.eval()(audio()).equal(other(audio()))
    with pytest.raises(UserError, match="another model"):
        made.load_exported(tensors | {"what.weight": torch.zeros(1)})


def test_an_encoder_may_have_a_head_of_its_own():
    class Headed(Net):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 8)

        def encode(self, features):
            return self.head(super().encode(features))

    made, other = classifier(Headed()), classifier(Headed())
    nn.init.ones_(made.encoder.head.weight)
    nn.init.ones_(made.head.linear.weight)
    other.load_exported(made.exported())
    assert other.encoder.head.weight.eq(1).all()
    assert other.head.linear.weight.eq(1).all()


def test_crops_need_a_spectrogram_a_clip():
    class Chunked(Net):
        def frames(self, audio):
            return self.encode(self.features(audio.unflatten(1, (2, -1)).flatten(0, 1))).view(
                len(audio), -1, 8
            )

    made = classifier(Chunked(), rrc=True).train()
    made.augment.key, made.augment.places = (0,), list(range(4))
    with pytest.raises(UserError, match="8 spectrograms of 4 clips"):
        made.embed(audio())


def test_an_embedding_of_another_size_is_refused():
    encoder = Net()
    encoder.embed_dim = 9
    with pytest.raises(UserError, match=r"\(4, 8\), not \(4, 9\)"):
        classifier(encoder)(audio())


def test_mixed_precision_leaves_the_head_in_float32():
    made = classifier(precision="bf16").train()
    assert made.embed(audio()).dtype == made(audio()).dtype == torch.float32
    exact = classifier(made.encoder).eval().embed(audio())
    mixed = made.eval().embed(audio())
    assert not mixed.equal(exact)
    torch.testing.assert_close(mixed, exact, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("from_call", "what"), [(0, "Untrainable cannot be trained"), (1, r"Untrainable.embed\(\)")]
)
def test_what_goes_wrong_in_an_encoder_is_one_line_that_names_the_place(from_call, what):
    class Untrainable(Net):
        calls = 0

        def encode(self, features):
            self.calls += 1
            if self.calls > from_call:
                raise ValueError("made for evaluation only")
            return super().encode(features)

    with pytest.raises(UserError, match=rf"{what}: ValueError: made .*only \(.*_model.py:\d+\)"):
        classifier(Untrainable()).train()(audio())


def test_compiled_blocks_compute_the_same(monkeypatch):
    """Clips of several chunks, with another number of patches in each step."""
    from evar.model_adapters.m2d import M2D

    compiled_blocks, compile_ = [], torch.compile

    def captured(block, **how):
        """Captures and differentiates as ever, but runs the graph operator by operator.

        C++ code for it takes half a minute to build; benchmarks/finetune.py runs that.
        """
        compiled_blocks.append(block)
        return compile_(block, **{**how, "backend": "aot_eager"})

    monkeypatch.setattr(torch, "compile", captured)

    def trained(**more):
        sizes = {"width": 16, "depth": 1, "heads": 2, "flat": True}
        torch.manual_seed(0)
        made = classifier(M2D(name="m2d_vit_base-80x32p16x16", **sizes), patchout=0.5, **more)
        made.train()
        found = []
        for step in range(2):
            made.augment.key, made.augment.places = (0, 0, 0, step), [0, 1, 2, 3]
            found.append(made.embed(audio(seconds=0.5)))
            (found[-1] * torch.linspace(-1, 1, 16)).sum().backward()
        return [*found, made.layers[0][0].grad]

    for compiled, expected in zip(trained(compile=True), trained(), strict=True):
        assert (compiled - expected).norm() < 1e-5 * expected.norm()
    assert len(compiled_blocks) == 1
