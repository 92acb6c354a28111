"""Makes a checkout's top-level folder another name of the package that it holds.

`tasks/`, `model_adapters/` and `pretrain/` are the packages `evar.tasks`, `evar.model_adapters` and
`evar.pretrain` (links in `evar/` lead to them). From the checkout's root Python also finds them as
top-level packages, as in `python -m pretrain`. Without an alias each module would then exist twice,
with classes that are not the same.
"""

import importlib
import importlib.util
import sys
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType


def alias(name: str, package: str) -> None:
    """Have `import NAME.x` give the module PACKAGE.x; called while NAME is being imported."""
    sys.modules[name] = importlib.import_module(package)
    sys.meta_path.insert(0, _Finder(f"{name}.", f"{package}."))


class _Finder(MetaPathFinder):
    def __init__(self, prefix: str, target: str):
        self.prefix, self.target = prefix, target

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        if not fullname.startswith(self.prefix):
            return None
        real = importlib.util.find_spec(self.target + fullname.removeprefix(self.prefix))
        if real is None:
            return None
        spec = ModuleSpec(fullname, _Loader(real), origin=real.origin)
        spec.has_location = real.has_location
        return spec


class _Loader(InspectLoader):
    """Hands out the module of another specification; `get_code` is for `python -m`."""

    def __init__(self, real: ModuleSpec):
        if not isinstance(real.loader, InspectLoader):
            raise ImportError(f"{real.name} has no source", name=real.name)
        self.real, self.loader = real, real.loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return importlib.import_module(self.real.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.real  # the import system has just set the alias' own

    def get_code(self, fullname: str) -> CodeType | None:
        return self.loader.get_code(self.real.name)

    def get_source(self, fullname: str) -> str | None:
        return self.loader.get_source(self.real.name)

    def is_package(self, fullname: str) -> bool:
        return self.real.submodule_search_locations is not None
