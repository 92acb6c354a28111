"""Fetching published files, checking them against their record, and unpacking them safely.

A record is an `evar.task.Source` or an `evar.models.Weights`: whatever has `url`, `bytes`,
`sha256`, `md5`, `how`, a `path` or `file`, and perhaps `git_sha1`.
"""

import gzip
import hashlib
import json
import os
import re
import shutil
import stat
import struct
import tarfile
import time
import urllib.request as web
import zipfile
import zlib
from contextlib import closing, contextmanager
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

from evar.errors import UserError
from evar.files import canonical_json, make_folder, write_atomic, writing

CHUNK = 2**20  # bytes moved at a time
ATTEMPTS = 3
WAIT = 2.0  # seconds before the second attempt; twice that before the third
TIMEOUT = 60  # seconds of silence after which a connection counts as dropped
HEADER_BYTES = 2**24  # the most that one header of a tar file may hold
FULL_16, FULL_32 = 0xFFFF, 0xFFFFFFFF  # in a zip: the value is in a ZIP64 field
ZIP64_FROM = FULL_32  # offsets from here on are written into ZIP64 fields


def instructions(source, folder) -> str:
    """One line: what to get, from where, where to put it, what its checksum must be, and how."""
    return _instructions(source, _target(source, folder))


def verify(path, source) -> None:
    """Compare a file with the size and the checksums that its record names.

    Raises UserError where the file is missing or differs.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file. {_instructions(source, path)}")
    if differs := _difference(path, source):
        raise UserError(
            f"{path}: {differs}. Delete or move the file, then get it again. "
            f"{_instructions(source, path)}"
        )


def fetch(source, folder, *, progress=None) -> Path:
    """Download one file to its place below `folder`, verified; returns that path.

    A file that is there already is verified and kept. A broken download is resumed, by the next
    attempt or the next call. `progress(total=, initial=)` makes a bar with `update(bytes)` and
    `close()`; without it tqdm shows one on terminals.

    Raises UserError where the record has no http(s) address, the server refuses or keeps dropping
    the connection, what came is not the recorded file, or the folder is not writable.
    """
    target = _target(source, folder)
    if target.exists():
        verify(target, source)
        return target
    if not source.url:
        raise UserError(
            f"{target}: no open address to fetch it from. {instructions(source, folder)}"
        )
    if urlsplit(source.url).scheme.lower() not in ("http", "https"):
        raise UserError(f"{source.url}: only http and https addresses are fetched; mend the record")
    make_folder(target.parent)
    part, note = _part(target)
    _persist(source, target, progress)
    if differs := _difference(part, source):
        _discard(target)
        raise UserError(
            f"{source.url}: what came is not the recorded file ({differs}); it was deleted. Try "
            f"again, or by hand: {instructions(source, folder)}"
        )
    with writing(target):
        part.replace(target)
    note.unlink(missing_ok=True)
    return target


def extract(archive, folder, *, max_bytes=2**40, max_files=2_000_000) -> None:
    """Unpack a zip, tar, tar.gz or tgz file into `folder`, which a second call finds done.

    Only plain files and folders below `folder` are accepted, and the limits hold for what really
    comes out. All is unpacked aside first, in a folder on the same disk; existing folders are
    added to, files of the same name replaced.

    Raises UserError, with `folder` as it was, for an archive that is unsafe, damaged or too large.
    """
    archive, folder = Path(archive), make_folder(folder)
    if not archive.is_file():
        raise UserError(f"{archive}: no such archive; fetch it first")
    state = archive.stat()
    done = canonical_json({"bytes": state.st_size, "mtime_ns": state.st_mtime_ns})
    marker, aside = (folder / f".{kind}-{archive.name}" for kind in ("extracted", "extracting"))
    if marker.is_file() and marker.read_text() == done:
        return
    with writing(folder):
        _remove_tree(aside)
        aside.mkdir()
    try:
        _unpack(archive, aside, max_bytes, max_files)
        _check_mergeable(aside, folder)
        with writing(folder):
            _merge(aside, folder)
    finally:
        _remove_tree(aside)
    write_atomic(marker, done)


def join_parts(parts, target) -> None:
    """Concatenate the parts of a split file, in the given order, into `target`.

    A target of the right size that is newer than its parts is kept. Raises UserError where a part
    is missing or the target cannot be written.
    """
    parts, target = [Path(part) for part in parts], Path(target)
    _require_parts(parts, target)
    if _newer(target, parts) and target.stat().st_size == sum(p.stat().st_size for p in parts):
        return
    with _whole(target) as out:
        _copy_parts(parts, out)


def join_split_zip(folder, name: str) -> Path:
    """Turn `name`.z01, `name`.z02, ..., `name`.zip into the ordinary `name`.unsplit.zip.

    Returns its path, or that of `name`.zip where that is an ordinary archive already. Raises
    UserError where a part is missing or the archive is damaged.
    """
    folder = Path(folder)
    last, target = folder / f"{name}.zip", folder / f"{name}.unsplit.zip"
    _require_parts([last], target)
    try:
        end = _ZipEnd(last)
        if end.disk == 0:
            return last
        parts = [folder / f"{name}.z{i:02d}" for i in range(1, end.disk + 1)] + [last]
        _require_parts(parts, target)
        if not _newer(target, parts):
            _join_zip(parts, end, target)
    except (struct.error, ValueError, IndexError) as error:
        raise UserError(
            f"{last}: not a split zip archive, or damaged ({error}). Fetch its parts again."
        ) from error
    return target


# What is said about a record


def _target(source, folder) -> Path:
    """Where a record's file belongs; UserError where that is not below the folder."""
    name = getattr(source, "path", None) or source.file
    return Path(folder).joinpath(*_safe_parts(name, "the record"))


