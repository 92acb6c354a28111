"""Progress of long steps, shown in a terminal, a notebook, a sweep's table or nowhere."""

import functools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

_SLOW = 30.0  # seconds after which a bar looks whether others compete for the cores
_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container or a job: "QUOTA PERIOD" or "max PERIOD"


class Bar(Protocol):
    """The part of tqdm's interface that this package uses."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception) -> None: ...
    def __iter__(self) -> Iterator: ...
    def update(self, count: int = 1) -> object: ...
    def set_postfix(self, values: dict, refresh: bool = True) -> object: ...


class Progress:
    """Reports nothing. Subclasses override `bar`; they must be picklable to reach workers."""

    def bar(
        self, stage: str, unit: str, iterable: Iterable | None = None, total: int | None = None
    ) -> Bar:
        """Returns a bar for one stage ("decode and embed") that counts units ("clip").

        With `iterable` the bar is iterated over, as tqdm's.
        """
        return _NoBar(iterable)

    def note(self, text: str) -> None:
        """Reports one line that a person should see before a long step."""

    def counter(self, stage: str, unit: str) -> Callable[..., Bar]:
        """Returns `bar` for one stage: a function of (iterable, total)."""
        return functools.partial(self.bar, stage, unit)


class _NoBar:
    def __init__(self, iterable: Iterable | None):
        self.iterable = iterable

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        pass

    def __iter__(self) -> Iterator:
        return iter(self.iterable or ())

    def update(self, count: int = 1) -> None:
        pass

    def set_postfix(self, values: dict, refresh: bool = True) -> None:
        pass


@dataclass(frozen=True)
class Terminal(Progress):
    """Shows tqdm bars that appear after half a second and leave nothing behind."""

    title: str = ""

    def bar(
        self, stage: str, unit: str, iterable: Iterable | None = None, total: int | None = None
    ) -> Any:
        description = f"{self.title}: {stage}" if self.title else stage
        return bar_class()(
            iterable,
            total=total,
            desc=description,
            unit=unit,
            unit_scale=unit == "B",
            delay=0.5,
            leave=False,
        )

    def note(self, text: str) -> None:
        from tqdm.auto import tqdm

        tqdm.write(f"{self.title}: {text}" if self.title else text, file=sys.stderr)


SILENT = Progress()


@functools.cache
def bar_class() -> type:
    """Returns the class of tqdm's bars that say once per process that cores are too few."""
    from tqdm.auto import tqdm

    class Watching(tqdm):
        looked = False

        def __init__(self, *arguments, **options):
            self.made = time.monotonic()
            super().__init__(*arguments, **options)

        def update(self, n=1):
            shown = super().update(n)
            if not Watching.looked and time.monotonic() - self.made > _SLOW:
                Watching.looked = True
                if said := crowding():
                    tqdm.write(f"note: {said}", file=sys.stderr)
            return shown

    return Watching


def crowding() -> str:
    """Says that the threads of this process are more than the cores it has; "" where they are not.

    Threads of one operation wait for one another: where some do not run, steps take many times
    longer. Cores count as far as affinity and quota allow them, and the load of the machine tells
    what others take.
    """
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 1
    cores, load = _cores(), os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    remedy = "steps may be many times faster with OMP_NUM_THREADS"
    if threads > cores:
        return f"{threads} threads share {cores:g} cores: {remedy}={max(1, int(cores))}"
    machine = os.cpu_count() or 1
    if threads > 1 and load > 1.5 * machine:
        share = max(1, int(threads * machine / load))
        return f"the load of this machine's {machine} cores is {load:.0f}: {remedy}={share}"
    return ""


def _cores() -> float:
    """Returns how many cores this process may use: those of its affinity, at most its quota."""
    allowed = getattr(os, "sched_getaffinity", None)
    cores = float(len(allowed(0)) if allowed else os.cpu_count() or 1)
    try:
        quota, period = _QUOTA.read_text(encoding="ascii").split()
        return cores if quota == "max" else min(cores, int(quota) / int(period))
    except (OSError, ValueError):  # another system
        return cores
