"""evar: how good is this audio encoder?

The walk of the data, one module a step:
tasks -> clips -> adapter -> embeddings -> protocols -> results -> leaderboard.
"""

from pathlib import Path

__version__ = "0.1.0"

# A checkout keeps tasks/ and model_adapters/ beside this folder; a wheel holds them inside it (see
# pyproject.toml). Either way they are the sub-packages evar.tasks and evar.model_adapters.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "model_adapters").is_dir():
    __path__.append(str(_checkout))


def __getattr__(name: str):
    """The two names that users import; lazy, so that `--help` need not wait for torch."""
    if name == "Adapter":
        from evar.adapter import Adapter

        return Adapter
    if name == "Task":
        from evar.task import Task

        return Task
    raise AttributeError(f"module 'evar' has no attribute {name!r}")
