"""Held-out clips: every class among them, and no group on both sides."""

import numpy as np
import pytest

from evar.errors import UserError
from evar.probing import holdout


def rng(seed=0):
    return np.random.default_rng(seed)


def test_held_out_tenth_has_every_class():
    y = np.repeat(np.arange(5), 40)
    kept, held, how = holdout.random_tenth(y, rng())
    assert how == "random tenth"
    assert len(held) == 20
    assert set(y[held]) == set(range(5))
    assert sorted([*kept, *held]) == list(range(200))


def test_small_sets_fall_back_to_a_stratified_tenth():
    y = np.repeat(np.arange(30), 3)  # 9 rows can never hold 30 classes
    kept, held, how = holdout.random_tenth(y, rng())
    assert how == "stratified tenth"
    assert set(y[held]) == set(y[kept]) == set(range(30))
    assert sorted([*kept, *held]) == list(range(90))


@pytest.mark.parametrize("seed", range(5))
def test_the_only_clip_of_a_class_is_trained_on(seed):
    y = np.repeat([0, 1, 2], [40, 40, 1])
    kept, held, how = holdout.random_tenth(y, rng(seed))
    assert how == "stratified tenth"
    assert set(y[kept]) == {0, 1, 2}
    assert np.bincount(y[held]).tolist() == [4, 4]


@pytest.mark.parametrize("seed", range(5))
def test_the_only_clip_of_a_second_label_is_trained_on(seed):
    y = np.zeros((60, 4), np.int8)
    y[np.arange(60), np.arange(60) % 3] = 1
    y[7, 3] = 1
    kept, held, _ = holdout.random_tenth(y, rng(seed))
    assert y[kept].any(axis=0).all()
    assert y[held].sum(axis=0).tolist() == [2, 2, 2, 0]


def test_where_no_class_can_spare_a_clip_none_is_held_out():
    with pytest.raises(UserError, match="no class has a training clip to spare"):
        holdout.random_tenth(np.arange(2), rng())


def test_a_tenth_of_each_class_is_held_out():
    y = np.repeat([0, 1, 2, 3], [100, 40, 3, 1])
    kept, held, how = holdout.tenth(y, np.full(len(y), ""), rng())
    assert np.bincount(y[held], minlength=4).tolist() == [10, 4, 1, 0]
    assert sorted([*kept, *held]) == list(range(len(y)))
    assert how == "stratified tenth"
    other = holdout.tenth(y, np.full(len(y), ""), rng(1))[1]
    assert not np.array_equal(held, other)


def test_a_group_is_never_on_both_sides():
    y = np.arange(200) % 2
    groups = np.array([f"speaker {i // 5}" for i in range(200)])
    kept, held, how = holdout.tenth(y, groups, rng())
    assert not set(groups[kept]) & set(groups[held])
    assert (len(kept), len(held)) == (180, 20)
    assert "groups" in how


def test_a_clip_without_a_group_is_alone():
    groups = np.array([f"s{i % 10}" for i in range(40)], dtype=object)
    groups[7] = ""
    kept, held, how = holdout.tenth(np.arange(40) % 2, groups, rng())
    assert how == "tenth of the groups"
    assert not set(groups[kept]) & set(groups[held]) - {""}


def test_holding_out_groups_takes_no_class_from_training():
    y = np.array([0] * 18 + [1, 1])  # class 1 is one of twenty groups, drawn now and then
    groups = np.array([f"g{i}" for i in range(19)] + ["g18"])
    for seed in range(20):
        kept, _, _ = holdout.tenth(y, groups, rng(seed))
        assert set(y[kept]) == {0, 1}


def test_of_several_labels_a_clip_a_tenth_is_held_out():
    y = np.eye(4, dtype=np.int8)[np.arange(200) % 4]
    kept, held, _ = holdout.tenth(y, np.full(200, ""), rng())
    assert (len(kept), len(held)) == (180, 20)
    assert y[held].any(axis=0).all()
