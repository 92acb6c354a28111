"""What a model is: everything that its embeddings depend on, as hashes of content."""

import contextlib
import hashlib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from evar.sources import Source, library_versions, module_sources

if TYPE_CHECKING:
    from evar.adapter import Adapter


def identity_of(adapter: "Adapter", options: Mapping[str, object]) -> dict:
    """Returns what a model's embeddings depend on: source, options, state, files, libraries.

    Two models of one identity share cached embeddings and results. `options`: all options that
    the adapter was built with, but for `weights`.
    """
    from evar.weights import state_hash

    sources = sources_of(type(adapter))
    return {
        "adapter": type(adapter).__name__,
        "source": source_hash(sources) if sources else _code_hash(type(adapter)),
        "options": dict(options),
        "files": _file_options(options, adapter.text_options),
        "weights": state_hash(adapter),
        "file": file_hash(getattr(adapter, "weights", None)),
        "libraries": library_versions(sources),
    }


def _code_hash(cls: type) -> str:
    """Returns a hash of a class that was typed into a notebook or a console: it has no file."""
    try:
        text = inspect.getsource(cls)
    except (OSError, TypeError):
        functions = (getattr(value, "__code__", None) for value in vars(cls).values())
        codes = [(c.co_code, repr(c.co_consts), c.co_names) for c in functions if c]
        text = repr(codes)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _file_options(options: Mapping, known: Iterable[str]) -> dict[str, str]:
    """Hashes of the files that options name, but of those whose content is `known` elsewhere."""
    found = {}
    for name, value in options.items():
        with contextlib.suppress(OSError, ValueError):  # no path at all
            if isinstance(value, str) and name not in known and Path(value).is_file():
                found[name] = file_hash(value)
    return found


def source_hash(sources: Iterable[Source]) -> str:
    """SHA-256 of sources, whatever their names and order."""
    # Sorted by content: the names of users' modules hold their folder, and another folder is not
    # another model.
    return hashlib.sha256(b"\0".join(sorted(s.content for s in sources))).hexdigest()[:16]


def sources_of(cls: type) -> list[Source]:
    """The sources of a class, of its bases, and of the adapter modules they import."""
    return module_sources(c.__module__ for c in cls.__mro__)


def file_hash(path) -> str | None:
    """SHA-256 of a weights file, or of the files in a weights folder; None without weights."""
    if path is None:
        return None
    path = Path(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        digest.update(file.name.encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]
