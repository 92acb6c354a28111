"""Learning rates of trained probes: a number, or "auto", a grid of five from which validation
chooses within each fold and seed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from evar.errors import UserError

if TYPE_CHECKING:
    from evar.data.manifest import Manifest
    from evar.models import Model

AUTO = "auto"
RATES = (3e-5, 3e-4, 1e-3, 3e-3, 1e-2)  # from the slowest model's to that of small sets


class Scored(Protocol):
    """A trained probe with its score on held-out rows.

    goodness: the score, the larger the better; -inf where training diverged.
    """

    @property
    def valid_score(self) -> float: ...

    @property
    def goodness(self) -> float: ...


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
    return max(sorted(tried), key=lambda rate: tried[rate].goodness)


def record(tried: Mapping[float, Found]) -> dict[str, object]:
    """Returns what a fold's record says of a grid: the rate chosen, the scores of all.

    A rate at which training diverged has the score None and is listed in `diverged`.
    """
    if len(tried) == 1:
        return {}
    lost = [rate for rate in tried if tried[rate].goodness == -math.inf]
    scores = {
        f"{rate:g}": None if rate in lost else found.valid_score for rate, found in tried.items()
    }
    dropped = {"diverged": [f"{rate:g}" for rate in lost]} if lost else {}
    return {"lr": best(tried), "valid_by_lr": scores, **dropped}


def grouped(fitted: Sequence[Found], rates: Sequence[float]) -> list[dict[float, Found]]:
    """Returns {rate: probe} for each job from probes in the order job by job, rate by rate.

    Raises ValueError where the probes of a job have diverged at every rate.
    """
    count = len(rates)
    found = [
        dict(zip(rates, fitted[at : at + count], strict=True))
        for at in range(0, len(fitted), count)
    ]
    for tried in found:
        require_any(list(tried.values()))
    return found


def require_any(fitted: Sequence[Found]) -> None:
    """Raises ValueError where training diverged at every rate."""
    if all(probe.goodness == -math.inf for probe in fitted):
        raise ValueError("the probe diverged: its scores are not numbers. Give a smaller --lr")
