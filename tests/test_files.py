"""Files are written whole or not at all."""

import errno
import multiprocessing
import os
import signal
import threading
import time

import pytest

from evar import files
from evar.errors import BadAudio, UserError, unknown


def test_writes_text_and_bytes_into_new_folders(tmp_path):
    files.write_atomic(tmp_path / "a/b/text", "é\n")
    files.write_atomic(tmp_path / "a/b/bytes", b"\x00")
    assert (tmp_path / "a/b/text").read_bytes() == "é\n".encode()
    assert (tmp_path / "a/b/bytes").read_bytes() == b"\x00"


def test_permissions_are_those_of_any_new_file(tmp_path):
    files.write_atomic(tmp_path / "ours", "x")
    (tmp_path / "usual").write_text("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("call", ["fdopen", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_failure_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch, call, number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(UserError, match=rf"{path}: cannot write \({os.strerror(number)}"):
        files.write_atomic(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomic(tmp_path / "file", "new")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_folders_place(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write"):
        files.write_atomic(tmp_path / "file/below", "x")
    with pytest.raises(UserError, match="cannot write"):
        files.make_folder(tmp_path / "file")


def test_readers_never_see_a_part(tmp_path):
    path, stop, seen = tmp_path / "file", threading.Event(), set()
    contents = [letter * 200_000 for letter in "ab"]
    files.write_atomic(path, contents[0])

    def read():
        while not stop.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(30):
        files.write_atomic(path, contents[i % 2])
    stop.set()
    reader.join()
    assert seen <= set(contents)


def test_canonical_json_is_one_text_and_refuses_nan():
    assert files.canonical_json({"b": (1, 2), "a": None}) == '{"a":null,"b":[1,2]}'
    with pytest.raises(ValueError, match="Out of range"):
        files.canonical_json({"a": float("nan")})


def test_unknown_names_what_is_close_or_all_there_is():
    assert "did you mean esc50?" in str(unknown("task", "esc5", ["esc50", "demo"]))
    assert "known: esc50, demo" in str(unknown("task", "xyz", ["esc50", "demo"]))


def test_bad_audio_names_file_reason_and_remedy():
    error = BadAudio("a/b.wav", "silent")
    assert str(error).startswith("a/b.wav: silent. ")
    assert "--skip_bad" in str(error)


# --- what killed writers leave


def aged(path, seconds=2 * files.STALE):
    path.write_text("half of it")
    os.utime(path, (time.time() - seconds,) * 2)
    return path


@pytest.fixture
def forgetful(monkeypatch):
    """A process that has not yet written into any folder."""
    monkeypatch.setattr(files, "_cleared", set())


def test_the_next_writer_of_a_folder_clears_what_killed_ones_left(tmp_path, forgetful):
    dead, young = aged(tmp_path / ".run.json.a1b2c3d4.tmp"), aged(tmp_path / ".x.abcdefgh.tmp", 60)
    others = [aged(tmp_path / name) for name in (".config.settings", "data.tmp", ".lock", "a.tmp")]
    with (tmp_path / ".busy.abcdefgh.tmp").open("wb") as busy:
        files._try_lock(busy)
        aged(tmp_path / ".busy.abcdefgh.tmp")
        files.write_atomic(tmp_path / "new", "x")
        assert not dead.exists()
        assert all(path.exists() for path in [young, *others, tmp_path / ".busy.abcdefgh.tmp"])


def _killed_while_writing(path):
    os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    files.write_atomic(path, "never whole")


def test_what_a_killed_writer_leaves_is_cleared(tmp_path, forgetful, monkeypatch):
    context = multiprocessing.get_context("fork")
    writer = context.Process(target=_killed_while_writing, args=(tmp_path / "run.json",))
    writer.start()
    writer.join()
    (left,) = tmp_path.iterdir()
    monkeypatch.setattr(files, "STALE", -1)
    files.write_atomic(tmp_path / "other.json", "whole")
    assert not left.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["other.json"]


# --- what a file may name


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("a.wav", ""),
        ("./a/b c.wav", ""),
        ("a..b/..c.wav", ""),
        ("/etc/passwd", "must lie inside"),
        ("\\\\host\\a", "must lie inside"),
        ("C:\\a.wav", "must lie inside"),
        ("c:a.wav", "must lie inside"),
        ("..", "must lie inside"),
        ("a/../../b", "must lie inside"),
        ("a\\..\\b", "must lie inside"),
        ("a\0b.wav", "NUL"),
        ("", "names no file"),
        (".", "names no file"),
        ("a\udcff.wav", "UTF-8"),
    ],
)
def test_a_path_that_a_file_names_leads_down(name, problem):
    found = files.path_problem(name)
    assert problem in found
    assert bool(problem) == bool(found)


def test_pipes_and_devices_are_not_followed(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "null.wav").symlink_to("/dev/null")
    (tmp_path / "a.wav").write_bytes(b"x")
    (tmp_path / "link.wav").symlink_to(tmp_path / "a.wav")
    for name in ("pipe.wav", "null.wav"):
        with pytest.raises(UserError, match=rf"^list.csv: '{name}' is a pipe"):
            files.inside(tmp_path, name, "list.csv")
    with pytest.raises(UserError, match=r"^list.csv: '../x': must lie inside"):
        files.inside(tmp_path, "../x", "list.csv")
    for name in ("a.wav", "link.wav", "not there.wav"):
        assert files.inside(tmp_path, name, "list.csv") == tmp_path / name


def test_unknown_stays_short_with_many_names():
    assert len(str(unknown("label", "xyz", [f"name {i}" for i in range(30_000)]))) < 1000
