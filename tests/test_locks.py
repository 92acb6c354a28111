"""Locks between processes can be left out."""

import filelock
import pytest

from evar import locks
from evar.embedding.store import Store


def test_a_lock_is_held_by_one(tmp_path):
    with locks.lock(tmp_path / "a.lock"), pytest.raises(filelock.Timeout):
        locks.lock(tmp_path / "a.lock").acquire(blocking=False)


def test_without_locks_all_can_enter_and_no_file_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("EVAR_LOCKS", "0")
    with locks.lock(tmp_path / "a.lock"):
        locks.lock(tmp_path / "a.lock").acquire(blocking=False)
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_locks_writes_none(tmp_path, monkeypatch):
    monkeypatch.setenv("EVAR_LOCKS", "0")
    store = Store(tmp_path, {"a": 1})
    assert store.claim(0) is not None
    assert store.claim(0) is not None  # by another process, which the caller keeps apart
    assert store.once("fit", lambda: {"x": 1}) == {"x": 1}
    assert not list(tmp_path.rglob("*.lock"))
