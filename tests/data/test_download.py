"""evar/data/download.py: against a server that misbehaves, and archives that mean harm."""

import hashlib
import io
import json
import multiprocessing
import re
import shutil
import struct
import subprocess
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import filelock
import numpy as np
import pytest

from evar.data import archives, download, split_files
from evar.errors import UserError
from evar.task import Source

CONTENT = np.random.default_rng(0).bytes(300_000)


class Handler(BaseHTTPRequestHandler):
    """Serves `server.content`, with Range, ETag, breaks and refusals as the test sets them."""

    def do_GET(self):
        now, asked = self.server, self.headers.get("Range")
        now.asked.append(asked)
        status = now.statuses.pop(0) if now.statuses else 200
        if status == 204:
            self.send_response(204)
            return self.end_headers()
        if status != 200:
            return self.send_error(status)
        body, matches = now.content, self.headers.get("If-Range") in (None, now.etag)
        if asked and now.ranges and (matches or now.careless):
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(body):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            body = body[start:]
        else:
            self.send_response(200)
        if now.etag:
            self.send_header("ETag", now.etag)
        if now.kind:
            self.send_header("Content-Type", now.kind)
        if now.lengths:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: now.breaks.pop(0) if now.breaks else None])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "WAIT", 0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.content, made.etag, made.ranges, made.careless, made.lengths = (
        CONTENT,
        '"a"',
        True,
        0,
        True,
    )
    made.asked, made.statuses, made.breaks, made.kind = [], [], [], ""
    made.url = f"http://127.0.0.1:{made.server_port}/clips.bin"
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def record(url=None, *, content=CONTENT, **changes) -> Source:
    known = {
        "path": "audio/clips.bin",
        "url": url,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "md5": hashlib.md5(content).hexdigest().upper(),
        "git_sha1": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
        "how": "Sign the\nlicence first.",
    }
    return Source(**known | changes)


def files(folder) -> set[str]:
    found = (p for p in Path(folder).rglob("*") if not p.is_dir() and p.suffix != ".lock")
    return {str(p.relative_to(folder)) for p in found}


def says(*words: str):
    """The context of a UserError of one line with all of these words, in this order."""
    return pytest.raises(
        UserError, match="^[^\n]*" + "[^\n]*".join(map(re.escape, words)) + "[^\n]*$"
    )


# verify


@pytest.mark.parametrize("kind", ["bytes", "sha256", "md5", "git_sha1"])
def test_verify_names_what_differs(tmp_path, kind):
    path = tmp_path / "clips.bin"
    path.write_bytes(CONTENT)
    download.verify(path, record())
    wrong = 7 if kind == "bytes" else "0" * 32
    with says(
        str(path), kind, "instead of", str(wrong), "Delete or move", "Sign the licence first."
    ):
        download.verify(path, record(**{kind: wrong}))


def test_verify_takes_weights_and_missing_files(tmp_path):
    weights = SimpleNamespace(file="a.pt", url=None, bytes=3, sha256=None, md5=None, how="Ask.")
    with says("a.pt: no such file", "3 bytes", "Ask."):
        download.verify(tmp_path / "a.pt", weights)
    (tmp_path / "a.pt").write_bytes(b"abc")
    download.verify(tmp_path / "a.pt", weights)


# fetch


def test_fetch_once(server, tmp_path):
    path = download.fetch(record(server.url), tmp_path)
    assert path == tmp_path / "audio/clips.bin"
    assert path.read_bytes() == CONTENT
    assert download.fetch(record(server.url), tmp_path) == path
    assert server.asked == [None]
    assert files(tmp_path) == {"audio/clips.bin"}


def test_two_at_once_fetch_once(server, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        fetching = [pool.submit(download.fetch, record(server.url), tmp_path) for _ in range(2)]
        paths = {future.result() for future in fetching}
    assert len(paths) == len(server.asked) == 1
    assert paths.pop().read_bytes() == CONTENT


def test_broken_download_goes_on_where_it_ended(server, tmp_path):
    server.breaks = [100_000, 50_000]
    bars = []

    def progress(*, total, initial):
        bars.append([total, initial])
        return SimpleNamespace(update=bars[-1].append, close=lambda: None)

    path = download.fetch(record(server.url), tmp_path, progress=progress)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]
    assert [bar[:2] for bar in bars] == [[300_000, 0], [300_000, 100_000], [300_000, 150_000]]
    assert sum(sum(bar[2:]) for bar in bars) == 300_000
    assert files(tmp_path) == {"audio/clips.bin"}


