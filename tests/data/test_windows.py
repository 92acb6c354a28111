"""Recordings heard by windows: which windows there are, and how their scores become one."""

import numpy as np
import pytest

from evar.data import windows
from evar.errors import UserError
from evar.task import Windows


@pytest.mark.parametrize(
    ("frames", "seconds", "hop", "expected"),
    [
        (100, 5, 5, [(0, 50), (50, 100)]),
        (100, 5, 2.5, [(0, 50), (25, 75), (50, 100)]),
        (30, 5, 5, [(0, 30)]),
        (50, 5, 2.5, [(0, 50)]),
        (101, 5, 5, [(0, 50), (50, 100), (51, 101)]),
        (110, 5, 5, [(0, 50), (50, 100), (60, 110)]),
        (110, 5, 2.5, [(0, 50), (25, 75), (50, 100), (60, 110)]),
        (20, 0.5, 0.25, [(0, 5), (2, 7), (5, 10), (8, 13), (10, 15), (12, 17), (15, 20)]),
    ],
)
def test_windows_hear_all_of_a_recording(frames, seconds, hop, expected):
    found = windows.spans(frames, 10, Windows(seconds, hop))
    assert found == expected


def test_a_rest_of_one_per_cent_gets_no_window():
    assert len(windows.spans(100_500, 10_000, Windows(5))) == 2
    assert len(windows.spans(100_501, 10_000, Windows(5))) == 3


def test_every_frame_is_in_a_window():
    draws = np.random.default_rng(0)
    for _ in range(200):
        frames, rate = int(draws.integers(2, 3000)), int(draws.integers(5, 100))
        seconds = float(draws.uniform(0.5, 5))
        hop = float(draws.uniform(0.2, seconds))
        found = windows.spans(frames, rate, Windows(seconds, hop))
        heard = np.zeros(frames, bool)
        for first, last in found:
            assert last - first == min(frames, round(seconds * rate))
            heard[first:last] = True
        assert (~heard).sum() <= max(0.01 * seconds * rate, 0)
        assert sorted(set(found)) == found


def test_scores_of_windows_become_those_of_recordings():
    scores = np.array([[0.2, 0.8], [0.4, 0.1], [0.9, 0.3], [0.0, 0.6]], np.float32)
    owner, clips = np.array([4, 4, 2, 4]), np.array([4, 2])
    mean = windows.pooled(scores, owner, clips, "mean")
    np.testing.assert_allclose(mean, [[0.2, 0.5], [0.9, 0.3]], rtol=1e-7)
    best = windows.pooled(scores, owner, clips, "max")
    np.testing.assert_array_equal(best, np.array([[0.4, 0.8], [0.9, 0.3]], np.float32))
    assert mean.dtype == best.dtype == np.float32


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((5, 6), r"--hop=6 would skip audio: it is --windows=5 at most"),
        ((0,), r"--windows must be a number of 0.001 or more, not 0"),
        ((5, None, "median"), r"unknown pool 'median'"),
        (("five",), r"--windows must be a number"),
    ],
)
def test_impossible_windows_are_refused(given, said):
    with pytest.raises(UserError, match=said):
        Windows(*given)