def _instructions(source, target: Path) -> str:
    expected = [f"{source.bytes} bytes"] if source.bytes is not None else []
    expected += [f"{kind} {value}" for kind, value in _checksums(source).items()]
    text = f"Get {target.name}" + (f" from {source.url}" if source.url else "")
    text += f" and put it at {target} ({', '.join(expected) or 'no checksum is on record'})."
    return " ".join(f"{text} {source.how}".split())


def _checksums(source) -> dict[str, str]:
    kinds = ("sha256", "md5", "git_sha1")
    return {kind: value.lower() for kind in kinds if (value := getattr(source, kind, None))}


def _difference(path: Path, source) -> str:
    """How a file differs from its record; empty where it does not."""
    size, wanted = path.stat().st_size, _checksums(source)
    if source.bytes is not None and size != source.bytes:
        return f"it has {size} bytes instead of {source.bytes}"
    hashes = {
        kind: hashlib.new(kind.removeprefix("git_"), usedforsecurity=False) for kind in wanted
    }
    if "git_sha1" in hashes:
        hashes["git_sha1"].update(b"blob %d\0" % size)
    with path.open("rb") as file:
        while hashes and (chunk := file.read(CHUNK)):
            for each in hashes.values():
                each.update(chunk)
    found = {kind: each.hexdigest() for kind, each in hashes.items()}
    wrong = [kind for kind in wanted if found[kind] != wanted[kind]]
    return ", ".join(f"its {kind} is {found[kind]} instead of {wanted[kind]}" for kind in wrong)


# Downloading


def _part(target: Path) -> tuple[Path, Path]:
    """The unfinished file, and the note on which version of the file it is a part of."""
    return target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json")


def _discard(target: Path) -> None:
    for path in _part(target):
        path.unlink(missing_ok=True)