def test_next_call_goes_on(server, tmp_path):
    server.breaks = [1000, 1000, 1000]
    with says("3 attempts", "3000 of 300000 bytes", "continues", "By hand"):
        download.fetch(record(server.url), tmp_path)
    assert files(tmp_path) == {"audio/clips.bin.part", "audio/clips.bin.part.json"}
    download.fetch(record(server.url), tmp_path)
    assert server.asked[-1] == "bytes=3000-"
    assert files(tmp_path) == {"audio/clips.bin"}


def test_complete_part_is_not_fetched_again(server, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(download, "_difference", lambda *_: 1 / 0)  # killed before the rename
        pytest.raises(ZeroDivisionError, download.fetch, record(server.url), tmp_path)
    download.fetch(record(server.url), tmp_path)
    assert server.asked == [None]
    assert files(tmp_path) == {"audio/clips.bin"}


@pytest.mark.parametrize("etag", ['"a"', None])
def test_server_without_range(server, tmp_path, etag):
    server.ranges, server.breaks, server.etag = False, [100_000], etag
    assert download.fetch(record(server.url), tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-"]


@pytest.mark.parametrize("careless", [True, False], ids=["ignores If-Range", "obeys If-Range"])
@pytest.mark.parametrize(("etag", "size"), [('"b"', 300_000), ('"a"', 250_000), ('"b"', 500)])
def test_changed_file_starts_again(server, tmp_path, careless, etag, size):
    server.breaks = [1000] * 3
    loose = record(server.url, bytes=None)
    pytest.raises(UserError, download.fetch, loose, tmp_path)
    server.content, server.etag, server.careless = CONTENT[::-1][:size], etag, careless
    new = record(server.url, content=server.content, bytes=None)
    assert download.fetch(new, tmp_path).read_bytes() == server.content
    assert server.asked[-2 if careless or etag == '"a"' else -1] == "bytes=3000-"
    assert files(tmp_path) == {"audio/clips.bin"}


def test_part_of_unknown_origin_is_not_used(server, tmp_path):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio/clips.bin.part").write_bytes(b"something else")
    assert download.fetch(record(server.url), tmp_path).read_bytes() == CONTENT
    assert server.asked == [None]


def test_wrong_content_is_not_kept(server, tmp_path):
    with says(server.url, "not the recorded file", "sha256", "instead of", "Get clips.bin"):
        download.fetch(record(server.url, sha256="0" * 64), tmp_path)
    assert files(tmp_path) == set()


def test_wrong_length_is_refused_before_it_comes(server, tmp_path):
    with says("the server offers 300000 bytes", "the recorded file has 299999"):
        download.fetch(record(server.url, bytes=299_999), tmp_path)
    assert files(tmp_path) == set()


@pytest.mark.parametrize("size", [200_000, 400_000])
def test_truncated_or_endless_without_length(server, tmp_path, size):
    server.lengths, server.content = False, (CONTENT * 2)[:size]
    with says(f"it has {size} bytes instead of 300000"):
        download.fetch(record(server.url), tmp_path)
    assert files(tmp_path) == set()


@pytest.mark.parametrize("status", [401, 403, 404])
def test_refusal_says_what_to_do(server, tmp_path, status):
    server.statuses = [status]
    source, place = record(server.url), tmp_path / "audio/clips.bin"
    with says(
        *(f"answers {status}", f"Get clips.bin from {server.url}", f"at {place}", "300000 bytes"),
        *(source.sha256, source.md5.lower(), "Sign the licence first."),
    ):
        download.fetch(source, tmp_path)
    assert len(server.asked) == 1
    assert files(tmp_path) == set()


def test_busy_server_is_asked_again(server, tmp_path):
    server.statuses = [503, 429]
    assert download.fetch(record(server.url), tmp_path).read_bytes() == CONTENT


def test_server_that_stays_broken(server, tmp_path):
    server.statuses = [500] * 3
    with says("answers 500", "By hand"):
        download.fetch(record(server.url), tmp_path)
    assert len(server.asked) == 3


# a record without a checksum


def unknown_record(url):
    return record(url, bytes=None, sha256=None, md5=None, git_sha1=None)


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "", "application/octet-stream"])
def test_a_web_page_is_not_taken_for_a_file(kind, server, tmp_path):
    server.content, server.kind = b"<!DOCTYPE html><html>Please log in</html>", kind
    with says("clips.bin", "By hand"):
        download.fetch(unknown_record(server.url), tmp_path)
    assert not files(tmp_path)
    with says("what came is not the recorded file", "it is an HTML page"):
        download.fetch(record(server.url, bytes=None), tmp_path)


