"""Shards on disk: checksummed, whole or not there, each computed once."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from evar import files
from evar.embedding import store
from evar.embedding.store import Shard, Store
from evar.errors import UserError

IDENTITY = {"model": {"adapter": "a:A"}, "task": "demo 1", "manifest": "0" * 64}


def shard(number, rows=3, dim=2):
    return Shard(np.full((rows, dim), number, np.float32), {})


@pytest.fixture
def kept(tmp_path):
    """A store with three shards of three rows."""
    made = Store(tmp_path / "cache", IDENTITY)
    for number in range(3):
        made.write(number, shard(number))
    return made


def test_what_is_written_is_read(kept):
    rows = np.array([[1.5, np.nan], [np.inf, -0.0]], np.float32)
    kept.write(7, Shard(rows, {1: "schlecht: é"}))
    again = Store(kept.folder.parent, IDENTITY).read(7)
    assert again.rows.tobytes() == rows.tobytes()
    assert again.rows.dtype == np.float32
    assert again.bad == {1: "schlecht: é"}


def test_the_key_is_the_identity_whatever_its_order(tmp_path):
    one, other = Store(tmp_path, {"a": 1, "b": [2]}), Store(tmp_path, {"b": [2], "a": 1})
    assert one.key == other.key
    assert Store(tmp_path, {"a": 1, "b": [3]}).key != one.key
    assert json.loads((one.folder / "key.json").read_text()) == {"a": 1, "b": [2]}


def flip(content, at):
    content[at] ^= 1
    return content


DAMAGE = {
    "first byte": lambda c: flip(c, 0),
    "checksum": lambda c: flip(c, 31),
    "length of the header": lambda c: flip(c, 32),
    "header": lambda c: flip(c, 45),
    "last byte": lambda c: flip(c, -1),
    "a value": lambda c: flip(c, -9),
    "cut short": lambda c: c[:-1],
    "cut to half": lambda c: c[: len(c) // 2],
    "cut to the checksum": lambda c: c[:32],
    "empty": lambda c: c[:0],
    "longer": lambda c: c + b"\0",
    "zeros": lambda c: bytes(len(c)),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_shard_is_no_shard(kind, kept):
    path = kept.path(1)
    path.write_bytes(DAMAGE[kind](bytearray(path.read_bytes())))
    assert kept.missing(3) == [1]
    kept.fill([1], lambda numbers: [kept.write(n, shard(n)) for n in numbers])
    assert kept.read(1).rows[0, 0] == 1


def test_any_flipped_byte_is_noticed(kept):
    content = kept.path(0).read_bytes()
    for at in range(len(content)):
        kept.path(0).write_bytes(flip(bytearray(content), at))
        assert kept.read(0) is None, f"byte {at}"


def test_gather_puts_rows_and_reasons_in_order(kept):
    kept.write(1, Shard(np.full((3, 2), np.nan, np.float32), {0: "x", 2: "y"}))
    values, bad = kept.gather(3)
    assert values.shape == (9, 2)
    assert values.dtype == np.float32
    assert values[[0, 8], 0].tolist() == [0, 2]
    assert bad == {3: "x", 5: "y"}


def test_what_is_gathered_is_the_callers_own(kept):
    values, _ = kept.gather(3)
    values[:] = 99
    assert kept.gather(3)[0].max() == 2
    assert {p.suffix for p in kept.folder.iterdir()} == {".json", ".safetensors"}


def test_a_shard_that_vanishes_is_named(kept):
    kept.path(2).unlink()
    with pytest.raises(UserError, match="000002.safetensors: vanished"):
        kept.gather(3)


def test_fill_offers_only_what_is_not_there(tmp_path):
    made, offered = Store(tmp_path, IDENTITY), []

    def compute(numbers):
        for number in numbers:
            offered.append(number)
            made.write(number, shard(number))

    made.fill([0, 2], compute)
    made.fill(made.missing(4), compute)
    assert offered == [0, 2, 1, 3]


def test_several_workers_share_the_work_and_do_none_of_it_twice(tmp_path):
    computed, start = [], threading.Barrier(4)

    def work():
        mine = Store(tmp_path, IDENTITY)

        def compute(numbers):
            ahead = []  # one is computed while the next is decoded
            for number in numbers:
                computed.append(number)
                ahead.append(number)
                if len(ahead) == 2:
                    time.sleep(0.002)
                    mine.write(ahead[0], shard(ahead.pop(0)))
            for number in ahead:
                mine.write(number, shard(number))

        start.wait()
        mine.fill(mine.missing(40), compute)
        assert mine.missing(40) == []

    with ThreadPoolExecutor(4) as pool:
        for worker in [pool.submit(work) for _ in range(4)]:
            worker.result()
    assert sorted(computed) == list(range(40))


def test_the_last_shards_are_nobody_elses_while_they_are_computed(tmp_path):
    """The claims are at their end then, their locks must not be."""
    one, other, computed = Store(tmp_path, IDENTITY), Store(tmp_path, IDENTITY), []
    claimed = threading.Event()

    def slowly(numbers):
        ahead = list(numbers)
        claimed.set()
        time.sleep(0.3)
        for number in ahead:
            computed.append(number)
            one.write(number, shard(number))

    def at_once(numbers):
        for number in numbers:
            computed.append(number)
            other.write(number, shard(number))

    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(one.fill, [0, 1], slowly)
        claimed.wait()
        other.fill([0, 1], at_once)
        slow.result()
    assert sorted(computed) == [0, 1]


def test_the_work_of_one_that_dies_is_taken_over(tmp_path):
    one, other = Store(tmp_path, IDENTITY), Store(tmp_path, IDENTITY)

    def dies(numbers):
        next(numbers)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one.fill([0, 1], dies)
    other.fill([0, 1], lambda numbers: [other.write(n, shard(n)) for n in numbers])
    assert other.missing(2) == []


def test_what_a_killed_write_left_behind_is_removed(kept):
    kept.path(1).unlink()
    left = kept.folder / f".{kept.path(1).name}.x1y2z3"
    left.write_bytes(b"half a shard")
    kept.fill([1], lambda numbers: [kept.write(n, shard(n)) for n in numbers])
    assert not left.exists()


def test_once_is_made_once_and_read_by_all(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"mean": 0.1 + 0.2}

    values = [Store(tmp_path, IDENTITY).once("fit", make) for _ in range(3)]
    assert values == [{"mean": 0.1 + 0.2}] * 3
    assert made == [1]


@pytest.mark.parametrize("damage", [b"", b'{"mean": 0.3', b'{"mean": 0.4}\n'])
def test_a_damaged_value_is_made_again(damage, tmp_path):
    kept = Store(tmp_path, IDENTITY)
    kept.once("fit", lambda: {"mean": 0.3})
    path = kept.folder / "fit.json"
    path.write_bytes(damage)
    assert kept.once("fit", lambda: {"mean": 0.3}) == {"mean": 0.3}


def test_a_value_whose_making_fails_is_not_kept(tmp_path):
    kept = Store(tmp_path, IDENTITY)
    with pytest.raises(ZeroDivisionError):
        kept.once("fit", lambda: 1 / 0)
    assert kept.once("fit", lambda: {"mean": 1}) == {"mean": 1}


def test_what_is_there_is_read_without_a_lock(tmp_path):
    """The cache may be somebody else's, and read-only."""
    kept = Store(tmp_path, IDENTITY)
    kept.once("fit", lambda: {"mean": 1})
    kept.write(0, shard(0))
    for lock in kept.folder.glob("*.lock"):
        lock.unlink()
    assert kept.once("fit", lambda: 1 / 0) == {"mean": 1}
    kept.fill(kept.missing(1), lambda claims: 1 / 0)
    kept.gather(1)
    assert not list(kept.folder.glob("*.lock"))


def test_a_shard_that_cannot_be_read_is_not_a_damaged_one(kept, monkeypatch):
    def fails(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(UserError, match=r"000001.safetensors: cannot be read \(Permission"):
        kept.read(1)
    assert kept.path(1).exists()


def test_entries_and_remove(kept):
    folder = kept.folder.parent
    other = Store(folder, {"other": True})
    found = {entry.key: entry for entry in store.entries(folder)}
    assert set(found) == {kept.key, other.key}
    assert found[kept.key].identity == IDENTITY
    assert found[kept.key].bytes >= sum(kept.path(n).stat().st_size for n in range(3))
    store.remove(folder, kept.key)
    assert [entry.key for entry in store.entries(folder)] == [other.key]
    assert store.entries(folder / "nowhere") == []


def test_the_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    assert files.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("EVAR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_folder() == tmp_path / "xdg/evar"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.cache_folder() == tmp_path / ".cache/evar"
