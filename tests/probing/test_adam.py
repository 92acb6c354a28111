"""Stacked Adam against torch.optim.Adam, network by network, to the bit."""

import pytest
import torch

from evar.probing.adam import WEIGHT_DECAY, StackedAdam

M = 4


class Pair:
    """Tensors (M, ...) updated as a stack, and each network's by an optimiser of its own."""

    def __init__(self, shapes, rates):
        drawn = torch.Generator().manual_seed(0)
        tensors = [torch.randn(M, *shape, generator=drawn) for shape in shapes]
        self.alone = [[t[m].clone().requires_grad_() for t in tensors] for m in range(M)]
        self.optimisers = [
            torch.optim.Adam(own, lr=lr, weight_decay=WEIGHT_DECAY, fused=True)
            for own, lr in zip(self.alone, rates, strict=True)
        ]
        self.left = list(range(M))
        self.stack, self.drawn = StackedAdam(tensors, rates, paces=[3, 3, 2, 1]), drawn

    def step(self, count):
        """The first networks that are left make a step."""
        shapes = [t[:count].shape for t in self.stack.tensors]
        gradients = [torch.randn(shape, generator=self.drawn) for shape in shapes]
        self.stack.step(gradients)
        for i, m in enumerate(self.left[:count]):
            for own, gradient in zip(self.alone[m], gradients, strict=True):
                own.grad = gradient[i].clone()
            self.optimisers[m].step()

    def keep(self, at):
        self.stack.keep(torch.tensor(at, dtype=torch.int64))
        self.left = [self.left[i] for i in at]

    def require_equal(self):
        for i, m in enumerate(self.left):
            for stacked, own in zip(self.stack.tensors, self.alone[m], strict=True):
                torch.testing.assert_close(stacked[i], own.detach(), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("rates", [(0.1,) * M, (0.1, 0.1, 0.01, 0.1)])
@pytest.mark.parametrize("shapes", [[(3, 5), (3, 1)], [(2, 16), (16, 1)]])
def test_networks_that_sit_out_or_end_are_those_of_single_optimisers(shapes, rates):
    pair = Pair(shapes, rates)
    for count in (4, 4, 2, 4, 3, 4):
        pair.step(count)
    pair.require_equal()
    pair.keep([0, 2, 3])
    for count in (3, 1, 3, 2, 3):
        pair.step(count)
    pair.require_equal()
    pair.keep([1, 2])
    pair.step(2)
    pair.keep([1])
    pair.step(1)
    pair.require_equal()
    pair.keep([])
    assert [len(t) for t in pair.stack.tensors] == [0, 0]


def test_whole_cache_lines_have_the_same_bits_together_as_alone():
    """What `_CACHE_LINE` says of PyTorch's kernel, on which the bits of a probe rest."""
    pair = Pair([(3, 16), (16, 1)], (0.1,) * M)
    pair.stack = StackedAdam(pair.stack.tensors, (0.1,) * M)  # of one pace
    for _ in range(5):
        pair.step(M)
    for m in range(M):
        for stacked, own in zip(pair.stack.tensors, pair.alone[m], strict=True):
            assert stacked[m].equal(own.detach())
        state = [s["exp_avg_sq"] for s in pair.optimisers[m].state.values()]
        seconds = pair.stack.state[4:6]
        assert all(ours[m].equal(own) for ours, own in zip(seconds, state, strict=True))


def test_a_step_changes_the_state_and_nothing_else():
    """What recorded steps are restored by."""
    pair = Pair([(3, 5), (3, 1)], (0.1,) * M)
    pair.step(M)
    before = [t.clone() for t in pair.stack.state]
    after = []
    for _ in range(2):
        for tensor, kept in zip(pair.stack.state, before, strict=True):
            tensor.copy_(kept)
        pair.stack.step([torch.ones(M, 3, 5), torch.ones(M, 3, 1)])
        after.append([t.clone() for t in pair.stack.state])
    assert all(a.equal(b) for a, b in zip(*after, strict=True))
    assert not any(a.equal(b) for a, b in zip(before, after[0], strict=True))


def test_networks_of_one_pace_must_step_together():
    pair = Pair([(3, 5)], (0.1,) * M)
    with pytest.raises(ValueError, match="networks 0 and 1 have one pace"):
        pair.step(1)
