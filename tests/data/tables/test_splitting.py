"""Splits: stratified, groups apart, the same for the same seed."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evar.data.tables import advice
from evar.data.tables.splitting import make_split
from evar.errors import UserError
from evar.scoring import statistics


def own(labels):
    return [str(i) for i in range(len(labels))]


def test_three_sides_of_many_clips():
    labels = ["a"] * 150 + ["b"] * 100
    split = make_split(labels, own(labels))
    assert split.column == "split"
    by = {side: Counter() for side in ("train", "valid", "test")}
    for label, side in zip(labels, split.sides, strict=True):
        by[side][label] += 1
    assert by == {
        "train": {"a": 90, "b": 60},
        "valid": {"a": 30, "b": 20},
        "test": {"a": 30, "b": 20},
    }
    assert make_split(labels, own(labels)) == split
    assert make_split(labels, own(labels), seed=1).sides != split.sides


def test_folds_of_few_clips_with_the_reason():
    labels = ["a"] * 30 + ["b"] * 3
    split = make_split(labels, own(labels))
    assert (split.column, set(split.sides)) == ("fold", {"1", "2", "3"})
    assert split.reason == "33 clips, fewer than 200: folds test every clip once"
    assert len(set(make_split(labels, own(labels), folds=2).sides)) == 2
    with pytest.raises(UserError, match="--folds=4: 'b' has 3 clips.*--folds=3"):
        make_split(labels, own(labels), folds=4)


def test_many_clips_of_few_recordings_are_folds():
    labels = ["a", "b"] * 200
    groups = [f"{label}{i // 2 % 3}" for i, label in enumerate(labels)]
    split = make_split(labels, groups)
    assert (split.column, set(split.sides)) == ("fold", {"1", "2", "3"})
    assert "'a' has 3 groups" in split.reason


def test_what_cannot_be_split():
    with pytest.raises(UserError, match="a single clip of 'b'.*--without=b"):
        make_split(["a", "a", "b"], own("123"))
    with pytest.raises(UserError, match=r"a single group \(recording.* of 'a'"):
        make_split(["a", "a", "b", "b"], ["x", "x", "y", "z"])
    with pytest.raises(UserError, match="a single class, a"):
        make_split(["a", "a"], own("12"))


def test_several_labels():
    labels = ["a,b", "a", "b,c", "c", "-", "a,c"] * 10
    split = make_split(labels, own(labels))
    for fold in set(split.sides):
        seen = {
            p for x, s in zip(labels, split.sides, strict=True) if s == fold for p in x.split(",")
        }
        assert seen == {"a", "b", "c", "-"}


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 4), st.integers(2, 8), st.integers(1, 60), st.integers(0, 10**6))
def test_no_group_is_on_two_sides_and_every_class_is_on_all(classes, groups, clips, seed):
    rng = np.random.default_rng(seed)
    labels, of = [], []
    for name in range(classes):
        for group in range(groups):
            count = int(rng.integers(1, clips + 1))
            labels += [str(name)] * count
            of += [f"{name}-{group}"] * count
    split = make_split(labels, of, seed=seed)
    sides, classes_ = {}, {}
    for label, group, side in zip(labels, of, split.sides, strict=True):
        sides.setdefault(group, set()).add(side)
        classes_.setdefault(side, set()).add(label)
    assert all(len(found) == 1 for found in sides.values())
    assert all(found == set(labels) for found in classes_.values())
    assert len(classes_) >= 2


# --- what a small set can tell


@pytest.mark.parametrize(("clips", "accuracy"), [(10, 0.8), (57, 0.5), (400, 0.95)])
def test_the_width_is_that_of_wilsons_interval(clips, accuracy):
    share, variance = np.array([accuracy]), np.array([accuracy * (1 - accuracy) / clips])
    low, high = statistics._wilson(share, variance, clips, advice._Z)[:, 0]
    assert advice.half_width(clips, accuracy) == pytest.approx((high - low) / 2, abs=1e-6)
    # by hand, 8 of 10: (0.8 + 0.19207 +- 1.96 sqrt(0.016 + 0.0096)) / 1.38415
    assert advice.half_width(10, 0.8) == pytest.approx(0.2266, abs=2e-4)


def test_advice_on_a_small_set():
    assert advice.FEWEST == statistics.FEWEST
    sides = {"train": Counter(a=30, b=20), "test": Counter(a=9, b=3)}
    assert advice.of_small_set(sides, folds=False) == (
        "12 test clips: expect about ±21 points (95 % interval, at 80 % accuracy); only 3 of 'b'; "
        "folds would test all 62 clips (`evar table`)"
    )
    two = {"1": Counter(a=9), "2": Counter(a=9)}
    assert advice.of_small_set(two, folds=True, groups=12).startswith(
        "18 test clips of 12 groups: expect about ±18 to 21 points (95 % interval, at 80 %"
    )
    assert advice.of_small_set(two, folds=True, groups=4) == (
        "18 test clips of 4 groups: too few for an interval, which needs 10 groups"
    )
    assert advice.of_small_set({"test": Counter(a=100)}, folds=False) == ""
