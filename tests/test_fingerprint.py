"""What a model computes of fixed sounds: blind to rounding, and to nothing larger."""

import numpy as np
import pytest
import torch

from evar import Adapter, fingerprint


def share_that_differs(relative: float, size: int, offset: float, tries: int = 300) -> float:
    """Returns how often embeddings are read otherwise after a change of this relative size."""
    rng, differing = np.random.default_rng(0), 0
    for _ in range(tries):
        one = rng.standard_normal((2, size)) + offset
        change = rng.standard_normal((2, size))
        change *= relative * np.linalg.norm(one) / np.linalg.norm(change)
        differing += fingerprint.read(one) != fingerprint.read(one + change)
    return differing / tries


@pytest.mark.parametrize("offset", [0, 5])
@pytest.mark.parametrize("size", [3, 768])
def test_rounding_seldom_shows_and_changes_do(size, offset):
    assert share_that_differs(1e-7, size, offset) <= 0.005
    assert share_that_differs(1e-5, size, offset) <= 0.05
    assert share_that_differs(1e-3, size, offset) >= 0.6
    assert share_that_differs(1e-2, size, offset) == 1


def test_the_size_of_embeddings_shows():
    values = np.random.default_rng(0).standard_normal((2, 5))
    assert fingerprint.read(values) != fingerprint.read(1.05 * values)


def test_many_values_are_folded():
    values = np.random.default_rng(0).standard_normal((2, 100_000))
    assert fingerprint.read(values) == fingerprint.read(values * (1 + 1e-9))
    assert fingerprint.read(values) != fingerprint.read(values[:, ::-1])


def test_sums_that_cancel_lie_on_no_edge():
    values = np.ones((2, 4))
    noise = 1e-12 * np.random.default_rng(0).standard_normal(values.shape)
    assert fingerprint.read(values) == fingerprint.read(values + noise)


class Net(Adapter):
    """Refuses short clips, draws random numbers and makes a layer when it first runs."""

    sample_rate, embed_dim = 8000, 2

    def __init__(self, shortest: float = 0.0):
        super().__init__()
        self.shortest, self.layer = shortest, None

    def embed(self, audio):
        if audio.shape[1] < self.shortest * self.sample_rate:
            raise ValueError("too short")
        if self.layer is None:
            self.layer = torch.nn.Linear(2, 2)
        return self.layer(audio[:, 100:102]) + torch.rand(2)


def test_random_numbers_are_the_same_and_those_of_others_go_on():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert fingerprint.of(Net()) == fingerprint.of(Net()) != ""
    assert torch.equal(torch.rand(3), expected)


def test_what_is_made_meanwhile_evaluates_and_can_be_trained_later():
    net = Net()
    fingerprint.of(net)
    assert not net.layer.training
    assert not any(p.requires_grad for p in net.layer.parameters())
    net.requires_grad_(True)
    net.embed(torch.ones(1, 8000)).sum().backward()
    assert net.layer.weight.grad is not None


def test_an_encoder_of_long_clips_is_read_on_long_clips():
    assert fingerprint.of(Net(shortest=5)) not in ("", fingerprint.of(Net()))
    assert fingerprint.of(Net(shortest=60)) == ""


def test_not_finite_is_a_result_too():
    assert fingerprint.read(np.full((2, 3), np.nan)) == "not finite"