def _persist(source, target: Path, progress) -> None:
    """Download into the part file, in several attempts; UserError when all have failed."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _transfer(source, target, progress)
        except HTTPError as error:
            error.close()
            problem = f"the server answers {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 429):
                remedy = "By hand: "
                break
        except (HTTPException, OSError) as error:
            problem = f"no success in {ATTEMPTS} attempts ({error or type(error).__name__})"
        remedy = "The same command goes on where this one ended. By hand: "
        if attempt < ATTEMPTS:
            time.sleep(WAIT * attempt)
    raise UserError(f"{source.url}: {problem}. {remedy}{_instructions(source, target)}")


def _transfer(source, target: Path, progress) -> None:
    """One attempt. Raises HTTPException or OSError where the connection drops."""
    part, note = _part(target)
    known = _read_note(part, note, source.url)
    start = part.stat().st_size if known else 0  # bytes
    if start and start == known["length"]:
        return
    try:
        response = _open(source.url, start, known)
    except HTTPError as error:
        if not (start and error.code == 416):  # 416: the file has become shorter than our part
            raise
        error.close()
        _discard(target)
        return _transfer(source, target, progress)
    with closing(response):
        if start and response.status == 206:
            if not _continues(response, start, known):
                _discard(target)
                return _transfer(source, target, progress)
            length = known["length"]
        else:
            start, length = 0, _number(response.headers.get("Content-Length"))
            _begin(response, length, source, target)
        _receive(response, start, length, source, part, progress)


def _begin(response, length, source, target: Path) -> None:
    """Note what is about to come; UserError where it cannot be the recorded file."""
    _discard(target)
    if None not in (length, source.bytes) and length != source.bytes:
        raise UserError(
            f"{source.url}: the server offers {length} bytes, the recorded file has {source.bytes}."
            f" By hand: {_instructions(source, target)}"
        )
    note = {"url": source.url, "etag": response.headers.get("ETag"), "length": length}
    write_atomic(_part(target)[1], canonical_json(note))


def _receive(response, received: int, length, source, part: Path, progress) -> None:
    """Append what comes to the part file; ConnectionError where it ends early."""
    progress = progress or _bar(part.name.removesuffix(".part"))
    with closing(progress(total=length or source.bytes, initial=received)) as bar:
        with writing(part):
            file = part.open("ab")
        with file:
            while chunk := response.read(CHUNK):
                with writing(part):
                    file.write(chunk)
                    file.flush()
                bar.update(len(chunk))
                received += len(chunk)
                if source.bytes is not None and received > source.bytes:
                    return  # never the recorded file; without a length it might never end
            with writing(part):
                os.fsync(file.fileno())
    if length is not None and received < length:
        raise ConnectionError(f"connection closed after {received} of {length} bytes")


def _bar(name: str):
    from functools import partial

    from tqdm import tqdm

    return partial(tqdm, desc=name, unit="B", unit_scale=True, disable=None)  # None: terminals only


def _read_note(part: Path, note: Path, url: str) -> dict:
    """What is known of an unfinished download; empty where it must start again."""
    try:
        known = json.loads(note.read_text())
        usable = part.is_file() and known["url"] == url and (known["etag"] or known["length"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}
    return known if usable else {}


def _open(url: str, start: int, known: dict):
    """Ask for a file from byte `start` on. Raises HTTPError, HTTPException or OSError."""
    opener = web.OpenerDirector()  # build_opener would also follow redirections to ftp
    for handler in (
        *(web.ProxyHandler, web.HTTPHandler, web.HTTPSHandler, web.UnknownHandler),
        *(web.HTTPRedirectHandler, web.HTTPDefaultErrorHandler, web.HTTPErrorProcessor),
    ):
        opener.add_handler(handler())
    headers = {"User-Agent": "evar", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if known["etag"] and not known["etag"].startswith("W/"):  # weak tags are not allowed there
            headers["If-Range"] = known["etag"]
    return opener.open(web.Request(url, headers=headers), timeout=TIMEOUT)


def _continues(response, start: int, known: dict) -> bool:
    """Whether a partial answer is the rest of the very file that was begun."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    same = response.headers.get("ETag", known["etag"]) == known["etag"]
    return bool(found and same and int(found[1]) == start and _number(found[2]) == known["length"])


def _number(text) -> int | None:
    return int(text) if text and text.isdigit() else None


# Unpacking


def _safe_parts(name: str, where) -> list[str]:
    """The parts of a relative path; UserError where it leads anywhere but down."""
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or re.match("[A-Za-z]:", name) or ".." in parts or "\0" in name:
        raise UserError(f"{where}: unsafe path {name!r}; get the file from its publisher")
    return [part for part in parts if part not in ("", ".")]


def _unpack(archive: Path, aside: Path, max_bytes: int, max_files: int) -> None:
    """Write all members below `aside`; UserError for unsafe, damaged or too large archives."""
    count = total = 0
    try:
        for name, content in _members(archive):
            count += 1
            if count > max_files:
                raise UserError(
                    f"{archive}: more than {max_files} files; get it from its publisher"
                )
            path = aside.joinpath(*_safe_parts(name, archive))
            if content is None:
                make_folder(path)
                continue
            make_folder(path.parent)
            for size in _save(content, path):
                total += size
                if total > max_bytes:
                    raise UserError(
                        f"{archive}: holds more than {max_bytes} bytes; is it the right file?"
                    )
    except (
        *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError),
        *(NotImplementedError, RuntimeError, struct.error),  # zipfile: methods, passwords, fields
    ) as error:
        raise UserError(
            f"{archive}: cannot unpack ({error}). Delete it and fetch it again."
        ) from error


def _save(content, path: Path):
    """Write a stream to a file; yields the size of each chunk before it is written."""
    with content:
        with writing(path):
            file = path.open("wb")
        with file:
            while chunk := content.read(CHUNK):
                yield len(chunk)
                with writing(path):
                    file.write(chunk)
                    file.flush()


