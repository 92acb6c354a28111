"""The stacked networks: gradients against autograd, steps against torch.optim.Adam."""

import pytest
import torch
from torch import nn

from evar.probing.stacked import WEIGHT_DECAY, InputScale, StackedNetworks

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
    networks = StackedNetworks(layers(hidden), lr=[0.1] * M, scale=scale)
    x, targets = batch(multi_label)
    masks = [2.0 * torch.rand(M, h, B, generator=generator(5)).round() for h in hidden]
    tensors = [t.clone().requires_grad_() for t in networks.stacked]
    everyone = list(range(M))
    inputs, logits = networks.forward(tensors[::2], tensors[1::2], [x], everyone, masks)
    total = sum(loss_of(logits[m].T, targets[m]) for m in everyone)
    expected = torch.autograd.grad(total, tensors)
    with torch.no_grad():
        gradient = networks.loss_gradient(logits, targets) / B
        ours = networks.backward(tensors[::2], [x], inputs, gradient, everyone, masks)
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_the_scale_is_that_of_the_input():
    shift = torch.randn(M, D, generator=generator(3))
    gain = 1 + torch.rand(M, D, generator=generator(4))
    x = batch(False)[0]
    plain = StackedNetworks(layers((6,)), lr=[0.1] * M)
    scaled = StackedNetworks(layers((6,)), lr=[0.1] * M, scale=InputScale(shift, gain))
    expected = plain.logits([0, 1, 2], (x - shift[:, None]) * gain[:, None])
    torch.testing.assert_close(scaled.logits([0, 1, 2], x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scaled.logits([2], x[2:]), expected[2:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rates", [(0.1, 0.1, 0.1), (0.1, 0.01, 0.1)])
def test_steps_are_those_of_adam_at_each_networks_rate(rates):
    """Network 1 sits a step out, network 2 has a shorter batch."""
    networks = StackedNetworks(layers(), lr=rates)
    x, targets = batch(False)
    for chosen in ([0, 1, 2], [0, 2], [0, 1, 2]):
        counts = [B if m < 2 else 7 for m in chosen]
        networks.step(chosen, x[chosen], targets[chosen], counts)
    for m, ((weight, bias),) in enumerate(layers()):
        single = nn.Linear(D, C)
        single.load_state_dict({"weight": weight, "bias": bias})
        adam = torch.optim.Adam(single.parameters(), lr=rates[m], weight_decay=WEIGHT_DECAY)
        rows = B if m < 2 else 7
        for _ in range(2 if m == 1 else 3):
            adam.zero_grad()
            loss_of(single(x[m, :rows]), targets[m, :rows]).backward()
            adam.step()
        weight, bias = networks.copy_of(m)
        torch.testing.assert_close(weight, single.weight.detach(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(bias[:, 0], single.bias.detach(), atol=1e-5, rtol=1e-4)


def test_a_copy_comes_back():
    networks = StackedNetworks(layers(), lr=[0.1] * M)
    x, targets = batch(True)
    before, others = networks.copy_of(1), networks.copy_of(0)
    networks.step([0, 1, 2], x, targets, [B] * 3)
    assert not networks.copy_of(1)[0].equal(before[0])
    networks.restore(1, before)
    assert networks.stacked[0][1].equal(before[0])
    assert not networks.stacked[0][0].equal(others[0])
