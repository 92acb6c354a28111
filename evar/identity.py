"""What a model is: everything that its embeddings depend on, as hashes of content."""

import ast
import contextlib
import hashlib
import inspect
import linecache
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING

from evar.sources import ModuleSource, canonical, library_versions, module_sources

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
        "source": source_hash(sources),
        "options": dict(options),
        "files": _file_options(options, adapter.text_options),
        "weights": state_hash(adapter),
        "file": file_hash(getattr(adapter, "weights", None)),
        "libraries": library_versions(sources),
    }


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
        sources += [ModuleSource(c.__qualname__, _class_code(c), frozenset()) for c in typed]
    return sources


def _class_code(cls: type) -> bytes:
    """Returns the code of a class without a module file: its cell's text, else its bytecode."""
    functions = [inspect.unwrap(value) for value in vars(cls).values() if callable(value)]
    codes = [f.__code__ for f in functions if inspect.isfunction(f)]
    for code in codes:  # `inspect.getsource` looks for a file before Python 3.13
        text = "".join(linecache.getlines(code.co_filename))
        with contextlib.suppress(SyntaxError):
            for node in ast.walk(ast.parse(text)):
                if not isinstance(node, ast.ClassDef) or node.name != cls.__name__:
                    continue
                if node.lineno <= code.co_firstlineno <= (node.end_lineno or node.lineno):
                    return canonical(node)
    plain = {k: v for k, v in vars(cls).items() if isinstance(v, (int, float, str, tuple))}
    attributes = sorted((k, v) for k, v in plain.items() if not k.startswith("__"))
    return ascii((attributes, [_bytecode(code) for code in codes])).encode()


def _bytecode(code: CodeType) -> tuple:
    """Returns what a function runs, in this version of Python; the same in every process."""
    constants = []
    for value in code.co_consts:
        if isinstance(value, CodeType):  # a function within, whose repr holds its address
            value = _bytecode(value)
        elif isinstance(value, frozenset):  # whose order differs from process to process
            value = sorted(ascii(item) for item in value)
        constants.append(value)
    return code.co_code, constants, code.co_names


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
