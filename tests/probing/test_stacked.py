"""The stacked networks: gradients against autograd, steps against torch.optim.Adam."""

import pytest
import torch
from torch import nn

from evar.probing.adam import WEIGHT_DECAY
from evar.probing.stacked import InputScale, Stack, StackedNetworks, loss_gradient, stacked

M, D, C, B = 3, 5, 4, 11


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def layers(hidden=()):
    """Random layers of M networks."""
    sizes, drawn = (D, *hidden, C), generator()
    return [
        [
            (torch.randn(o, i, generator=drawn), torch.randn(o, generator=drawn))
            for i, o in zip(sizes[:-1], sizes[1:], strict=True)
        ]
        for _ in range(M)
    ]


def batch(multi_label):
    x = torch.randn(M, B, D, generator=generator(1))
    if multi_label:
        return x, torch.rand(M, B, C, generator=generator(2)).round()
    return x, torch.randint(C, (M, B), generator=generator(2))


def loss_of(logits, targets):
    """The mean over rows and classes, of logits (B, C)."""
    if targets.ndim == 2:
        return nn.functional.binary_cross_entropy_with_logits(logits, targets)
    return nn.functional.cross_entropy(logits, targets) / C


@pytest.mark.parametrize("hidden", [(), (8, 6)])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_gradients_are_those_of_autograd(hidden, multi_label, scaled):
    scale = None
    if scaled:
        shift = torch.randn(M, D, generator=generator(3))
        scale = InputScale(shift, 1 + torch.rand(M, D, generator=generator(4)))
    x, targets = batch(multi_label)
    masks = [2.0 * torch.rand(M, h, B, generator=generator(5)).round() for h in hidden]
    stack = Stack([t.requires_grad_() for t in stacked(layers(hidden))], scale)
    logits = logits_of(stack, x, masks)
    total = sum(loss_of(logits[m].T, targets[m]) for m in range(M))
    expected = torch.autograd.grad(total, stack.tensors)
    with torch.no_grad():
        inputs, logits = stack.forward([x], masks)
        gradient = loss_gradient(logits, targets) / B
        ours = stack.gradients([x], inputs, gradient, masks)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def logits_of(stack, x, masks):
    """The logits (M, C, B) by plain operations, for autograd."""
    values = x.transpose(1, 2)
    if stack.scale:
        values = (values - stack.scale.shift[..., None]) * stack.scale.gain[..., None]
    for layer in range(len(stack.tensors) // 2):
        if layer:
            values = values.relu() * masks[layer - 1]
        values = stack.tensors[2 * layer] @ values + stack.tensors[2 * layer + 1]
    return values


def test_the_scale_is_that_of_the_input():
    shift = torch.randn(M, D, generator=generator(3))
    gain = 1 + torch.rand(M, D, generator=generator(4))
    x = batch(False)[0]
    plain = Stack(stacked(layers((6,))))
    scaled = Stack(plain.tensors, InputScale(shift, gain))
    expected = plain.logits((x - shift[:, None]) * gain[:, None])
    torch.testing.assert_close(scaled.logits(x), expected, atol=1e-5, rtol=1e-5)
    first = scaled.first(2).logits(x[:2])
    torch.testing.assert_close(first, expected[:2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rates", [(0.1, 0.1, 0.1), (0.1, 0.01, 0.1)])
def test_steps_are_those_of_adam_at_each_networks_rate(rates):
    """Network 2 sits a step out, network 1 has a shorter batch and then is dropped."""
    networks = StackedNetworks(layers(), lr=rates, paces=[2, 2, 1])
    x, targets = batch(False)
    counts = [B, 7, B]

    def steps(*several):
        for chosen in several:
            networks.step(x[chosen], targets[chosen], [counts[m] for m in chosen])

    steps([0, 1, 2], [0, 1], [0, 1, 2], [0, 1, 2])
    dropped = networks.copy_of(1)
    networks.keep([0, 2])
    steps([0, 2], [0], [0, 2])
    final = [networks.copy_of(0), dropped, networks.copy_of(1)]
    for m, ((weight, bias),) in enumerate(layers()):
        single = nn.Linear(D, C)
        single.load_state_dict({"weight": weight, "bias": bias})
        adam = torch.optim.Adam(single.parameters(), lr=rates[m], weight_decay=WEIGHT_DECAY)
        for _ in range([7, 4, 5][m]):
            adam.zero_grad()
            loss_of(single(x[m, : counts[m]]), targets[m, : counts[m]]).backward()
            adam.step()
        weight, bias = final[m]
        torch.testing.assert_close(weight, single.weight.detach(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(bias[:, 0], single.bias.detach(), atol=1e-5, rtol=1e-4)


def test_a_copy_stays_as_it_was():
    networks = StackedNetworks(layers(), lr=[0.1] * M)
    x, targets = batch(True)
    weight, bias = networks.copy_of(1)
    networks.step(x, targets, [B] * 3)
    assert weight.equal(layers()[1][0][0])
    assert bias[:, 0].equal(layers()[1][0][1])
    assert not networks.copy_of(1)[0].equal(weight)
