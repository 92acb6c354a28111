"""Which clips are trained on: balanced draws, batches, and random streams without state."""

import numpy as np
import pytest

from evar.finetuning import sampling, streams
from evar.finetuning.streams import Purpose


def rng(seed=0):
    return np.random.default_rng(seed)


def test_balanced_weights_are_those_worked_by_hand():
    y = np.array([[1, 0], [1, 0], [1, 1], [0, 0]])  # three of the first class, one of the second
    first, second = 1000 / 3.01, 1000 / 1.01
    expected = [first ** (2 / 3), first ** (2 / 3), (first + second) ** (2 / 3), 0]
    np.testing.assert_allclose(sampling.balanced_weights(y), expected, rtol=1e-12)
    many = sampling.balanced_weights(np.tile(y, (6000, 1)))
    assert many.shape == (24000,)
    np.testing.assert_array_equal(many[:4], many[-4:])
    classes = sampling.balanced_weights(np.array([0, 0, 0, 1]))
    np.testing.assert_allclose(classes, [first ** (2 / 3)] * 3 + [second ** (2 / 3)], rtol=1e-12)


def test_an_epoch_is_every_clip_once_in_a_new_order():
    first, second = (sampling.epoch_order(50, rng(s), draws=None) for s in (0, 1))
    assert sorted(first) == sorted(second) == list(range(50))
    assert not np.array_equal(first, second)
    assert len(set(sampling.epoch_order(50, rng(), draws=20))) == 20


def test_draws_follow_the_weights_without_replacement():
    weights = np.array([8.0, 1.0, 1.0, 0.0])
    draws = [sampling.epoch_order(4, rng(s), weights=weights, draws=2) for s in range(2000)]
    assert all(len(set(d)) == 2 and 3 not in d for d in draws)
    assert np.mean([d[0] == 0 for d in draws]) == pytest.approx(0.8, abs=0.04)
    pairs = np.mean([set(d) == {1, 2} for d in draws])  # 2 * 1/10 * 1/9
    assert pairs == pytest.approx(2 / 90, abs=0.012)
    assert len(sampling.epoch_order(4, rng(), weights=weights, draws=None)) == 3


def test_batches_have_the_size_asked_for_and_none_has_one_clip():
    order = np.arange(129)[::-1]
    assert [len(b) for b in sampling.batches(order, 64)] == [64, 64]
    assert [len(b) for b in sampling.batches(order, 63)] == [63, 63, 3]
    assert np.concatenate(sampling.batches(order, 63)).tolist() == order.tolist()
    assert [len(b) for b in sampling.batches(order, 200)] == [129]


def test_a_random_stream_depends_on_nothing_but_its_key():
    def draw(*key):
        return streams.generator(*key).initial_seed(), streams.rng(*key).integers(2**60)

    keys = [(Purpose.MIXUP, 43, 0, 1, 2), (Purpose.MASK, 43, 0, 1, 2), (Purpose.MIXUP, 43, 0, 2, 1)]
    assert [draw(*key) for key in keys] == [draw(*key) for key in keys]
    assert len({draw(*key) for key in keys}) == 3
