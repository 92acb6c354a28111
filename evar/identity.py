"""What a model is: everything that its embeddings depend on, as hashes of content."""

import contextlib
import hashlib
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from evar import opened_files
from evar.described import Values, class_code, closures, described
from evar.sources import ModuleSource, library_versions, module_sources

if TYPE_CHECKING:
    from evar.adapter import Adapter

_of_named: "weakref.WeakKeyDictionary[type, bytes]" = weakref.WeakKeyDictionary()
_as_first_seen: "weakref.WeakKeyDictionary[Adapter, bytes]" = weakref.WeakKeyDictionary()


def identity_of(
    adapter: "Adapter",
    options: Mapping[str, object],
    *,
    weights: Path | None = None,
    opened: Mapping[str, str] | None = None,
    embeds: str | None = None,
    is_named: bool = False,
) -> dict:
    """Returns what a model's embeddings depend on: source, options, state, files, libraries.

    Two models of one identity share cached embeddings and results. `options`: all options that
    the adapter was built with, but for `weights`, the path that was given, read or not. `opened`:
    files that the adapter has read (path: hash). `embeds`: what it computes of fixed sounds
    (evar.fingerprint); None for a verified model, whose state is known to be in its parameters,
    buffers, options and files. `is_named`: the class was loaded by its name, and no program has
    changed it since.

    An entry that says nothing is left out, so that verified models keep the identity they had.
    """
    from evar.weights import state_hash

    weights = weights or _own_weights(adapter)
    sources = sources_of(type(adapter))
    read = opened_files.of_modules(source.name for source in sources) | dict(opened or {})
    files = _file_options(options, adapter.text_options)
    known = [weights, *(options[name] for name in files)]
    more = {
        "opened": opened_files.by_name(_without(read, known)),
        "revision": getattr(adapter, "revision", None),
        "values": "" if embeds is None else _values(adapter, is_named=is_named),
        "embeds": embeds,
    }
    return {
        "adapter": type(adapter).__name__,
        "source": source_hash(sources),
        "options": dict(options),
        "files": files,
        "weights": state_hash(adapter),
        "file": file_hash(weights),
        "libraries": library_versions(sources),
        **{name: value for name, value in more.items() if value},
    }


def _own_weights(adapter: "Adapter") -> Path | None:
    """Returns the attribute `weights`, unless a class uses it for something else than a path."""
    own = getattr(adapter, "weights", None)
    return Path(own) if isinstance(own, (str, PurePath)) and Path(own).exists() else None


def _without(files: Mapping[str, str], known: Iterable) -> dict[str, str]:
    """Returns files but for those at, or in folders at, paths whose content is known already."""
    places = [Path(str(path)).absolute() for path in known if path]
    return {
        path: content
        for path, content in files.items()
        if not any(Path(path).is_relative_to(place) for place in places)
    }


def _values(adapter: "Adapter", *, is_named: bool) -> str:
    """Returns a hash of the values of an adapter's attributes, and of what its class uses."""
    cls = type(adapter)
    if is_named and cls in _of_named:  # what it keeps of earlier runs is no other model
        values = _of_named[cls]
    else:
        values = ascii(Values().of_class(cls)).encode()
    if is_named:
        _of_named[cls] = values
    return hashlib.sha256(_attributes(adapter) + b"\0" + values).hexdigest()[:16]


def source_hash(sources: Iterable[ModuleSource]) -> str:
    """Returns the SHA-256 of sources; neither their names nor their order matter."""
    # Sorted by code: the names of users' modules hold their folder, and another folder is not
    # another model.
    return hashlib.sha256(b"\0".join(sorted(s.code for s in sources))).hexdigest()[:16]


def sources_of(cls: type) -> list[ModuleSource]:
    """Returns the sources of a class, of its bases, and of the adapter modules they import.

    The package of a plug-in counts as a whole, with all of its modules that the class imports. A
    class that was typed into a notebook has no module file: its own code stands for it.
    """
    package = cls.__module__.partition(".")[0]
    modules = (c.__module__ for c in cls.__mro__)
    sources = module_sources(modules, "" if package == "evar" else package)
    if cls.__module__ not in {source.name for source in sources}:
        typed = [c for c in cls.__mro__ if c.__module__ == cls.__module__]
        sources += [ModuleSource(c.__qualname__, class_code(c), frozenset()) for c in typed]
    elif enclosed := [c for c in cls.__mro__ if "<locals>" in c.__qualname__]:
        enclosed_values = [closures(c) for c in enclosed]  # a function made the class
        sources.append(ModuleSource(cls.__qualname__, ascii(enclosed_values).encode(), frozenset()))
    return sources


def _attributes(adapter: "Adapter") -> bytes:
    """Returns the values that an adapter's attributes, and those of its parts, have.

    Parameters and buffers are left out: `state_hash` has them. An adapter that fits statistics
    changes as it is used, so that its attributes count as they were at first.
    """
    if adapter.fit_clips and adapter in _as_first_seen:
        return _as_first_seen[adapter]
    from torch import nn

    no_option = {*vars(nn.Module()), "weights", "augment", "keep", "lengths"}
    values = []
    for place, module in adapter.named_modules():
        own = {k: v for k, v in vars(module).items() if k not in no_option and v is not None}
        found = sorted((k, ascii(described(v))) for k, v in own.items())
        if found:
            values.append((place, type(module).__qualname__, found))
    return _as_first_seen.setdefault(adapter, ascii(values).encode())


def _file_options(options: Mapping, known: Iterable[str]) -> dict[str, str | None]:
    """Returns hashes of the files that options name, except options whose content is `known`."""
    found = {}
    for name, value in options.items():
        with contextlib.suppress(OSError, ValueError):  # no path at all
            if isinstance(value, str) and name not in known and Path(value).is_file():
                found[name] = file_hash(value)
    return found


def file_hash(path) -> str | None:
    """Returns the SHA-256 of a weights file or of a folder of them; None without weights."""
    if path is None:
        return None
    path = Path(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        digest.update(file.name.encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]
