"""Finds tasks, model adapters, protocols and metrics by name and imports them when they are used.

Those of this package are files in a folder, named by the file. Installed packages add their own
by an entry point in the group `evar.<kind>`:

    [project.entry-points."evar.tasks"]
    mine = "my_package.mine"        # a module with TASK, or my_package.mine:TASK
"""

import functools
import importlib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol, TypeVar

from evar.errors import UserError, described, unknown

KINDS = ("tasks", "model_adapters", "protocols", "metrics")


class _Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=_Named)


def folder(kind: str) -> Path:
    """Returns the folder of "tasks", "model_adapters" or "protocols"."""
    return Path(importlib.import_module(f"evar.{kind}").__path__[0])


def module_names(kind: str) -> list[str]:
    """Returns the names of the public modules in a folder, sorted, without importing them."""
    return sorted(p.stem for p in folder(kind).glob("*.py") if not p.stem.startswith("_"))


def names(kind: str) -> list[str]:
    """Returns all names of a kind, of this package and of installed ones, sorted."""
    return sorted({*module_names(kind), *plugins(kind)})


def load(kind: str, name: str) -> Any:
    """Imports the module of a name; for a plug-in, what its entry point names.

    Raises UserError for a file or a plug-in that cannot be imported.
    """
    if kind == "metrics" or (name in plugins(kind) and name not in module_names(kind)):
        return plugin(kind, name)
    try:
        return importlib.import_module(f"evar.{kind}.{name}")
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a new file: any kind of exception
        raise UserError(
            f"{folder(kind) / name}.py cannot be imported: {described(error)}. Correct or remove it"
        ) from error


def declared(kind: str, name: str, attribute: str, cls: type[T]) -> T:
    """Returns what the module of a name declares, such as its `TASK`; a plug-in may name it itself.

    Raises UserError for a module without it, and where name and declaration disagree.
    """
    found = load(kind, name)
    found = getattr(found, attribute, found)
    if not isinstance(found, cls):
        raise UserError(f"{name}: its module must define {attribute}, of the class {cls.__name__}")
    if found.name != name:
        raise UserError(f"{name} calls itself {found.name!r} in {attribute}: they must agree")
    return found


def plugin(kind: str, name: str):
    """Returns what an installed package's entry point names. Raises UserError where it fails."""
    point = plugins(kind)[name]
    try:
        return point.load()
    except (Exception, SystemExit) as error:  # third-party code: any kind of exception
        distribution = point.dist.name if point.dist else "an installed package"
        raise UserError(
            f"{name} ({point.value} of {distribution}) cannot be imported: {described(error)}. "
            "Update or uninstall that package"
        ) from error


@functools.cache
def plugins(kind: str) -> dict[str, EntryPoint]:
    """Returns the entry points of the group `evar.<kind>` by name."""
    return {point.name: point for point in entry_points(group=f"evar.{kind}")}


def require_known(what: str, name: str, known: list[str]) -> None:
    """Raises UserError with close matches unless `name` is among the known ones."""
    if name not in known:
        raise unknown(what, name, known)
