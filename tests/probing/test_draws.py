"""The random numbers of probes: what they depend on, and how batches are laid out."""

import numpy as np
import torch

from evar.probing.draws import Batches, Draws
from evar.probing.probe import Job


def draws(count, seed=1, *, size=4):
    rows = 100 + np.arange(count)
    return Draws(Job(rows, np.arange(3), np.arange(3), seed), np.zeros(200, int), size)


def test_batches_are_each_lines_order_in_turn():
    lines = [draws(11), draws(8), draws(6), draws(3)]
    batches = Batches(lines)
    assert batches.counts == [[4, 4, 4, 3], [4, 4, 2], [3]]
    for _ in range(2):
        rows = batches.epoch()
        assert rows.shape == (3, 4, 4)
        for i, line in enumerate(lines):
            parts = [rows[s, i, : own[i]] for s, own in enumerate(batches.counts) if i < len(own)]
            own = torch.cat(parts)
            assert sorted(own.tolist()) == line.train.tolist()
            assert not own.equal(line.train)
        assert rows[1, 2].tolist()[2:] == [0, 0]
        assert rows[1, 3].tolist() == [0] * 4


def test_an_epochs_order_is_a_lines_own():
    together, alone = Batches([draws(11), draws(8)]), Batches([draws(8)])
    for _ in range(3):
        assert together.epoch()[:2, 1].equal(alone.epoch()[:, 0])


def test_an_order_that_is_drawn_ahead_is_the_same():
    ahead, plain = draws(9), draws(9)
    for _ in range(3):
        assert ahead.order().equal(plain.order())
        assert ahead.dropout(4, 5).equal(plain.dropout(4, 5))
        ahead.draw_ahead()


def test_dropout_keeps_half_and_doubles_it():
    mask = draws(9).dropout(100, 40)
    assert mask.shape == (40, 100)
    assert set(mask.unique().tolist()) == {0.0, 2.0}
    assert 0.9 < mask.mean() < 1.1


def test_a_batch_is_as_large_as_the_rows_before_any_were_held_out():
    y = np.arange(40) % 2
    line = Draws(Job(np.arange(40), None, np.arange(3), 1), y, 200)
    assert (line.rows, line.batch_size, line.steps) == (36, 40, 1)
    assert sorted([*line.train.tolist(), *line.valid.tolist()]) == list(range(40))
