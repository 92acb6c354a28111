"""Data sets, downloaded from a server of our own and made ready; what a person must do is said."""

import dataclasses
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from evar import cli
from evar import task as tasks
from evar.data import indexing, manifests, prepare
from evar.errors import UserError
from helpers import miniatures


@pytest.fixture
def served(tmp_path):
    """A folder, and the address it is served at."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def from_here(task, address, kinds=("archive", "table")):
    """The task with its addresses on our server, and without checksums."""
    sources = [
        dataclasses.replace(
            s, url=f"{address}/{s.path}", bytes=None, sha256=None, md5=None, git_sha1=None
        )
        for s in task.sources
        if s.kind in kinds and s.url
    ]
    return dataclasses.replace(task, sources=tuple(sources))


def test_an_archive_is_fetched_unpacked_and_found(served, tmp_path):
    folder, address = served
    miniatures.esc50(tmp_path / "made")
    shutil.make_archive(folder / "ESC-50-master", "zip", tmp_path / "made")
    task = from_here(tasks.get("esc50"), address)
    prepare.fetch_all(task, tmp_path / "data/esc50")
    manifest = manifests.open_task(task, tmp_path / "data")
    assert manifest.counts() == dict.fromkeys("12345", 3)
    assert manifest.root.name == "ESC-50-master"


def test_tables_are_fetched_beside_the_audio(served, tmp_path):
    folder, address = served
    miniatures.vc1(tmp_path / "made")
    root = tmp_path / "made/vox1"
    (root / "iden_split.txt").rename(folder / "iden_split.txt")
    task = from_here(tasks.get("vc1"), address, kinds=("table",))
    prepare.fetch_tables(task, indexing.find_root(tmp_path / "made", task.marker))
    assert indexing.build(task, root).counts() == {"train": 4, "valid": 2, "test": 2}


def test_what_cannot_be_downloaded_is_explained(served, tmp_path):
    folder, address = served
    miniatures.vc1(tmp_path / "made")
    (tmp_path / "made/vox1/iden_split.txt").rename(folder / "iden_split.txt")
    published = tasks.get("vc1")
    parts = tuple(s for s in published.sources if s.kind == "archive")
    task = dataclasses.replace(
        published, sources=parts + from_here(published, address, kinds=("table",)).sources
    )
    with pytest.raises(UserError) as error:
        prepare.fetch_all(task, tmp_path / "data/vc1")
    text = str(error.value)
    for needed in ("vox1_dev_wav_partaa", "sha256 21ec6ca8", "mm.kaist.ac.kr", "prepare.py vc1"):
        assert needed in text


def test_prepare_downloads_before_it_indexes(served, tmp_path, monkeypatch, capsys):
    folder, address = served
    miniatures.spcv2(tmp_path / "made")
    made = tmp_path / "made/speech_commands_v0.02"
    shutil.make_archive(folder / "speech_commands_v0.02", "gztar", made)
    task = from_here(tasks.get("spcv2"), address)
    monkeypatch.setattr(tasks, "get", lambda name: task)
    cli.run("prepare", ["spcv2", "--download", f"--data={tmp_path}/data", "--quiet"])
    assert "24 of 105,829 clips" in capsys.readouterr().out
    (folder / "speech_commands_v0.02.tar.gz").unlink()  # a second time nothing is fetched
    cli.run("prepare", ["spcv2", "--download", f"--data={tmp_path}/data", "--quiet"])


@pytest.mark.parametrize("option", ["--source=elsewhere", "--download"])
def test_the_files_of_a_csv_are_next_to_it(option, clips, command, refused):
    refused(command("prepare", clips.csv, option), option.split("=")[0], "next to it")
