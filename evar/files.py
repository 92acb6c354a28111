"""Writing files so that nothing is lost: whole or not at all, whatever happens in between."""

import json
import os
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

from evar.errors import UserError


@contextmanager
def writing(path):
    """Turn what the operating system refuses while `path` is written into a UserError."""
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
    """Turn what the operating system refuses while `path` is read into a UserError."""
    try:
        yield
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path, error: Exception) -> UserError:
    """A file that the system does not let us read, whatever it holds."""
    reason = getattr(error, "strerror", None) or str(error).rpartition(": ")[2].rstrip(".")
    return UserError(f"{path}: cannot be read ({reason}). Mend that, then run the command again.")


def make_folder(path) -> Path:
    """Create a folder and its parents; raises UserError where that is not allowed."""
    with writing(path):
        Path(path).mkdir(parents=True, exist_ok=True)
    return Path(path)


def write_atomic(path, content: bytes | memoryview | str) -> None:
    """Write a file whole or not at all: a temporary file in the same folder, synced, then renamed.

    Raises UserError where the folder is not writable or the disk is full; no part of the content
    is left behind then.
    """
    path = Path(path)
    make_folder(path.parent)
    content = content.encode() if isinstance(content, str) else content
    with writing(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o666 & ~_umask())  # mkstemp makes private files
            Path(temporary).replace(path)
            _sync_folder(path.parent)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _sync_folder(folder: Path) -> None:
    """Have a renamed file survive a power cut too; not every system can."""
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
    """The one text of a JSON value: sorted keys, no spaces. What hashes are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