@pytest.mark.parametrize("status", [202, 204, 205])
def test_an_answer_without_the_file_is_not_taken_for_it(status, server, tmp_path):
    server.statuses = [204 if status == 204 else status]
    with says("the server answers", str(status), "By hand"):
        download.fetch(unknown_record(server.url), tmp_path)
    assert not files(tmp_path)


def test_an_empty_answer_is_not_taken_for_a_file(server, tmp_path):
    server.content = b""
    with says("what came is an empty file"):
        download.fetch(unknown_record(server.url), tmp_path)


def test_what_was_taken_is_noted_and_compared_the_next_time(server, tmp_path):
    path = download.fetch(unknown_record(server.url), tmp_path)
    note = path.with_name(".clips.bin.taken.json")
    assert json.loads(note.read_text()) == {
        "bytes": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }
    assert download.fetch(unknown_record(server.url), tmp_path) == path
    path.write_bytes(CONTENT[::-1])
    with says(str(path), "it has changed since it was fetched", str(note)):
        download.fetch(unknown_record(server.url), tmp_path)
    path.unlink()
    server.content = CONTENT[:-1]
    with says("its publisher has changed it", str(note)):
        download.fetch(unknown_record(server.url), tmp_path)
    note.unlink()
    assert download.fetch(unknown_record(server.url), tmp_path).read_bytes() == CONTENT[:-1]


@pytest.mark.parametrize("etag", [None, 'W/"a"'])
def test_no_part_is_continued_where_the_server_cannot_tell_versions_apart(etag, server, tmp_path):
    """Else a file of the same length could become a mixture of two versions."""
    server.etag, server.breaks = etag, [3000] * download.ATTEMPTS
    with pytest.raises(UserError):
        download.fetch(unknown_record(server.url), tmp_path)
    server.content = CONTENT[::-1]
    assert download.fetch(unknown_record(server.url), tmp_path).read_bytes() == CONTENT[::-1]
    assert set(server.asked) == {None}


