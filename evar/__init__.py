"""evar: how good is this audio encoder?

The data flow one way: task -> clips -> adapter -> embeddings -> protocol -> result -> leaderboard.
"""

import importlib

__version__ = "0.1.0"

# The public names and where they are defined. They are imported on first use, so that
# `import evar` and `--help` need not wait for torch.
_PUBLIC = {
    "Adapter": "evar.adapter",
    "Task": "evar.task",
}


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'evar' has no attribute {name!r}")
