"""Data sets in parts: VoxCeleb's pieces put there by hand, lists of thousands of addresses."""

import dataclasses
import hashlib
import shutil
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from evar import task as tasks
from evar.data import indexing, manifests, prepare
from evar.errors import UserError
from helpers import miniatures


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A folder, and the address it is served at."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_voxceleb_parts_put_there_by_hand(tmp_path):
    """dev and test unpack into one wav/; the dev zip comes in four pieces."""
    miniatures.vc1(tmp_path / "made")
    made, folder = tmp_path / "made/vox1", tmp_path / "data/vc1"
    folder.mkdir(parents=True)
    shutil.copy(made / "iden_split.txt", folder)
    for name, speaker in (("dev.zip", "id10001"), ("vox1_test_wav.zip", "id10270")):
        with zipfile.ZipFile(folder / name, "w") as file:
            for path in sorted((made / "wav" / speaker).rglob("*.wav")):
                file.write(path, path.relative_to(made))
    whole = (folder / "dev.zip").read_bytes()
    (folder / "dev.zip").unlink()
    piece = len(whole) // 4 + 1
    for i, end in enumerate(("aa", "ab", "ac", "ad")):
        (folder / f"vox1_dev_wav_part{end}").write_bytes(whole[i * piece : (i + 1) * piece])
    published = tasks.get("vc1")
    sources = tuple(
        dataclasses.replace(s, md5=None, sha256=sha256(folder / s.path), url=None)
        for s in published.sources
    )
    task = dataclasses.replace(published, sources=sources)

    (folder / "vox1_dev_wav_partac").rename(folder / "elsewhere")
    with pytest.raises(UserError, match="parts are missing.*partac"):
        prepare.fetch_all(task, folder)
    (folder / "elsewhere").rename(folder / "vox1_dev_wav_partac")
    prepare.fetch_all(task, folder)
    assert manifests.open_task(task, tmp_path / "data").counts() == {
        "train": 4,
        "valid": 2,
        "test": 2,
    }


def test_voxceleb_in_two_folders_is_found(tmp_path):
    miniatures.vc1(tmp_path)
    root = tmp_path / "vox1"
    for part, speaker in (("dev", "id10001"), ("test", "id10270")):
        (root / part / "wav").mkdir(parents=True)
        (root / "wav" / speaker).rename(root / part / "wav" / speaker)
    (root / "wav").rmdir()
    task = tasks.get("vc1")
    for given in (tmp_path, root):
        assert indexing.find_root(given, task.marker) == root
    assert indexing.build(task, root).counts() == {"train": 4, "valid": 2, "test": 2}


def listing(task, address):
    """The task with its lists and tables at our server."""
    return dataclasses.replace(
        task,
        sources=tuple(
            dataclasses.replace(
                s,
                **{"url": f"{address}/{s.path}", "bytes": None, "sha256": None, "git_sha1": None},
            )
            if s.url
            else s
            for s in task.sources
        ),
    )


def test_voxforge_archives_are_fetched_and_unpacked(served, tmp_path):
    folder, address = served
    miniatures.voxforge(tmp_path / "made")
    made = tmp_path / "made/VoxForge"
    (made / "voxforge.csv").rename(folder / "voxforge.csv")
    lines = []
    for place in sorted(made.iterdir()):
        with tarfile.open(folder / f"{place.name}.tgz", "w:gz") as file:
            file.add(place, place.name)
        lines.append(f"{address.removeprefix('http://')}/{place.name}.tgz")
    (folder / "voxforge_urls.txt").write_text("\n".join([*lines, f"{lines[0]}.absent.tgz"]) + "\n")
    task = listing(tasks.get("voxforge"), address)
    prepare.fetch_all(task, tmp_path / "data/voxforge")
    manifest = manifests.open_task(task, tmp_path / "data")
    assert manifest.counts() == {"train": 4, "valid": 2, "test": 2}
    assert not list((tmp_path / "data/voxforge").glob("[!.]*.tgz"))
    for path in folder.glob("*.tgz"):
        path.unlink()
    prepare.fetch_all(task, tmp_path / "data/voxforge")  # what is unpacked is not fetched again


def test_cremad_files_are_fetched_and_checked(served, tmp_path):
    folder, address = served
    miniatures.cremad(tmp_path / "made")
    names = []
    for path in sorted((tmp_path / "made/CREMA-D-master/AudioWAV").iterdir()):
        shutil.copy(path, folder)
        names.append(f"{address}/{path.name}\t{path.stat().st_size}\t{sha256(path)}")
    (folder / "crema_d.txt").write_text("\n".join(names) + "\n")
    task = listing(tasks.get("cremad"), address)
    prepare.fetch_all(task, tmp_path / "data/cremad")
    manifest = manifests.open_task(task, tmp_path / "data")
    assert manifest.counts() == {"train": 4, "valid": 2, "test": 2}


def test_a_server_that_has_none_of_them_is_not_asked_for_all(served, tmp_path):
    folder, address = served
    lines = [f"{address}/{i}_DFA_ANG_XX.wav 10 {'0' * 64}" for i in range(500)]
    (folder / "crema_d.txt").write_text("\n".join(lines) + "\n")
    task = listing(tasks.get("cremad"), address)
    with pytest.raises(UserError) as error:
        prepare.fetch_all(task, tmp_path / "data/cremad")
    text = str(error.value)
    assert "500 of 500 files could not be had" in text
    assert "404" in text
    assert "crema-d-mirror.git" in text
