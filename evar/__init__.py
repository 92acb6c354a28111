"""evar: how good is this audio encoder?

    import evar

    run = evar.evaluate("m2d_clap", "esc50", protocol="linear", seeds=3)
    run.score, run.interval, run.predictions
    table, embeddings = evar.embed("beats_iter3", "folder")
    evar.models(), evar.tasks()

The data flow one way: task -> clips -> adapter -> embeddings -> protocol -> result -> leaderboard.
docs/api.md describes all of it.
"""

import importlib

__version__ = "0.2.0"

# The public names and where they are defined. They are imported on first use, so that
# `import evar` and `--help` need not wait for torch.
_PUBLIC = {
    "Adapter": "evar.adapter",
    "Protocol": "evar.protocol",
    "Run": "evar.run",
    "Runtime": "evar.runtime",
    "Task": "evar.task",
    "UserError": "evar.errors",
    "embed": "evar.extract",
    "evaluate": "evar.run",
}
_MODULES = ("models", "tasks")  # modules that can be called as well: evar.models(), evar.tasks()

__all__ = sorted([*_PUBLIC, *_MODULES])


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"evar.{name}")
    raise AttributeError(f"module 'evar' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
