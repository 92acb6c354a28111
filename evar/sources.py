"""Finds the code that a model runs: its own modules and the versions of the libraries they import.

Both decide what is computed and are therefore part of a model's identity. Comments, docstrings and
layout decide nothing, so that an edit of those keeps the identity and the cached embeddings.
"""

import ast
import contextlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_STDLIB = sysconfig.get_path("stdlib")


# Fields of a syntax tree that say nothing about what runs: whether a name is read or assigned
# follows from its place, u"x" equals "x", and comments on types are comments.
_SILENT_FIELDS = frozenset({"ctx", "kind", "type_comment", "type_ignores"})


@dataclass(frozen=True)
class ModuleSource:
    """One module: its code in canonical form and the modules that its import statements name."""

    name: str
    code: bytes  # `canonical` form; the file's bytes where that is not Python
    imports: frozenset[str]


def module_sources(names: Iterable[str], package: str = "") -> list[ModuleSource]:
    """Returns the modules `names` and all that they import, directly or indirectly.

    Only adapter modules, a user's own files and modules of `package` count; installed libraries
    are left out (see `library_versions`). Imports inside functions are followed as well, whether or
    not they have run yet.
    """
    found: dict[str, ModuleSource] = {}
    todo = list(names)
    while todo:
        name = todo.pop()
        file = file_of(name)
        if name in found or file is None:
            continue
        if not _is_own_code(name, file) and name.partition(".")[0] != package:
            continue
        ran = getattr(sys.modules.get(name), "EVAR_SOURCE", None)
        content = ran or file.read_bytes()
        is_package = file.name == "__init__.py"
        within = name if is_package else name.rpartition(".")[0]
        found[name] = _read(name, content, within)
        todo += found[name].imports
    return list(found.values())


def _read(name: str, content: bytes, package: str) -> ModuleSource:
    """Returns a module of `package`; one that is not Python (a compiled extension) by its bytes."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ModuleSource(name, content, frozenset())
    return ModuleSource(name, canonical(tree), frozenset(_imported(tree, package)))


def canonical(tree: ast.AST) -> bytes:
    """Serialises a syntax tree without comments, docstrings and positions.

    `ast.dump` and `ast.unparse` differ between Python versions: the first in the fields that it
    shows, the second in how it quotes f-strings. Here empty fields are left out, so that a field
    that a later version adds changes no code that does not use it.
    """
    parts: list[str] = []
    todo: list = [tree]  # nodes, lists of nodes, `_Text` and values
    while todo:  # a stack, since nested expressions would exceed Python's recursion limit
        item = todo.pop()
        if isinstance(item, _Text):
            parts.append(item)
        elif isinstance(item, ast.AST):
            inner: list = [_Text(f"{type(item).__name__}(")]
            for name, value in ast.iter_fields(item):
                value = _children(item, value) if isinstance(value, list) else value
                if name not in _SILENT_FIELDS and value is not None and value != []:
                    inner += [_Text(f"{name}="), value]
            todo += reversed([*inner, _Text(")")])
        elif isinstance(item, list):
            todo += reversed([_Text("["), *item, _Text("]")])
        else:  # a constant or an identifier; repr of text depends on Python's Unicode tables
            parts.append(f"{ascii(item)},")
    return "".join(parts).encode("ascii")


class _Text(str):
    """A piece of the serialised tree, as opposed to a string of the program."""


def _children(parent: ast.AST, children: list) -> list:
    """Returns a list field without strings that stand as statements, such as docstrings.

    The literal parts of an f-string are joined: Python versions differ in where they cut them.
    """
    if isinstance(parent, ast.JoinedStr):
        joined: list = []
        for child in children:
            if joined and isinstance(child, ast.Constant) and isinstance(joined[-1], ast.Constant):
                child = ast.Constant(joined.pop().value + child.value)
            joined.append(child)
        return [c for c in joined if not isinstance(c, ast.Constant) or c.value]
    return [child for child in children if not _is_text_statement(child)]


def _is_text_statement(node) -> bool:
    constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return constant and isinstance(node.value.value, str)


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Yields the modules that import statements name, and what may be modules in them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (package or not node.level):
            base = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(base, package) if node.level else base
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for parts in (name.split(".") for name in names):
            yield from (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def file_of(name: str) -> Path | None:
    """Returns a module's file without importing it; None if there is no such module or file."""
    if name in sys.modules:
        file = getattr(sys.modules[name], "__file__", None)
        if not file:
            return None
        is_there = Path(file).is_file() or hasattr(sys.modules[name], "EVAR_SOURCE")
        return Path(file) if is_there else None  # of `python -` it is "<stdin>"
    parent, _, last = name.rpartition(".")
    if not parent:
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(name)
            return Path(spec.origin) if spec and spec.has_location and spec.origin else None
        return None
    inside = file_of(parent)
    if inside is None or inside.name != "__init__.py":
        return None
    places = (inside.parent / f"{last}.py", inside.parent / last / "__init__.py")
    return next((place for place in places if place.is_file()), None)


def _is_own_code(name: str, file: Path) -> bool:
    """Returns whether a module is an adapter of the registry or a user's own file."""
    if name.partition(".")[0] == "evar":
        return name.startswith("evar.model_adapters.")
    installed = {"site-packages", "dist-packages"} & set(file.parts)
    return file.suffix == ".py" and not installed and not file.is_relative_to(_STDLIB)


def is_own_module(name: str) -> bool:
    """Returns whether a module is an adapter of the registry or a user's file, imported already."""
    if name not in sys.modules or name == "evar.adapter":
        return False
    file = file_of(name)
    return file is not None and _is_own_code(name, file)


def library_versions(sources: Iterable[ModuleSource]) -> dict[str, str]:
    """Returns the versions of torch and of the installed libraries that `sources` import."""
    from importlib.metadata import PackageNotFoundError, packages_distributions, version

    sources = list(sources)
    own = {source.name.partition(".")[0] for source in sources} | {"evar"}
    named = {name.partition(".")[0] for source in sources for name in source.imports}
    versions = {}
    for name in sorted({"torch", *named} - own - sys.stdlib_module_names):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            for distribution in packages_distributions().get(name, ()):
                versions[distribution] = version(distribution)
    return versions