def _members(archive: Path):
    """Yield name and stream of each file, name and None of each folder; UserError for the rest."""
    name = archive.name.lower()
    if name.endswith(".zip"):
        return _zip_members(archive)
    if name.endswith(".tar"):
        return _tar_members(archive, open)
    if name.endswith((".tar.gz", ".tgz")):
        return _tar_members(archive, gzip.open)
    raise UserError(f"{archive}: not a zip, tar, tar.gz or tgz file; unpack it by hand")


def _zip_members(archive: Path):
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _odd_member(archive, info.filename)
            folder = info.filename.endswith(("/", "\\"))  # some tools on Windows write the latter
            yield info.filename, None if folder else file.open(info)


def _tar_members(archive: Path, opener):
    with opener(archive, "rb") as raw:
        guarded = _Guarded(raw, archive)
        with tarfile.open(fileobj=guarded, mode="r:") as file:
            for info in file:
                if not (info.isreg() or info.isdir()):
                    raise _odd_member(archive, info.name)
                yield info.name, None if info.isdir() else file.extractfile(info)
        if guarded.latest != bytes(tarfile.BLOCKSIZE):  # tarfile takes a broken header for the end
            raise tarfile.ReadError("it ends too early")


def _odd_member(archive: Path, name: str) -> UserError:
    return UserError(
        f"{archive}: {name!r} is a link or a device, and only files and folders are unpacked; "
        "get the archive from its publisher"
    )


class _Guarded:
    """A stream for tarfile, which would read a header of any claimed size into memory."""

    def __init__(self, file, archive: Path):
        self.file, self.archive, self.latest = file, archive, b""
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= HEADER_BYTES:
            raise UserError(
                f"{self.archive}: a header claims {size} bytes; fetch the archive again"
            )
        self.latest = self.file.read(size)
        return self.latest


def _check_mergeable(aside: Path, folder: Path) -> None:
    """UserError where a file would replace a folder, or the reverse, or go through a link."""
    for new in aside.iterdir():
        old = folder / new.name
        if old.is_symlink() or (old.exists() and old.is_dir() != new.is_dir()):
            raise UserError(f"{old}: in the way of what is unpacked there; move it away")
        if old.exists() and new.is_dir():
            _check_mergeable(new, old)


def _merge(aside: Path, folder: Path) -> None:
    """Move every entry into place; folders that exist are added to."""
    for new in sorted(aside.iterdir()):
        old = folder / new.name
        if new.is_dir() and old.is_dir():
            _merge(new, old)
        else:
            new.replace(old)


def _remove_tree(folder: Path) -> None:
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)


# Joining


def _require_parts(parts: list[Path], target: Path) -> None:
    missing = [str(part) for part in parts if not part.is_file()]
    if missing or not parts:
        raise UserError(
            f"{target}: parts are missing: {', '.join(missing) or 'all'}. Fetch them first."
        )


def _newer(target: Path, parts: list[Path]) -> bool:
    newest = max(part.stat().st_mtime_ns for part in parts)
    return target.is_file() and target.stat().st_mtime_ns >= newest


@contextmanager
def _whole(target: Path):
    """A file to write `target` to, which appears under that name only when it is complete."""
    temporary = target.with_name(f".{target.name}.joining")
    make_folder(target.parent)
    try:
        with writing(target):
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _copy_parts(parts: list[Path], out, start: int = 0, stop: int | None = None) -> None:
    """Write bytes `start` to `stop` (None: the end) of the concatenated parts to a file."""
    for part in parts:
        size = part.stat().st_size
        with part.open("rb") as file:
            file.seek(min(start, size))
            left = (size if stop is None else min(stop, size)) - file.tell()
            while left > 0 and (chunk := file.read(min(CHUNK, left))):
                out.write(chunk)
                left -= len(chunk)
        start, stop = max(0, start - size), None if stop is None else max(0, stop - size)


class _ZipEnd:
    """What the end records of a zip say: APPNOTE.TXT 4.3.14 to 4.3.16.

    `disk`: number of the last part, from 0; `folder_disk`, `folder_offset`, `folder_bytes`: where
    the central directory is; `entries`: its length. Raises ValueError where there is no end record.
    """

    def __init__(self, last: Path):
        with last.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 22 - FULL_16 - 20))  # comment and ZIP64 locator at most
            tail = file.read()
            at = tail.rfind(b"PK\5\6")
            if at < 0:
                raise ValueError("no end record")
            fields = struct.unpack_from("<4H2IH", tail, at + 4)
            self.comment = tail[at + 22 : at + 22 + fields[6]]
            if at >= 20 and tail[at - 20 : at - 16] == b"PK\6\7":
                # The ZIP64 end record is directly before its locator, in the last part.
                file.seek(max(0, size - len(tail) + at - 20 - 56))
                record = file.read(56)
                if record[:4] != b"PK\6\6":
                    raise ValueError("no ZIP64 end record")
                fields = struct.unpack_from("<2I4Q", record, 16)
        self.disk, self.folder_disk, _, self.entries, self.folder_bytes, self.folder_offset = (
            fields[:6]
        )


