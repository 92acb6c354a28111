"""Layer weights against a plain autograd loop, and what they find."""

import numpy as np
import pytest
import torch
from torch import nn

from evar.probing import probe
from evar.probing.autograd import Job, fit
from evar.probing.layerweights import Layers, WeightedLayers
from evar.probing.probe import ProbeSettings


def layers(count=200, dim=6, classes=4, telling=1, seed=0):
    """Embeddings (N, 3, D) of which one layer tells the class, in unequal scales."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, count)
    x = rng.standard_normal((count, 3, dim))
    x[:, telling] += 2 * rng.standard_normal((classes, dim))[y]
    return (x * np.array([1, 30, 0.1])[:, None] + 5).astype(np.float32), y


class Plain(nn.Module):
    """SUPERB's sum, written as it is described."""

    def __init__(self, count, dim, classes):
        super().__init__()
        self.mix = nn.Parameter(torch.zeros(count))
        self.head = nn.Linear(dim, classes)

    def forward(self, x):
        weights = torch.softmax(self.mix, dim=0)
        return self.head(sum(w * x[:, i] for i, w in enumerate(weights)))


@pytest.mark.parametrize("multi_label", [False, True])
def test_training_is_that_of_a_plain_autograd_loop(multi_label):
    x, y = layers()
    if multi_label:
        y = np.stack([y == 0, y == 1, y > 1], axis=1).astype(np.int8)
    classes = 3 if multi_label else 4
    train, valid, test = np.split(np.arange(200), [120, 160])
    settings = ProbeSettings(epochs=12, batch_size=32, patience=12)
    job = Job(train, valid, test, seed=5, stream=2, rates=(1e-2,))
    (ours,) = fit(Layers(x), y, job, lambda g: WeightedLayers(3, 6, classes, generator=g), settings)

    rng = np.random.default_rng([5, 2])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    plain = Plain(3, 6, classes)
    with torch.no_grad():
        plain.head.weight.uniform_(-(6**-0.5), 6**-0.5, generator=generator)
        plain.head.bias.uniform_(-(6**-0.5), 6**-0.5, generator=generator)
    z = torch.from_numpy((x - x[train].mean(axis=0)) / x[train].std(axis=0))
    targets = torch.from_numpy(y.astype(np.float32) if multi_label else y)
    optimiser = torch.optim.Adam(plain.parameters(), lr=1e-2, weight_decay=1e-8)
    best, kept = -1.0, None
    for _ in range(12):
        order = train[torch.randperm(120, generator=generator).numpy()]
        for at in range(0, 120, 32):
            rows = order[at : at + 32]
            out = plain(z[rows])
            if multi_label:
                loss = nn.functional.binary_cross_entropy_with_logits(out, targets[rows])
            else:
                onehot = nn.functional.one_hot(targets[rows], 4)
                loss = -(onehot * out.log_softmax(dim=1)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        value = probe.score(plain(z[valid]).detach().numpy(), y[valid])
        if value >= best:
            best, kept = value, plain(z[test]).detach().numpy()
            weights = plain.mix.softmax(dim=0).detach().numpy()
    np.testing.assert_allclose(ours.logits, kept, atol=2e-4)
    np.testing.assert_allclose(ours.module.layer_weights().detach(), weights, atol=1e-4)
    assert ours.valid_score == pytest.approx(best)


def test_the_layer_that_tells_the_class_gets_the_largest_weight():
    x, y = layers(600)
    train, valid, test = np.split(np.arange(600), [400, 500])
    job = Job(train, valid, test, seed=1, rates=(3e-2,))
    (fitted,) = fit(Layers(x), y, job, lambda g: WeightedLayers(3, 6, 4, generator=g))
    weights = fitted.module.layer_weights().detach()
    assert int(weights.argmax()) == 1
    assert float(weights.sum()) == pytest.approx(1)
    assert probe.score(fitted.logits, y[test]) > 0.8


def test_a_single_layer_is_the_linear_probe():
    """One layer: the weight is 1 whatever is learned; both are equal up to rounding."""
    x, y = layers(300, telling=0)
    train, valid, test = np.split(np.arange(300), [200, 250])
    settings = ProbeSettings(lr=1e-2, epochs=10)
    job = Job(train, valid, test, seed=3, rates=(1e-2,))
    (ours,) = fit(
        Layers(x[:, :1]), y, job, lambda g: WeightedLayers(1, 6, 4, generator=g), settings
    )
    (linear,) = probe.fit(x[:, 0], y, [probe.Job(train, valid, test, 3)], settings)
    np.testing.assert_allclose(ours.logits, linear.logits, atol=1e-4)
