"""Learning rates of trained probes: a number, or "auto", a grid of five from which validation
chooses within each fold and seed.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from evar.errors import UserError

if TYPE_CHECKING:
    from evar.data.manifest import Manifest
    from evar.models import Model

AUTO = "auto"
RATES = (3e-5, 3e-4, 1e-3, 3e-3, 1e-2)  # from the slowest model's to that of small sets


class Scored(Protocol):
    """A trained probe with its score on held-out rows."""

    @property
    def valid_score(self) -> float: ...


Found = TypeVar("Found", bound=Scored)


def require_rate(lr: object) -> None:
    """Raises UserError for anything but a positive number or "auto"."""
    if isinstance(lr, (int, float)) and not isinstance(lr, bool) and 1e-12 <= lr < float("inf"):
        return
    if lr != AUTO:
        raise UserError(f"--lr must be a number of 1e-12 or more, or {AUTO}, not {lr!r}")


def usual_rate(model: "Model", manifest: "Manifest") -> float:
    """Returns the rate of the model for this task, else the task's, else the model's."""
    config, task = model.config, manifest.task
    return config.lr_by_task.get(task.name) or task.lr or config.lr or model.adapter.lr


def rates_of(lr: float | str) -> tuple[float, ...]:
    """Returns the rates to train with: the grid for "auto", else the one."""
    return (lr,) if isinstance(lr, float | int) else RATES


def best(tried: Mapping[float, Found]) -> float:
    """Returns the rate of the best validation score; of equally good ones the smallest."""
    return max(sorted(tried), key=lambda rate: tried[rate].valid_score)


def record(tried: Mapping[float, Found]) -> dict[str, object]:
    """Returns what a fold's record says of a grid: the rate chosen, the scores of all."""
    if len(tried) == 1:
        return {}
    scores = {f"{rate:g}": found.valid_score for rate, found in tried.items()}
    return {"lr": best(tried), "valid_by_lr": scores}


def grouped(fitted: Sequence[Found], rates: Sequence[float]) -> list[dict[float, Found]]:
    """Returns {rate: probe} for each job from probes in the order job by job, rate by rate."""
    count = len(rates)
    return [
        dict(zip(rates, fitted[at : at + count], strict=True))
        for at in range(0, len(fitted), count)
    ]
