"""Shards read into one array: every byte is checked, nothing else is written or kept."""

import os

import numpy as np
import pytest

from evar.embedding import gathering
from evar.embedding.gathering import DamagedShard, read_into, room, verify
from evar.embedding.store import Shard, Store

STARTS = [0, 3, 5, 9]


def rows_of(number: int) -> np.ndarray:
    count = STARTS[number + 1] - STARTS[number]
    return np.random.default_rng(number).standard_normal((count, 4), dtype=np.float32)


@pytest.fixture
def kept(tmp_path):
    made = Store(tmp_path, {"a": 1})
    for number in range(3):
        made.write(number, Shard(rows_of(number), {1: f"é {number}"} if number else {}))
    return made


def test_rows_and_reasons_are_those_that_were_written(kept):
    gathered = kept.gathering(STARTS, 4)
    assert gathered.add([2, 0, 1]) == []
    values, bad = gathered.result()
    assert values.tobytes() == np.concatenate([rows_of(n) for n in range(3)]).tobytes()
    assert bad == {4: "é 1", 6: "é 2"}
    assert list(bad) == [4, 6]


def test_missing_and_damaged_shards_are_named_and_can_be_read_later(kept):
    kept.path(1).unlink()
    content = bytearray(kept.path(2).read_bytes())
    content[-1] ^= 1
    kept.path(2).write_bytes(content)
    gathered = kept.gathering(STARTS, 4)
    assert gathered.add(range(3)) == [1, 2]
    assert not kept.path(2).exists()
    for number in (1, 2):
        kept.write(number, Shard(rows_of(number), {}))
    assert gathered.add([1, 2]) == []
    values, bad = gathered.result()
    assert values.tobytes() == np.concatenate([rows_of(n) for n in range(3)]).tobytes()
    assert bad == {}


def test_any_flipped_or_absent_byte_is_noticed(kept):
    content, into = kept.path(0).read_bytes(), np.empty((3, 4), np.float32)
    for at in range(len(content)):
        flipped = bytearray(content)
        flipped[at] ^= 1
        for damaged in (flipped, content[:at], content + bytes(at + 1)):
            kept.path(0).write_bytes(damaged)
            with pytest.raises(DamagedShard):
                read_into(kept.path(0), into)
            with pytest.raises(DamagedShard):
                verify(kept.path(0))


def test_a_shard_of_other_rows_is_damaged(kept):
    for shape in ((4, 4), (3, 5), (2, 4)):
        with pytest.raises(DamagedShard, match="other rows"):
            read_into(kept.path(0), np.empty(shape, np.float32))


def test_more_than_half_of_the_free_memory_lies_in_a_file(kept, monkeypatch):
    before = sorted(kept.folder.iterdir())
    needed = 4 * 9 * 4
    for free, in_file in ((2 * needed, False), (2 * needed - 1, True), (None, True)):
        monkeypatch.setattr(gathering, "free_memory", lambda free=free: free)
        gathered = kept.gathering(STARTS, 4)
        gathered.add(range(3))
        values, _ = gathered.result()
        assert isinstance(values, np.memmap) == in_file
        assert values.tobytes() == np.concatenate([rows_of(n) for n in range(3)]).tobytes()
        values[:] = 7  # the caller's own
        assert sorted(kept.folder.iterdir()) == before
    assert kept.gather(3)[0].tobytes() == np.concatenate([rows_of(n) for n in range(3)]).tobytes()


def test_a_file_is_filled_by_writing_whole_shards_not_through_its_mapping(kept, monkeypatch):
    written, pwrite = [], os.pwrite
    monkeypatch.setattr(gathering, "free_memory", lambda: 0)
    monkeypatch.setattr(os, "pwrite", lambda fd, *a: written.append(a[1]) or pwrite(fd, *a))
    gathered = kept.gathering(STARTS, 4)
    assert gathered.add([1]) == []
    assert gathered.add([2, 0]) == []
    assert sorted(written) == [16 * first for first in STARTS[:3]]


def test_no_rows_at_all_need_no_file(tmp_path):
    assert room((0, 5), tmp_path).shape == (0, 5)


@pytest.mark.parametrize(
    ("limit", "used", "line", "folder"),
    [
        ("memory.max", "memory.current", "0::/job/7", "job/7"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "4:memory:/job/7", "memory/job/7"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "", "memory"),
    ],
)
def test_free_memory_is_that_of_the_control_group_where_it_has_less(
    limit, used, line, folder, tmp_path, monkeypatch
):
    group = tmp_path / folder
    group.mkdir(parents=True)
    (tmp_path / "cgroup").write_text(f"9:name=systemd:/\n{line}\n" if line else "")
    (group / limit).write_text("1000000\n")
    (group / used).write_text("400000\n")
    (group / "memory.stat").write_text("anon 5\ninactive_file 100000\n")
    groups = gathering.groups(tmp_path / "cgroup", tmp_path)
    monkeypatch.setattr(gathering, "groups", lambda: groups)
    assert gathering.free_memory() in (700_000, None)  # None: no /proc
    (group / limit).write_text("max\n")
    free = gathering.free_memory()
    assert free is None or free > 2**20