def test_a_mixture_of_two_versions_is_fetched_again(server, tmp_path):
    server.etag, server.breaks = None, [3000] * download.ATTEMPTS
    server.content = b"older" + CONTENT[5:]
    with pytest.raises(UserError):
        download.fetch(record(server.url), tmp_path)
    server.content = CONTENT
    assert download.fetch(record(server.url), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("limit", ["MAX_BYTES", "free"])
@pytest.mark.parametrize("lengths", [True, False])
def test_every_fetch_has_a_limit(limit, lengths, server, tmp_path, monkeypatch):
    server.lengths = lengths
    if limit == "free":
        if not lengths:
            return
        usage = SimpleNamespace(free=1000)
        monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    else:
        monkeypatch.setattr(download, "MAX_BYTES", 1000)
    with says("clips.bin", "1,000" if limit == "free" or not lengths else "300,000"):
        download.fetch(unknown_record(server.url), tmp_path)
    assert not (tmp_path / "audio/clips.bin").exists()


def test_no_step_from_https_down_to_http():
    handler, request = download._Redirects(), download.web.Request("https://a.org/x")
    with says("https://a.org/x: redirects to http://b.org/x, without encryption"):
        handler.redirect_request(request, None, 302, "", {}, "http://b.org/x")
    followed = handler.redirect_request(request, None, 302, "", {}, "https://b.org/x")
    assert followed.full_url == "https://b.org/x"


def test_record_without_address(tmp_path):
    with says("no open address", "Get clips.bin and put it at", "sha256", "Sign the licence"):
        download.fetch(record(), tmp_path)


def test_present_file_that_differs_is_left_alone(server, tmp_path):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio/clips.bin").write_bytes(b"mine")
    with says("clips.bin: it has 4 bytes instead of 300000"):
        download.fetch(record(server.url), tmp_path)
    assert (tmp_path / "audio/clips.bin").read_bytes() == b"mine"


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://a.example/b", "/etc/hostname"])
def test_other_addresses_are_refused(tmp_path, url):
    with says(url, "only http and https"):
        download.fetch(record(url), tmp_path)
    assert files(tmp_path) == set()


@pytest.mark.parametrize("place", ["../a", "/a", "a/../../b"])
def test_place_outside_is_refused(tmp_path, place):
    with says("unsafe path"):
        download.fetch(record("http://127.0.0.1:1/a", path=place), tmp_path)


# extract

GOOD = {"wav/a.wav": b"a" * 2000, "wav/b.wav": b"b", "meta.csv": b"file\n", "wav/deep/er/c": b""}


def zipped(path, members) -> Path:
    """Write a zip; a value is the content, or a member's external attributes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if isinstance(content, int):
                info.external_attr, content = content << 16, b"/etc/hostname"
            file.writestr(info, content)
    return path


def tarred(path, members) -> Path:
    """Write a tar; a value is the content, or the type of a link or device."""
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, int):
                info.type, info.linkname, content = b"%d" % content, "/etc/hostname", b""
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def archived(path, members) -> Path:
    return (zipped if path.suffix == ".zip" else tarred)(path, members)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.TGZ"])
def test_extract(tmp_path, name):
    archive, folder = archived(tmp_path / name.lower(), GOOD), tmp_path / "data"
    archive = archive.rename(tmp_path / name)
    (folder / "wav").mkdir(parents=True)
    (folder / "wav/z.wav").write_bytes(b"there before")
    (folder / f".extracting-{name}").mkdir()
    (folder / f".extracting-{name}/rest").write_bytes(b"of an interrupted call")
    archives.extract(archive, folder)
    assert files(folder) == {*GOOD, "wav/z.wav", f".extracted-{name}"}
    assert all((folder / each).read_bytes() == content for each, content in GOOD.items())

    before = (folder / "meta.csv").stat().st_mtime_ns
    archives.extract(archive, folder)  # the marker says that all is done
    assert (folder / "meta.csv").stat().st_mtime_ns == before
    (folder / "meta.csv").unlink()
    archives.extract(archive, folder)  # the marker lists a file that is gone
    assert files(folder) == {*GOOD, "wav/z.wav", f".extracted-{name}"}
    archived(archive, {**GOOD, "new": b""}) if name != "a.TGZ" else archive.touch()
    archives.extract(archive, folder)
    assert (folder / "meta.csv").exists()


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
@pytest.mark.parametrize("bad", ["../out", "/nowhere/out", "a/../../out", "..\\out", "C:\\out"])
def test_unsafe_paths(tmp_path, name, bad):
    archive = archived(tmp_path / name, {"good": b"", bad: b"harm"})
    with says(name, "unsafe path"):
        archives.extract(archive, tmp_path / "in/data")
    assert files(tmp_path) == {name}
    assert not Path("/nowhere/out").exists()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.zip", 0o120777),  # symbolic link
        ("a.zip", 0o020666),  # device
        ("a.tar", 1),  # hard link
        ("a.tar", 2),  # symbolic link
        ("a.tgz", 3),  # character device
        ("a.tgz", 4),  # block device
        ("a.tar", 6),  # pipe
    ],
)
def test_links_and_devices(tmp_path, name, kind):
    archive = archived(tmp_path / name, {"good": b"", "odd": kind, "odd/more": b"harm"})
    with says("'odd' is a link or a device"):
        archives.extract(archive, tmp_path / "data")
    assert files(tmp_path) == {name}


@pytest.mark.parametrize("name", ["a.zip", "a.tgz"])
def test_limits(tmp_path, name):
    archive, total = archived(tmp_path / name, GOOD), sum(map(len, GOOD.values()))
    with says(f"more than {total - 1} bytes"):
        archives.extract(archive, tmp_path / "data", max_bytes=total - 1)
    with says("more than 3 files"):
        archives.extract(archive, tmp_path / "data", max_files=3)
    assert files(tmp_path) == {name}
    archives.extract(archive, tmp_path / "data", max_files=4, max_bytes=total)


def test_size_in_a_zip_header_is_not_trusted(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"a": bytes(10**6)})
    archive.write_bytes(archive.read_bytes().replace(struct.pack("<I", 10**6), b"\1\0\0\0"))
    with says("a.zip", "cannot unpack"):
        archives.extract(archive, tmp_path / "data", max_bytes=100)
    assert files(tmp_path) == {"a.zip"}


def test_header_of_a_tar_cannot_fill_the_memory(tmp_path):
    info = tarfile.TarInfo("long")
    info.type, info.size = tarfile.XHDTYPE, 2**32
    (tmp_path / "a.tar").write_bytes(info.tobuf() + bytes(10240))
    with says("a header claims"):
        archives.extract(tmp_path / "a.tar", tmp_path / "data")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
def test_damaged(tmp_path, name):
    whole = archived(tmp_path / name, {"a": CONTENT, "b": CONTENT}).read_bytes()
    for content in (b"", b"no archive", whole[:100_000], whole[: len(whole) // 2 + 300]):
        (tmp_path / name).write_bytes(content)
        with says(name, "cannot unpack", "fetch it again"):
            archives.extract(tmp_path / name, tmp_path / "data")
        assert files(tmp_path) == {name}


def test_broken_header_in_the_middle_of_a_tar(tmp_path):
    content = bytearray(tarred(tmp_path / "a.tar", {"a": b"", "b": b"", "c": b""}).read_bytes())
    content[512:600] = b"x" * 88
    (tmp_path / "a.tar").write_bytes(content)
    with says("it ends too early"):
        archives.extract(tmp_path / "a.tar", tmp_path / "data")


def test_every_flipped_bit_of_a_tgz_is_noticed_or_harmless(tmp_path):
    """The checksum of a gzip stands behind the end of the tar in it."""
    archive = tarred(tmp_path / "a.tgz", {"f": np.random.default_rng(1).bytes(3000)})
    content, rng, refused = archive.read_bytes(), np.random.default_rng(2), 0
    for at in [*rng.integers(12, len(content), 60), -1, -5, -8]:
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        archive.write_bytes(damaged)
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        try:
            archives.extract(archive, tmp_path / "data")
        except UserError:
            refused += 1
    assert refused == 63


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_in_other_compressions_of_a_zip(method, tmp_path):
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", method) as file:
        file.writestr("f", CONTENT[:20_000])
    content = bytearray(archive.read_bytes())
    content[5000:5020] = bytes(20)
    archive.write_bytes(content)
    with says("a.zip: cannot unpack", "fetch it again"):
        archives.extract(archive, tmp_path / "data")


def test_a_sparse_member_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        info = tarfile.TarInfo("f")
        info.type = tarfile.GNUTYPE_SPARSE
        file.addfile(info)
    with says("a.tar: cannot unpack"):
        archives.extract(tmp_path / "a.tar", tmp_path / "data")


def test_what_comes_out_is_limited_by_the_size_of_the_archive(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_LEAST_BYTES", 1000)
    zipped(tmp_path / "bomb.zip", {"zeros": bytes(10_000_000)})
    with says("bomb.zip: holds more than", "is it the right file?"):
        archives.extract(tmp_path / "bomb.zip", tmp_path / "data")


def _unpack_many(archive, folder, barrier):
    barrier.wait()
    archives.extract(archive, folder)


def test_processes_that_unpack_one_archive_wait_for_one_another(tmp_path):
    members = {f"d{i % 7}/f{i}": CONTENT[i : i + 50] for i in range(400)}
    archive, folder = zipped(tmp_path / "a.zip", members), tmp_path / "data"
    context = multiprocessing.get_context("fork")
    for _ in range(3):
        shutil.rmtree(folder, ignore_errors=True)
        barrier = context.Barrier(3)
        several = [
            context.Process(target=_unpack_many, args=(archive, folder, barrier)) for _ in range(3)
        ]
        for each in several:
            each.start()
        for each in several:
            each.join()
        assert [each.exitcode for each in several] == [0, 0, 0]
        assert files(folder) == {*members, ".extracted-a.zip"}
        assert archives.is_extracted("a.zip", folder, archive)
    (folder / "d0/f0").write_bytes(b"cut")
    assert not archives.is_extracted("a.zip", folder)


def test_what_a_killed_process_unpacked_of_another_archive_is_removed(tmp_path):
    archive, folder = zipped(tmp_path / "a.zip", GOOD), tmp_path / "data"
    for name in ("dead.zip", "busy.zip"):
        (folder / f".extracting-{name}").mkdir(parents=True)
    with filelock.FileLock(folder / ".extracting-busy.zip.lock"):
        archives.extract(archive, folder)
    assert not (folder / ".extracting-dead.zip").exists()
    assert (folder / ".extracting-busy.zip").exists()


def test_nothing_goes_through_a_link_or_onto_a_folder(tmp_path):
    archive, folder = zipped(tmp_path / "a.zip", GOOD), tmp_path / "data"
    (tmp_path / "elsewhere").mkdir()
    folder.mkdir()
    (folder / "wav").symlink_to(tmp_path / "elsewhere")
    with says("wav: in the way"):
        archives.extract(archive, folder)
    (folder / "wav").unlink()
    (folder / "meta.csv").mkdir()
    with says("meta.csv: in the way"):
        archives.extract(archive, folder)
    assert files(tmp_path) == {"a.zip"}


@pytest.mark.parametrize("name", ["a.rar", "a.tar.bz2", "a.gz"])
def test_other_archives(tmp_path, name):
    (tmp_path / name).touch()
    with says(name, "by hand"):
        archives.extract(tmp_path / name, tmp_path / "data")
    with says("no such archive"):
        archives.extract(tmp_path / "b.zip", tmp_path / "data")


# join_parts


def test_join_parts(tmp_path):
    parts = [tmp_path / f"a_part{letter}" for letter in "abc"]
    for i, part in enumerate(parts):
        part.write_bytes(CONTENT[i * 100_000 : (i + 1) * 100_000])
    split_files.join_parts(parts, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    before = (tmp_path / "a.zip").stat().st_ino
    split_files.join_parts(parts, tmp_path / "a.zip")
    assert (tmp_path / "a.zip").stat().st_ino == before
    with says("b.zip: parts are missing", "a_partd"):
        split_files.join_parts([*parts, tmp_path / "a_partd"], tmp_path / "b.zip")
    with says("parts are missing"):
        split_files.join_parts([], tmp_path / "b.zip")
    assert files(tmp_path) == {"a.zip", *(part.name for part in parts)}


# join_split_zip

MEMBERS = {f"FSD50K/{i}.wav": CONTENT[i * 1000 : i * 1000 + 40 * i] for i in range(60)}


def split(path: Path, count: int, *, zip64=False, large_sizes=False) -> list[Path]:
    """Cut an ordinary zip into `count` parts, as the format says: with disk numbers."""
    data = b"PK\7\x08" + path.read_bytes()
    end = data.rfind(b"PK\5\6")
    _, _, _, entries, size, begin, _ = struct.unpack_from("<4H2IH", data, end + 4)
    begin += 4
    # The last cut is inside the directory.
    cuts = [round(i * (begin + size // 2) / (count - 1)) for i in range(count)] + [len(data)]

    def place(offset):
        disk = max(i for i in range(count) if cuts[i] <= offset)
        return disk, offset - cuts[disk]

    listing, at = b"", begin
    while at < begin + size:
        fields = list(struct.unpack_from("<4s6H3I5H2I", data, at))
        name = data[at + 46 : at + 46 + fields[10]]
        disk, offset = place(fields[16] + 4)
        extra, fields[13], fields[16] = b"", disk, offset
        if zip64:
            extra = struct.pack("<QI", offset, disk)
            fields[13], fields[16] = 0xFFFF, 0xFFFFFFFF
        if large_sizes:
            extra = struct.pack("<2Q", fields[9], fields[8]) + extra
            fields[8] = fields[9] = 0xFFFFFFFF
        at += 46 + fields[10] + fields[11] + fields[12]
        extra = struct.pack("<2H", 1, len(extra)) + extra if extra else b""
        extra = b"\x99\x99\2\0ab" + extra  # a field of somebody else, which must stay
        fields[11] = len(extra)
        listing += struct.pack("<4s6H3I5H2I", *fields) + name + extra
    disk, offset = place(begin)
    last = count - 1
    tail = struct.pack("<4H2IH", last, disk, entries, entries, len(listing), offset, 5) + b"hello"
    if zip64:
        record = (44, 45, 45, last, disk, entries, entries, len(listing), offset)
        tail = struct.pack("<4H2IH", *[0xFFFF] * 4, *[0xFFFFFFFF] * 2, 5) + b"hello"
        tail = struct.pack("<IQI", last, 0, count) + b"PK\5\6" + tail
        tail = b"PK\6\6" + struct.pack("<Q2H2I4Q", *record) + b"PK\6\7" + tail
    else:
        tail = b"PK\5\6" + tail
    data, cuts[-1] = data[:begin] + listing + tail, None
    names = [path.with_suffix(f".z{i:02d}") for i in range(1, count)] + [path]
    for i, name in enumerate(names):
        name.write_bytes(data[cuts[i] : cuts[i + 1]])
    return names


def same_members(path: Path) -> bool:
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        return {info.filename: file.read(info) for info in file.infolist()} == MEMBERS


@pytest.mark.parametrize("count", [2, 3, 12])
@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize("large_sizes", [False, True])
@pytest.mark.parametrize("limit", [2**32 - 1, 20_000, 0])
def test_split_zip(tmp_path, monkeypatch, count, zip64, large_sizes, limit):
    path = zipped(tmp_path / "dev.audio.zip", MEMBERS)
    split(path, count, zip64=zip64, large_sizes=large_sizes)
    monkeypatch.setattr(split_files, "ZIP64_FROM", limit)  # as if 4 GiB were fewer bytes
    whole = split_files.join_split_zip(tmp_path, "dev.audio")
    assert whole == tmp_path / "dev.audio.unsplit.zip"
    assert same_members(whole)
    assert (b"PK\6\6" in whole.read_bytes()) == (limit < 2**32 - 1)
    with zipfile.ZipFile(whole) as file:
        assert file.comment == b"hello"
        assert all(b"\x99\x99\2\0ab" in info.extra for info in file.infolist())
    before = whole.stat().st_ino
    assert split_files.join_split_zip(tmp_path, "dev.audio").stat().st_ino == before
    archives.extract(whole, tmp_path / "data")
    assert files(tmp_path / "data") == {*MEMBERS, ".extracted-dev.audio.unsplit.zip"}


@pytest.mark.skipif(not shutil.which("zip"), reason="needs Info-ZIP")
def test_split_zip_of_info_zip(tmp_path):
    for name, content in MEMBERS.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if name != "FSD50K/7.wav" else CONTENT)
    command = ["zip", "-q", "-r", "-D", "-s", "64k", "../dev.zip", "FSD50K"]
    subprocess.run(command, cwd=tmp_path / "in", check=True)
    assert (tmp_path / "dev.z02").exists()
    whole = split_files.join_split_zip(tmp_path, "dev")
    with zipfile.ZipFile(whole) as file:
        assert {i.filename: file.read(i) for i in file.infolist()} == {
            **MEMBERS,
            "FSD50K/7.wav": CONTENT,
        }
    subprocess.run(["zip", "-q", "-T", whole], check=True)


def test_split_zip_in_bad_shape(tmp_path):
    path = zipped(tmp_path / "dev.zip", MEMBERS)
    assert split_files.join_split_zip(tmp_path, "dev") == path  # was never split
    parts = split(path, 3)
    parts[1].rename(tmp_path / "away")
    with says("dev.unsplit.zip: parts are missing", "dev.z02"):
        split_files.join_split_zip(tmp_path, "dev")
    (tmp_path / "away").rename(parts[1])
    parts[1].write_bytes(parts[1].read_bytes()[:-10])
    with says("dev.zip: not a split zip archive, or damaged"):
        split_files.join_split_zip(tmp_path, "dev")
    path.write_bytes(b"nothing like it")
    with says("dev.zip: not a split zip archive, or damaged", "no end record"):
        split_files.join_split_zip(tmp_path, "dev")
    assert files(tmp_path) == {part.name for part in parts}
