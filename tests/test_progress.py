"""Progress bars, and what they say of a machine whose cores are too few."""

import os
import sys
from types import SimpleNamespace

import pytest

from evar import progress


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A function that sets threads, cores, load and quota of the machine."""

    def make(*, threads, cores, load=0.0, quota="max 100000"):
        torch = SimpleNamespace(get_num_threads=lambda: threads)
        monkeypatch.setitem(sys.modules, "torch", torch)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 8)
        monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
        (tmp_path / "cpu.max").write_text(quota)
        monkeypatch.setattr(progress, "_QUOTA", tmp_path / "cpu.max")
        return progress.crowding()

    return make


def test_more_threads_than_cores_are_named(machine):
    said = machine(threads=8, cores=2)
    assert said.startswith("8 threads share 2 cores")
    assert said.endswith("OMP_NUM_THREADS=2")
    assert machine(threads=8, cores=8, quota="150000 100000").endswith("OMP_NUM_THREADS=1")
    assert machine(threads=8, cores=8) == ""


def test_a_busy_machine_is_named(machine):
    said = machine(threads=8, cores=8, load=32.0)
    assert "load of this machine's 8 cores is 32" in said
    assert said.endswith("OMP_NUM_THREADS=2")
    assert machine(threads=1, cores=8, load=32.0) == "", "nothing to set"
    assert machine(threads=8, cores=8, load=9.0) == ""


def test_a_slow_bar_says_it_once(machine, monkeypatch, capsys):
    machine(threads=8, cores=2)
    monkeypatch.setattr(progress, "_SLOW", -1.0)
    monkeypatch.setattr(progress.bar_class(), "looked", False)
    for _ in range(2):
        with progress.Terminal("m").bar("embed", "clip", total=3) as bar:
            bar.update()
            bar.update()
    assert capsys.readouterr().err.count("note: 8 threads share 2 cores") == 1


def test_a_quick_bar_says_nothing(machine, monkeypatch, capsys):
    machine(threads=8, cores=2)
    monkeypatch.setattr(progress.bar_class(), "looked", False)
    with progress.Terminal("m").bar("embed", "clip", total=1) as bar:
        bar.update()
    assert "note" not in capsys.readouterr().err


def test_silence_is_no_bar():
    with progress.SILENT.bar("embed", "clip", [1, 2]) as bar:
        assert list(bar) == [1, 2]
