"""Unpacking archives that nobody vouches for: no member leaves the folder or is a link."""

import gzip
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

from evar.errors import UserError
from evar.files import canonical_json, make_folder, write_atomic, writing

CHUNK = 2**20  # bytes moved at a time
HEADER_BYTES = 2**24  # the most that one header of a tar file may hold


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


def safe_parts(name: str, where) -> list[str]:
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
            path = aside.joinpath(*safe_parts(name, archive))
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
        guarded: Any = _Guarded(raw, archive)  # as much of a file as tarfile reads
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