def _join_zip(parts: list[Path], end: _ZipEnd, target: Path) -> None:
    """Write the parts as one archive. Raises ValueError where the directory makes no sense."""
    with parts[0].open("rb") as file:
        # A split archive begins with a signature of its own, which the offsets include.
        drop = 4 if file.read(4) in (b"PK\7\x08", b"PK00") else 0
    starts = [-drop]  # of each part, in the joined file
    for part in parts[:-1]:
        starts.append(starts[-1] + part.stat().st_size)
    begin = starts[end.folder_disk] + end.folder_offset
    listing = BytesIO()
    _copy_parts(parts, listing, begin + drop, begin + drop + end.folder_bytes)
    entries = b"".join(_entries(listing.getvalue(), end.entries, starts))
    with _whole(target) as out:
        _copy_parts(parts, out, drop, begin + drop)
        out.write(entries + _end_records(end, begin, len(entries)))


def _entries(listing: bytes, count: int, starts: list[int]):
    """Yield the central directory (APPNOTE.TXT 4.3.12) with offsets in the joined file."""
    at = 0
    for _ in range(count):
        if listing[at : at + 4] != b"PK\1\2":
            raise ValueError("broken central directory")
        fields = list(struct.unpack_from("<4s6H3I5H2I", listing, at))
        name, extra, comment = fields[10:13]
        cuts = (at + 46, at + 46 + name, at + 46 + name + extra, at + 46 + name + extra + comment)
        name, extra, comment = (listing[a:b] for a, b in zip(cuts, cuts[1:], strict=False))
        large, extra = _split_extra(extra)
        # ZIP64 values come in this order, each only where its usual field is full (4.5.3).
        sizes = b"".join(_take(large, 8) for i in (9, 8) if fields[i] == FULL_32)
        offset = _value(fields[16], FULL_32, large, 8)
        offset += starts[_value(fields[13], FULL_16, large, 4)]
        fields[13], fields[16] = 0, min(offset, FULL_32)
        if offset >= ZIP64_FROM:
            sizes, fields[16] = sizes + struct.pack("<Q", offset), FULL_32
        if sizes:
            extra = struct.pack("<2H", 1, len(sizes)) + sizes + extra
            fields[2] = max(fields[2], 45)  # the version that understands ZIP64
        fields[11] = len(extra)
        yield struct.pack("<4s6H3I5H2I", *fields) + name + extra + comment
        at = cuts[-1]
    if at != len(listing):
        raise ValueError("central directory of another length")


def _split_extra(extra: bytes) -> tuple[BytesIO, bytes]:
    """The ZIP64 field's content (4.5.3) and all other extra fields."""
    large, others, at = b"", b"", 0
    while at < len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        field = extra[at : at + 4 + size]
        large, others = (field[4:], others) if kind == 1 else (large, others + field)
        at += 4 + size
    return BytesIO(large), others


def _take(large: BytesIO, size: int) -> bytes:
    value = large.read(size)
    if len(value) < size:
        raise ValueError("broken ZIP64 field")
    return value


def _value(field: int, full: int, large: BytesIO, size: int) -> int:
    """A usual field's value, or the ZIP64 one where the usual field is full."""
    return field if field < full else int.from_bytes(_take(large, size), "little")


def _end_records(end: _ZipEnd, begin: int, size: int) -> bytes:
    """The end of a zip of one part, whose directory of `size` bytes is at `begin`."""
    records = b""
    if end.entries >= FULL_16 or max(begin, size) >= ZIP64_FROM:
        fields = (44, 45, 45, 0, 0, end.entries, end.entries, size, begin)
        records = b"PK\6\6" + struct.pack("<Q2H2I4Q", *fields)
        records += b"PK\6\7" + struct.pack("<IQI", 0, begin + size, 1)
        begin = FULL_32  # so that every reader looks at the record above
    entries = min(end.entries, FULL_16)
    fields = (0, 0, entries, entries, min(size, FULL_32), begin, len(end.comment))
    return records + b"PK\5\6" + struct.pack("<4H2IH", *fields) + end.comment
