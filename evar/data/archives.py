"""Unpacks archives from anywhere: no member leaves the folder or is a link."""

import gzip
import json
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from evar.errors import UserError
from evar.files import canonical_json, make_folder, path_problem, unreadable, write_atomic, writing

CHUNK = 2**20  # bytes moved at a time
HEADER_BYTES = 2**24  # the most that one header of a tar file may hold
# An archive of sound rarely unpacks to more than twice its size, of silence to 50 times.
_RATIO, _LEAST_BYTES = 50, 2**30
_BYTES_PER_FILE, _LEAST_FILES, _MOST_FILES = 8, 100_000, 2_000_000
_DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError),
    *(EOFError, NotImplementedError, RuntimeError),  # zipfile: unknown methods, passwords
    *(struct.error, ValueError, OverflowError, LookupError),  # fields that make no sense
)


def extract(archive, folder, *, max_bytes: int | None = None, max_files: int | None = None) -> None:
    """Unpacks a zip, tar, tar.gz or tgz file into `folder`, which a second call finds done.

    Only plain files and folders below `folder` are accepted, and the limits (default: by the size
    of the archive) hold for what really comes out. All is unpacked aside first, in a folder on the
    same disk; existing folders are added to, files of the same name replaced. A second process
    waits for the first. What was unpacked is listed in a marker, and unpacked again where a listed
    file is gone or has another size.

    Raises UserError, with `folder` as it was, for an archive that is unsafe, damaged or too large.
    """
    archive, folder = Path(archive), make_folder(folder)
    if not archive.is_file():
        raise UserError(f"{archive}: no such archive; fetch it first")
    size = archive.stat().st_size
    max_bytes = max(_LEAST_BYTES, _RATIO * size) if max_bytes is None else max_bytes
    if max_files is None:
        max_files = min(_MOST_FILES, max(_LEAST_FILES, size // _BYTES_PER_FILE))
    with writing(folder), _lock(folder, archive.name):
        if not is_extracted(archive.name, folder, archive):
            _clear_stale(folder, archive.name)
            _extract(archive, folder, max_bytes, max_files)


def is_extracted(name: str, folder, archive: Path | None = None) -> bool:
    """Tells whether all files that the archive `name` held are in `folder`.

    With `archive` also whether that file is the one that was unpacked.
    """
    folder = Path(folder)
    try:
        done = json.loads(_marker(folder, name).read_bytes())
        if archive is not None and done["archive"] != _stamp(archive):
            return False
        listed = done["files"].items()
        return all(os.stat(folder / path).st_size == size for path, size in listed)  # noqa: PTH116
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _marker(folder: Path, name: str) -> Path:
    return folder / f".extracted-{name}"


def _aside(folder: Path, name: str) -> Path:
    return folder / f".extracting-{name}"


def _lock(folder: Path, name: str) -> filelock.FileLock:
    return filelock.FileLock(folder / f".extracting-{name}.lock")


def _stamp(archive: Path) -> dict[str, int]:
    state = archive.stat()
    return {"bytes": state.st_size, "mtime_ns": state.st_mtime_ns}


def _clear_stale(folder: Path, own: str) -> None:
    """Removes what killed processes unpacked aside, of this archive and of others."""
    _remove_tree(_aside(folder, own))
    for aside in folder.glob(".extracting-*"):
        name = aside.name.removeprefix(".extracting-")
        if aside.suffix == ".lock" or not aside.is_dir() or name == own:
            continue
        lock = _lock(folder, name)
        try:
            with lock.acquire(blocking=False):
                _remove_tree(aside)
        except filelock.Timeout:
            pass  # its process is at work


def _extract(archive: Path, folder: Path, max_bytes: int, max_files: int) -> None:
    stamp, aside = _stamp(archive), _aside(folder, archive.name)
    with writing(folder):
        aside.mkdir()
    try:
        listed = _unpack(archive, aside, max_bytes, max_files)
        with filelock.FileLock(folder / ".extracting.lock"):  # two archives may share folders
            _check_mergeable(aside, folder)
            with writing(folder):
                _merge(aside, folder)
    finally:
        _remove_tree(aside)
    write_atomic(_marker(folder, archive.name), canonical_json({"archive": stamp, "files": listed}))


def safe_parts(name: str, where) -> list[str]:
    """Returns the parts of a relative path; UserError where it leads anywhere but down."""
    # What names nothing ("./") is the folder itself, and fine.
    if (problem := path_problem(name)) and problem != path_problem("."):
        raise UserError(
            f"{where}: unsafe path {name!r} ({problem}); get the file from its publisher"
        )
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]


def _unpack(archive: Path, aside: Path, max_bytes: int, max_files: int) -> dict[str, int]:
    """Writes all members below `aside`; returns the files (path below it: bytes).

    Raises UserError for unsafe, damaged or too large archives.
    """
    count = total = 0
    listed: dict[str, int] = {}
    try:
        for name, content in _members(archive, max_bytes):
            count += 1
            if count > max_files:
                raise UserError(
                    f"{archive}: more than {max_files} files; get it from its publisher"
                )
            parts = safe_parts(name, archive)
            path = aside.joinpath(*parts)
            if content is None:
                make_folder(path)
                continue
            make_folder(path.parent)
            own = 0
            for size in _save(content, path):
                own, total = own + size, total + size
                if total > max_bytes:
                    raise _too_large(archive, max_bytes)
            listed["/".join(parts)] = own
    except _DAMAGE as error:
        raise _damaged(archive, error) from error
    except OSError as error:
        if error.errno is not None:
            raise unreadable(archive, error) from error
        raise _damaged(archive, error) from error  # bz2 and gzip raise it for damaged streams
    return listed


def _too_large(archive: Path, max_bytes: int) -> UserError:
    return UserError(f"{archive}: holds more than {max_bytes} bytes; is it the right file?")


def _damaged(archive: Path, error: Exception) -> UserError:
    return UserError(f"{archive}: cannot unpack ({error}). Delete it and fetch it again.")


def _save(content, path: Path):
    """Writes a stream to a file; yields the size of each chunk before it is written."""
    with content:
        with writing(path):
            file = path.open("wb")
        with file:
            while chunk := content.read(CHUNK):
                yield len(chunk)
                with writing(path):
                    file.write(chunk)
                    file.flush()


def _members(archive: Path, max_bytes: int):
    """Yields name and stream of each file, name and None of each folder; UserError for the rest."""
    name = archive.name.lower()
    if name.endswith(".zip"):
        return _zip_members(archive)
    if name.endswith(".tar"):
        return _tar_members(archive, open, max_bytes)
    if name.endswith((".tar.gz", ".tgz")):
        return _tar_members(archive, gzip.open, max_bytes)
    raise UserError(f"{archive}: not a zip, tar, tar.gz or tgz file; unpack it by hand")


def _zip_members(archive: Path):
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _odd_member(archive, info.filename)
            folder = info.filename.endswith(("/", "\\"))  # some tools on Windows write the latter
            yield info.filename, None if folder else file.open(info)


def _tar_members(archive: Path, opener, max_bytes: int):
    with opener(archive, "rb") as raw:
        for file, info in _tar_infos(archive, raw):
            yield info.name, None if info.isdir() else file.extractfile(info)
        rest = 0
        while chunk := raw.read(CHUNK):  # to the end, where gzip keeps the checksum of everything
            rest += len(chunk)
            if rest > max(max_bytes, HEADER_BYTES):
                raise _too_large(archive, max_bytes)


def tar_infos(archive: Path) -> Iterator[tarfile.TarInfo]:
    """Yields the header of every file and folder of a plain tar file.

    Raises UserError for links, devices and absurd headers, tarfile.TarError for a damaged file.
    """
    with archive.open("rb") as raw:
        for _, info in _tar_infos(archive, raw):
            yield info


def _tar_infos(archive: Path, raw) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    guarded: Any = _Guarded(raw, archive)  # as much of a file as tarfile reads
    with tarfile.open(fileobj=guarded, mode="r:") as file:
        for info in file:
            if not (info.isreg() or info.isdir()):
                raise _odd_member(archive, info.name)
            if info.issparse():  # of which a few bytes may stand for a disk of zeros
                raise tarfile.ReadError(f"{info.name!r} is a sparse file")
            yield file, info
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
    """Raises UserError where a file would replace a folder, the reverse, or go through a link."""
    for new in aside.iterdir():
        old = folder / new.name
        if old.is_symlink() or (old.exists() and old.is_dir() != new.is_dir()):
            raise UserError(f"{old}: in the way of what is unpacked there; move it away")
        if old.exists() and new.is_dir():
            _check_mergeable(new, old)


def _merge(aside: Path, folder: Path) -> None:
    """Moves every entry into place; folders that exist are added to."""
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
