"""The target network computes in the step's precision and keeps nothing for a backward pass."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from evar.parallel import SINGLE_PROCESS
from evar.pretrain.model import Pretrainer, shuffle
from evar.pretrain.step import Share, backward
from helpers.small import CONFIG

TEXT = 10


def share() -> Share:
    generator = torch.Generator().manual_seed(1)
    shuffled, kept = shuffle(torch.rand(4, CONFIG.patches, generator=generator), 0.7)
    spectrogram = torch.randn(4, 80, 64, generator=generator)
    captions = torch.randn(4, TEXT, generator=generator)
    return Share(spectrogram, shuffled, kept, captions, torch.ones(4, dtype=torch.bool))


@pytest.fixture
def model():
    torch.manual_seed(3)
    return Pretrainer(CONFIG, text_dim=TEXT)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("micro_batch", [None, 2])
def test_products_are_in_bfloat16_where_the_step_is_and_have_no_graph(
    model, monkeypatch, mixed, micro_batch
):
    found, attended, attention = [], [], functional.scaled_dot_product_attention

    def watch(_, __, out):
        found.append((out.dtype, out.requires_grad, torch.is_inference_mode_enabled()))

    def attend(query, *more, **how):
        attended.append((query.dtype, torch.is_grad_enabled()))
        return attention(query, *more, **how)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", attend)
    linear = [m for m in model.target_blocks.modules() if isinstance(m, nn.Linear)]
    for module in linear:
        module.register_forward_hook(watch)
    config = dataclasses.replace(CONFIG, micro_batch=micro_batch)
    backward(model, model, share(), config, SINGLE_PROCESS, mixed=mixed)
    precision = torch.bfloat16 if mixed else torch.float32
    assert len(found) >= len(linear)
    assert set(found) == {(precision, False, True)}
    of_target = [dtype for dtype, trained in attended if not trained]
    assert len(of_target) >= len(model.target_blocks)
    assert set(of_target) == {precision}
    assert all(p.grad is None for target, _ in model.target_pairs() for p in [target])


def test_nothing_of_it_is_kept_for_the_backward_pass(model):
    given = share()
    patches = model.patches(given.spectrogram)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        model.encode_visible(patches, given.shuffled[:, : given.kept])
        of_online = len(kept)
        target = model.encode_target(patches, given.shuffled[:, given.kept :])
    assert of_online > 0
    assert len(kept) == of_online
    assert target.grad_fn is None
    assert not target.is_inference()  # what the loss keeps has to be an ordinary tensor


def test_a_compiled_step_has_the_loss_and_gradients_of_a_plain_one(model):
    found = {}
    compiled = torch.compile(model, backend="aot_eager")
    for name, forward in (("plain", model), ("compiled", compiled)):
        model.zero_grad(set_to_none=True)
        loss = backward(model, forward, share(), CONFIG, SINGLE_PROCESS, mixed=True).total
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found[name] = loss, gradients
    torch.testing.assert_close(found["plain"], found["compiled"])
