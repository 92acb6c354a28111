"""Files are written whole or not at all."""

import errno
import os
import threading

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
