"""Sees which files a model reads: what it opens while it is built and while it embeds.

Python reports every file that it opens (PEP 578, audit hooks). What C, C++ and Rust libraries open
is not reported: `evar.fingerprint` sees what such files do to the embeddings.
"""

import contextlib
import hashlib
import os
import sys
import sysconfig
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import FrameType

# Folders of the system and of the user's settings: what lies there is of the machine, not of the
# model, and differs between machines that compute the same.
_OF_THE_SYSTEM = tuple(
    f"{folder}/"
    for folder in ("/proc", "/sys", "/dev", "/etc", "/run", "/usr", "/lib", "/System", "/Library")
)
_OF_THE_USER = (".cache", ".config", ".local", ".nv", ".triton", ".git")
_INSTALLED = ("site-packages", "dist-packages")
_CODE = (".pyc", ".so", ".pyd", ".dylib", ".dll")
_WRITES = os.O_WRONLY | os.O_RDWR

_of_modules: dict[str, dict[str, str]] = {}  # files that modules read as they are imported
_of_owners: "weakref.WeakKeyDictionary[object, dict[str, dict[str, str]]]" = (
    weakref.WeakKeyDictionary()
)
_recordings: list["Recording"] = []
_hooked: list[bool] = []


class Recording:
    """The files that have been read so far: path -> SHA-256, 16 digits."""

    def __init__(self):
        self.files: dict[str, str] = {}
        self._read: dict[str, str] = {}  # path: the module whose import opened it, or ""
        self._written: set[str] = set()
        self._others: set[int | None] = set()  # threads that have nothing to do with the model

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Records the files that this thread, and those that it starts, open in the block."""
        if not _hooked:
            sys.addaudithook(_hook)  # for the rest of the process: hooks cannot be removed
            _hooked.append(True)
        here = threading.get_ident()
        self._others = {thread.ident for thread in threading.enumerate()} - {here}
        _recordings.append(self)
        try:
            yield
        finally:
            _recordings.remove(self)
            self._hash()

    def opened(self, path: str, flags: int) -> None:
        """Takes down one opened file."""
        if threading.get_ident() in self._others or path.endswith(_CODE):
            return
        if flags & _WRITES:
            self._written.add(path)
        else:
            self._read[path] = _importing()

    def _hash(self) -> None:
        for path, module in self._read.items():
            if path not in self._written and is_content(path) and (found := digest(path)):
                files = _of_modules.setdefault(module, {}) if module else self.files
                files[path] = found
        self._read.clear()


def _hook(event: str, arguments: tuple) -> None:
    if event != "open" or not _recordings or len(arguments) != 3:
        return
    path, _, flags = arguments
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if isinstance(path, (str, os.PathLike)):  # else a number: opened already
        for recording in _recordings:
            recording.opened(str(Path(path).absolute()), flags or 0)


def _importing() -> str:
    """Returns the module that is being imported, where it is not an installed one, else ""."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and not _is_installed(frame.f_code.co_filename):
            name = frame.f_globals.get("__name__", "")
            return "" if name == "__main__" else name
        frame = frame.f_back
    return ""


def of_modules(names: Iterable[str]) -> dict[str, str]:
    """Returns the files that modules read as they were imported: path -> SHA-256."""
    return {path: found for name in names for path, found in _of_modules.get(name, {}).items()}


def remembered(owner: object, built: str, files: Mapping[str, str]) -> dict[str, str]:
    """Returns the files that an owner has read, now or earlier in this process.

    What a model keeps for the next one that is built (a cache, a global) is opened once alone.
    owner: a class or an adapter; built: what the model was built with.
    """
    known = _of_owners.setdefault(owner, {}).setdefault(built, {})
    known.update(files)
    return dict(known)


def by_name(files: Mapping[str, str]) -> dict[str, str]:
    """Returns the hashes of files by their names: another folder is not another model.

    Files of one name in several folders share an entry.
    """
    found: dict[str, list[str]] = {}
    for path, content in files.items():
        found.setdefault(Path(path).name, []).append(content)
    return {
        name: hashes[0] if len(hashes) == 1 else _of_text(" ".join(sorted(hashes)))
        for name, hashes in sorted(found.items())
    }


def is_content(path: str) -> bool:
    """Returns whether a path is a file that can decide what a model computes.

    Not those of the system, of installed packages and of caches, and not the code of modules,
    which `evar.sources` reads. What the Hugging Face hub and torch.hub have fetched counts.
    """
    if not Path(path).is_file() or path.endswith(_CODE) or _is_module(path):
        return False
    if _is_fetched(path):
        return True
    return not (_is_installed(path) or path.startswith(_OF_THE_SYSTEM) or _is_of_the_user(path))


def _is_fetched(path: str) -> bool:
    parts = Path(path).parts
    hub = any(part.startswith("models--") for part in parts)
    if hub or "huggingface" in parts:
        return hub and ("snapshots" in parts or "blobs" in parts)
    return {"torch", "hub", "checkpoints"} <= set(parts)


def _is_installed(path: str) -> bool:
    return not {*_INSTALLED}.isdisjoint(Path(path).parts) or path.startswith(_prefixes())


def _prefixes() -> tuple[str, ...]:
    found = {sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib")}
    return (*(f"{p}{os.sep}" for p in found if p not in ("", os.sep)), "<frozen")


def _is_of_the_user(path: str) -> bool:
    if "__pycache__" in Path(path).parts:
        return True
    with contextlib.suppress(RuntimeError, ValueError):  # no home folder, or elsewhere
        return Path(path).relative_to(Path.home()).parts[0] in _OF_THE_USER
    return False


def _is_module(path: str) -> bool:
    if not path.endswith(".py"):
        return False
    return any(getattr(m, "__file__", None) == path for m in list(sys.modules.values()))


def digest(path) -> str | None:
    """Returns the SHA-256 of a file, 16 digits; None where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError:
        return None


def _of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
