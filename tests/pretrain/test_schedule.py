"""Schedules over all steps."""

import math

import pytest

from evar.pretrain import schedule


def test_the_rate_rises_in_a_line_and_falls_in_half_a_cosine():
    rates = [schedule.learning_rate(s, peak=2.0, steps=100, warmup=20) for s in range(101)]
    assert rates[:21] == pytest.approx([s / 10 for s in range(21)])
    for step in range(20, 101):
        assert rates[step] == pytest.approx(1 + math.cos(math.pi * (step - 20) / 80))
    assert rates[60] == pytest.approx(1.0), "half way down"
    assert rates[100] == 0.0


def test_without_warm_up_it_starts_at_the_peak():
    assert schedule.learning_rate(0, peak=3.0, steps=10, warmup=0) == 3.0


def test_the_decay_is_a_line():
    decays = [schedule.target_decay(s, start=0.9, end=1.0, steps=10) for s in range(11)]
    assert decays == pytest.approx([0.9 + s / 100 for s in range(11)])
