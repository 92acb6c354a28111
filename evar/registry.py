"""Tasks and model adapters are found by file name and imported when they are wanted."""

import importlib
from pathlib import Path
from types import ModuleType

from evar.errors import unknown


def folder(kind: str) -> Path:
    """The folder of `kind` ("tasks" or "model_adapters"), in a checkout or in a wheel."""
    return Path(importlib.import_module(f"evar.{kind}").__path__[0])


def module_names(kind: str) -> list[str]:
    """Names of the public modules in a folder, sorted; nothing is imported."""
    return sorted(p.stem for p in folder(kind).glob("*.py") if not p.stem.startswith("_"))


def load(kind: str, name: str) -> ModuleType:
    """Import one module of a folder."""
    return importlib.import_module(f"evar.{kind}.{name}")


def require_known(what: str, name: str, known: list[str]) -> None:
    """Raise UserError with close matches unless `name` is among the known ones."""
    if name not in known:
        raise unknown(what, name, known)
