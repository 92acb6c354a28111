"""Reads and writes files: whole or not at all, and only where a path may lead."""

import json
import os
import re
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from evar.errors import UserError


@contextmanager
def writing(path):
    """Re-raises the operating system's errors while `path` is written as a UserError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{path}: cannot write ({reason}). Free some space or choose another folder "
            "(--results, --data, --cache, --out)."
        ) from error


@contextmanager
def reading(path):
    """Re-raises the operating system's errors while `path` is read as a UserError."""
    try:
        yield
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path, error: Exception) -> UserError:
    """Returns the error for a file that the operating system does not let us read."""
    reason = getattr(error, "strerror", None) or str(error).rpartition(": ")[2].rstrip(".")
    return UserError(f"{path}: cannot be read ({reason}). Check the disk and its permissions.")


def make_folder(path) -> Path:
    """Creates a folder and its parents; raises UserError where that is not allowed."""
    with writing(path):
        Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


def cache_folder() -> Path:
    """Returns where embeddings are kept: $EVAR_CACHE, else evar/ in the user's cache folder.

    Raises UserError for a user without a home folder, as containers have them.
    """
    if named := os.environ.get("EVAR_CACHE"):
        return Path(named)
    if home := os.environ.get("XDG_CACHE_HOME"):
        return Path(home) / "evar"
    try:
        return Path.home() / ".cache" / "evar"
    except RuntimeError as error:
        raise UserError(
            "this user has no home folder to keep embeddings in: name one with --cache=DIR or "
            "$EVAR_CACHE, or keep none (--no_cache)"
        ) from error


def write_atomic(path, content: bytes | memoryview | str) -> None:
    """Writes a file whole or not at all: a temporary file in the same folder, synced, then renamed.

    Temporary files of killed processes in that folder are removed. Raises UserError where the
    folder is not writable or the disk is full; no part of the content is left behind then.
    """
    path = Path(path)
    make_folder(path.parent)
    clear_stale(path.parent)
    content = content.encode() if isinstance(content, str) else content
    with writing(path):
        handle, temporary = tempfile.mkstemp(_SUFFIX, f".{path.name}.", path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                _try_lock(file)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o666 & ~_umask())  # mkstemp makes private files
            Path(temporary).replace(path)
            _sync_folder(path.parent)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


_SUFFIX = ".tmp"
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")
STALE = 3600  # seconds after which a temporary file that no process has locked is removed
_cleared: set[tuple[int, str]] = set()  # (process, folder)


def clear_stale(folder) -> None:
    """Removes the temporary files that killed writers left in a folder, once per process.

    A file is removed where it has not changed for an hour and no process holds a lock on it.
    """
    key = (os.getpid(), str(folder))
    if key in _cleared:
        return
    _cleared.add(key)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _TEMPORARY.fullmatch(entry.name):
                with suppress(OSError):
                    _remove_if_stale(entry)


def _remove_if_stale(entry: os.DirEntry) -> None:
    if not entry.is_file(follow_symlinks=False):
        return
    if time.time() - entry.stat(follow_symlinks=False).st_mtime < STALE:
        return
    with Path(entry.path).open("rb") as file:
        if not _try_lock(file):
            return
    Path(entry.path).unlink()


def _try_lock(file) -> bool:
    """Locks an open file until it is closed; False where another process holds it."""
    try:
        import fcntl
    except ImportError:  # Windows does not remove files that are open
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: the age decides
        pass
    return True


def _sync_folder(folder: Path) -> None:
    """Makes a rename survive a power cut, on systems that can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def canonical_json(value) -> str:
    """Returns the canonical JSON text of a value, for hashing: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


_PART = r"[\w \-+,()][\w \-+,().]*"  # of a path: not empty, and no dot to begin with
_PLAIN = re.compile(f"{_PART}(/{_PART})*", re.ASCII)


def path_problem(name: str) -> str:
    """Says why a path that a file names may not be followed; "" where it leads down.

    Tables, archives and lists name paths below their own folder only: neither absolute, nor
    through "..", nor with a drive letter, in either system's notation. Links in that folder are
    followed, as its owner made them: archives are unpacked without links.
    """
    if _PLAIN.fullmatch(name):  # nearly all of perhaps millions
        return ""
    parts = name.replace("\\", "/").split("/")
    if "\0" in name:
        return "holds a NUL character"
    if not [part for part in parts if part not in ("", ".")]:
        return "names no file"
    if parts[0] == "" or ".." in parts or re.match("[A-Za-z]:", name):
        return "must lie inside the data set's folder (that of a CSV) and be relative to it"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    return ""


def printable(name: str) -> str:
    """Returns a name as messages show it: quoted and escaped where it has unprintable characters.

    So that neither a line feed nor an escape sequence of a file's name reaches a terminal.
    """
    return name if name.isprintable() and name == name.strip() else repr(name)


def inside(root, name: str, where) -> Path:
    """Returns the path of a file that `where` (a table, a list) names relative to `root`.

    Raises UserError for a path that leads elsewhere, and for what exists there and is neither a
    file nor a folder: pipes, sockets and devices, on which reading may wait for ever.
    """
    if problem := path_problem(name):
        raise UserError(f"{where}: {name!r}: {problem}. Correct the list of files.")
    path = Path(root) / name
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{where}: {name!r} is a pipe, a socket or a device, not a file")
    return path
