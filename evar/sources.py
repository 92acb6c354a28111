"""The code that a model runs: its own sources, whole, and the versions of the libraries it imports.

What is computed follows from them, so that they are part of what identifies a model.
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


@dataclass(frozen=True)
class Source:
    """A module's file and the names of all modules that its import statements name."""

    name: str
    content: bytes
    imports: frozenset[str]


def module_sources(names: Iterable[str], package: str = "") -> list[Source]:
    """Modules, and what they import, of adapters, of a user's own files, and of `package`.

    Those that are imported inside functions only are found as well, whether or not that has
    happened yet. Installed libraries are left out (`library_versions`).
    """
    found: dict[str, Source] = {}
    todo = list(names)
    while todo:
        name = todo.pop()
        file = _file_of(name)
        own = file and (_is_own_code(name, file) or name.partition(".")[0] == package)
        if name in found or not own:
            continue
        ran = getattr(sys.modules.get(name), "EVAR_SOURCE", None)
        content = ran or file.read_bytes()
        is_package = file.name == "__init__.py"
        within = name if is_package else name.rpartition(".")[0]
        imports = _imported(content, within) if file.suffix == ".py" else ()
        found[name] = Source(name, content, frozenset(imports))
        todo += found[name].imports
    return list(found.values())


def _imported(source: bytes, package: str) -> Iterator[str]:
    """The modules that import statements name, and what may be modules in them."""
    for node in ast.walk(ast.parse(source)):
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


def _file_of(name: str) -> Path | None:
    """Where a module's code lies, without importing it; None where it has none, or is none."""
    if name in sys.modules:
        file = getattr(sys.modules[name], "__file__", None)
        return Path(file) if file else None
    parent, _, last = name.rpartition(".")
    if not parent:
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(name)
            return Path(spec.origin) if spec and spec.has_location else None
        return None
    inside = _file_of(parent)
    if inside is None or inside.name != "__init__.py":
        return None
    places = (inside.parent / f"{last}.py", inside.parent / last / "__init__.py")
    return next((place for place in places if place.is_file()), None)


def _is_own_code(name: str, file: Path) -> bool:
    """Whether a module is an adapter's: one of the registry, or a user's file."""
    if name.partition(".")[0] == "evar":
        return name.startswith("evar.model_adapters.")
    installed = {"site-packages", "dist-packages"} & set(file.parts)
    return file.suffix == ".py" and not installed and not file.is_relative_to(_STDLIB)


def library_versions(sources: Iterable[Source]) -> dict[str, str]:
    """Versions of torch and of the installed libraries that sources import."""
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
