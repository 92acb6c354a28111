"""Modules that can be called: `evar.models()` lists what the module `evar.models` registers."""

import sys
from collections.abc import Callable
from types import ModuleType


def callable_module(name: str, function: Callable[[], object]) -> None:
    """Makes calling the module `name` call `function`; it stays a module in all other respects."""

    class Callable_(ModuleType):
        def __call__(self):
            return function()

    sys.modules[name].__class__ = Callable_
