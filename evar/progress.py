"""Progress of long steps, shown in a terminal, a notebook, a sweep's table or nowhere."""

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self


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
        from tqdm.auto import tqdm

        description = f"{self.title}: {stage}" if self.title else stage
        return tqdm(
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
