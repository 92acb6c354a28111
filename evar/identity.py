"""What a model is: everything that its embeddings depend on, as hashes of content."""

import ast
import contextlib
import functools
import hashlib
import inspect
import linecache
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING

from evar.sources import ModuleSource, canonical, file_of, library_versions, module_sources

if TYPE_CHECKING:
    from evar.adapter import Adapter

_as_first_seen: "weakref.WeakKeyDictionary[Adapter, bytes]" = weakref.WeakKeyDictionary()


def identity_of(
    adapter: "Adapter", options: Mapping[str, object], *, is_built: bool = False
) -> dict:
    """Returns what a model's embeddings depend on: source, options, state, files, libraries.

    Two models of one identity share cached embeddings and results. `options`: all options that
    the adapter was built with, but for `weights`. `is_built`: a user built the adapter, with
    options that nobody knows; its attributes stand for them.
    """
    from evar.weights import state_hash

    sources = sources_of(type(adapter))
    attributes = _attributes(adapter) if is_built else b""
    code = [ModuleSource("", attributes, frozenset())] if attributes else []
    return {
        "adapter": type(adapter).__name__,
        "source": source_hash([*sources, *code]),
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
    elif enclosed := [c for c in cls.__mro__ if "<locals>" in c.__qualname__]:
        closures = [_closures(c) for c in enclosed]  # a function made the class
        sources.append(ModuleSource(cls.__qualname__, ascii(closures).encode(), frozenset()))
    return sources


def _class_code(cls: type, seen: tuple[int, ...] = ()) -> bytes:
    """Returns the code of a class without a module file, and the globals that its methods use.

    Its code is its cell's text, else its bytecode.
    """
    seen = (*seen, id(cls))
    functions = _functions(cls)
    used = [_surroundings(f, seen) for f in functions.values()]
    around = ascii(used).encode()
    for code in (f.__code__ for f in functions.values()):
        # `inspect.getsource` looks for a file before Python 3.13
        text = "".join(linecache.getlines(code.co_filename))
        with contextlib.suppress(SyntaxError):
            for node in ast.walk(ast.parse(text)):
                if not isinstance(node, ast.ClassDef) or node.name != cls.__name__:
                    continue
                if node.lineno <= code.co_firstlineno <= (node.end_lineno or node.lineno):
                    return canonical(node) + around
    plain = {k: v for k, v in vars(cls).items() if not k.startswith("__") and k not in functions}
    attributes = sorted((k, ascii(_described(v, seen))) for k, v in plain.items())
    bytecode = [_bytecode(f.__code__) for f in functions.values()]
    return ascii((attributes, bytecode)).encode() + around


def _functions(cls: type) -> dict[str, FunctionType]:
    """Returns the functions that a class defines, without what decorates them, by name."""
    found = {}
    for name, value in vars(cls).items():
        value = value.fget if isinstance(value, property) else value
        value = getattr(value, "__func__", value)  # of static and class methods
        value = inspect.unwrap(value) if callable(value) else value
        if isinstance(value, FunctionType):
            found[name] = value
    return found


def _closures(cls: type) -> list:
    return [(name, _enclosed(f, (id(cls),))) for name, f in sorted(_functions(cls).items())]


def _surroundings(function: FunctionType, seen: tuple[int, ...]) -> tuple:
    """Returns what a function uses from outside its code: globals, closure, default values."""
    names = sorted({name for code in _codes(function.__code__) for name in code.co_names})
    known = function.__globals__
    used = [(name, _described(known[name], seen)) for name in names if name in known]
    defaults = (function.__defaults__, function.__kwdefaults__)
    return used, _enclosed(function, seen), _described(defaults, seen)


def _enclosed(function: FunctionType, seen: tuple[int, ...]) -> list:
    values = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a cell that is still empty
            values.append((name, _described(cell.cell_contents, seen)))
    return values


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yields a function's code and that of the functions within."""
    yield code
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _codes(value)


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
        described = sorted((k, ascii(_described(v))) for k, v in own.items())
        if described:
            values.append((place, type(module).__qualname__, described))
    found = ascii(values).encode() if values else b""
    return _as_first_seen.setdefault(adapter, found)


def _described(value, seen: tuple[int, ...] = ()):
    """Returns what a value is, in terms whose `ascii` is the same in every process.

    Of an object of a library, only its class counts.
    """
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return value
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if id(value) in seen:
        return kind
    seen = (*seen, id(value))
    if isinstance(value, (list, tuple)):
        return kind, [_described(v, seen) for v in value]
    if isinstance(value, (set, frozenset)):
        return kind, sorted(ascii(_described(v, seen)) for v in value)
    if isinstance(value, Mapping):
        return kind, [(_described(k, seen), _described(v, seen)) for k, v in value.items()]
    if isinstance(value, (PurePath, ModuleType)):
        return kind, str(value) if isinstance(value, PurePath) else value.__name__
    if isinstance(value, functools.partial):
        return kind, _described((value.func, value.args, value.keywords), seen)
    if isinstance(value, MethodType):
        return kind, value.__func__.__qualname__
    if isinstance(value, (FunctionType, type)):
        return _definition(value, seen)
    return kind, _content(value)


def _definition(value: FunctionType | type, seen: tuple[int, ...]):
    """Returns the code of a function or class without a module file; of others, the name."""
    name = f"{value.__module__}.{value.__qualname__}"
    typed = value.__module__ in sys.modules and file_of(value.__module__) is None
    typed = typed and value.__module__ not in sys.builtin_module_names
    if isinstance(value, type):
        return (name, _class_code(value, seen)) if typed else name
    if not typed:
        return name, _enclosed(value, seen)
    return name, _bytecode(value.__code__), _surroundings(value, seen)


def _content(value) -> str | None:
    """Returns a hash of an array, a tensor or a module's weights; None of other objects."""
    from torch import Tensor, nn

    from evar.weights import state_hash

    if isinstance(value, nn.Module):
        return state_hash(value)
    if isinstance(value, Tensor):
        holder = nn.Module()
        holder.register_buffer("values", value.detach())
        return state_hash(holder)
    if hasattr(value, "tobytes") and hasattr(value, "dtype"):
        head = f"{value.dtype} {getattr(value, 'shape', ())}\n".encode()
        return hashlib.sha256(head + value.tobytes()).hexdigest()[:16]
    return None


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
