"""Describes values and code in terms whose text is the same in every process, for hashing."""

import ast
import contextlib
import functools
import hashlib
import inspect
import linecache
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MethodType, ModuleType

from evar import opened_files
from evar.sources import canonical, file_of, is_own_module

_DEPTH = 10  # of objects within objects


def class_code(cls: type, seen: tuple[int, ...] = ()) -> bytes:
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
    attributes = sorted((k, ascii(described(v, seen))) for k, v in plain.items())
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


def closures(cls: type) -> list:
    """Returns the values that the methods of a class have from the function that made it."""
    return [(name, _enclosed(f, (id(cls),))) for name, f in sorted(_functions(cls).items())]


def _surroundings(function: FunctionType, seen: tuple[int, ...]) -> tuple:
    """Returns what a function uses from outside its code: globals, closure, default values."""
    names = sorted({name for code in _codes(function.__code__) for name in code.co_names})
    known = function.__globals__
    used = [(name, described(known[name], seen)) for name in names if name in known]
    defaults = (function.__defaults__, function.__kwdefaults__)
    return used, _enclosed(function, seen), described(defaults, seen)


def _enclosed(function: FunctionType, seen: tuple[int, ...]) -> list:
    values = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a cell that is still empty
            values.append((name, described(cell.cell_contents, seen)))
    return values


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yields a function's code and that of the functions within."""
    yield code
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield from _codes(value)


def described(value, seen: tuple[int, ...] = ()):
    """Returns what a value is, in terms whose `ascii` is the same in every process.

    A path counts by what the file holds. Of an object of a library count its class, arrays, and
    the files and bytes that its own attributes are or name, as of an ONNX session.
    """
    if isinstance(value, (str, PurePath)) and (file := _file(value)):
        return file
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return value
    kind = _name(type(value))
    if id(value) in seen or len(seen) > _DEPTH:
        return kind
    seen = (*seen, id(value))
    if isinstance(value, (list, tuple)):
        return kind, [described(v, seen) for v in value]
    if isinstance(value, (set, frozenset)):
        return kind, sorted(ascii(described(v, seen)) for v in value)
    if isinstance(value, Mapping):
        return kind, [(described(k, seen), described(v, seen)) for k, v in value.items()]
    if isinstance(value, (PurePath, ModuleType)):
        return kind, str(value) if isinstance(value, PurePath) else _place(value.__name__)
    if isinstance(value, functools.partial):
        return kind, described((value.func, value.args, value.keywords), seen)
    if isinstance(value, MethodType):
        return kind, value.__func__.__qualname__
    if isinstance(value, (FunctionType, type)):
        return _definition(value, seen)
    return kind, _content(value) or _inside(value, seen)


def _file(value: str | PurePath) -> tuple[str, str] | None:
    """Returns the hash of a file that a value names, the name of a folder; None of other texts."""
    text = str(value)
    if "/" not in text and "." not in text or "\0" in text or len(text) > 4096:
        return None
    path = Path(text)
    with contextlib.suppress(OSError):  # a text that no path can be
        if path.is_absolute() and path.is_dir():
            return "folder", path.name
        if opened_files.is_content(str(path.absolute())) and (found := opened_files.digest(path)):
            return "file", found
    return None


def _inside(value, seen: tuple[int, ...]) -> list:
    """Returns what can be seen inside of an object that is neither a value nor an array."""
    held = getattr(value, "__dict__", None) or {}
    if _is_ours(type(value).__module__):
        return [(k, described(v, seen)) for k, v in sorted(held.items())]
    return [
        (k, described(v, seen))
        for k, v in sorted(held.items())
        if isinstance(v, bytes) or (isinstance(v, (str, PurePath)) and _file(v))
    ]


def _definition(value: FunctionType | type, seen: tuple[int, ...]):
    """Returns the code of a function or class without a module file; of others, the name."""
    name, typed = _name(value), _is_typed(value.__module__)
    if isinstance(value, type):
        return (name, class_code(value, seen)) if typed else name
    if not typed:
        return name, _enclosed(value, seen)
    return name, _bytecode(value.__code__), _surroundings(value, seen)


def _name(value: FunctionType | type) -> str:
    return f"{_place(value.__module__)}.{value.__qualname__}"


def _place(module: str | None) -> str:
    """Returns a module's name; those of users' files hold a hash of their place."""
    return "" if not module or module.startswith("evar_user_") else module


def _is_typed(module: str | None) -> bool:
    """Returns whether a module has no file: a notebook, a console."""
    known = module in sys.modules and module not in sys.builtin_module_names
    return known and file_of(str(module)) is None


def _is_ours(module: str | None) -> bool:
    """Returns whether a module is a user's: a file, a notebook, or an adapter of the registry."""
    return is_own_module(str(module)) or _is_typed(module)


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
    if hasattr(value, "tobytes") and hasattr(value, "dtype") and not value.dtype.hasobject:
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


class Values:
    """What a class uses besides code: its attributes, and globals that its methods reach.

    Code in files counts by its text; here are the values that names have now, which a program may
    have given them since.
    """

    def __init__(self):
        self._seen: set[int] = set()

    def of_class(self, cls: type) -> list:
        """Returns the values of a class, of its bases and of all they use in the user's modules."""
        return [self._of(c) for c in cls.__mro__ if _is_ours(c.__module__)]

    def _of(self, value) -> object:
        if not isinstance(value, (type, FunctionType)) or not _is_ours(value.__module__):
            return described(value)
        name = _name(value)
        if id(value) in self._seen:
            return name
        self._seen.add(id(value))
        if isinstance(value, FunctionType):
            return name, self._around(value)
        functions = _functions(value)
        plain = {k: v for k, v in vars(value).items() if not k.startswith("__")}
        attributes = [(k, self._of(v)) for k, v in sorted(plain.items()) if k not in functions]
        return name, attributes, [(k, self._of(f)) for k, f in sorted(functions.items())]

    def _around(self, function: FunctionType) -> list:
        names = sorted({name for code in _codes(function.__code__) for name in code.co_names})
        known, found = function.__globals__, list[tuple[str, object]]()
        for name in (n for n in names if n in known):
            value = known[name]
            if isinstance(value, ModuleType) and _is_ours(value.__name__):
                inside = [(n, self._of(vars(value)[n])) for n in names if n in vars(value)]
                found.append((name, inside))
            else:
                found.append((name, self._of(value)))
        return found
