"""A task: one data set with its question, its split, its metric and where it comes from."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import evar.registry as registry
from evar import options
from evar.errors import UserError, unknown

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Kind:
    """A kind of task: what a clip's truth is, and which metrics can score it.

    labels: how many labels a clip has, "one", "several" or "none" (its truth is elsewhere, as
    captions are). metrics: names in evar.scoring.metrics that fit; the first is the default.
    """

    name: str
    labels: Literal["one", "several", "none"]
    metrics: tuple[str, ...]
    captions: bool = False  # the task has captions of its clips (`Task.read_captions`)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("classification", "one", ("accuracy",)),
        Kind("tagging", "several", ("mAP",)),
        Kind("retrieval", "none", ("recall",), captions=True),
    )
}


POOLS = ("mean", "max")
WINDOW_OPTIONS = ("windows", "hop", "pool")  # of commands


@dataclass(frozen=True)
class Windows:
    """How a recording is heard in steps: windows of so many seconds, one every `hop` seconds.

    hop: by default a window; never more, so that all is heard. pool: what the class scores of a
    recording are of those of its windows, "mean" or "max". Raises UserError for other values.
    """

    seconds: float
    hop: float | None = None
    pool: str = "mean"

    def __post_init__(self):
        seconds = options.number("windows", self.seconds, above=0.001)
        hop = options.number("hop", self.hop, above=0.001, optional=True)
        assert seconds is not None  # it is not optional
        if hop is not None and hop > seconds:
            raise UserError(f"--hop={hop:g} would skip audio: it is --windows={seconds:g} at most")
        if self.pool not in POOLS:
            raise unknown("pool", str(self.pool), POOLS)
        object.__setattr__(self, "seconds", seconds)
        object.__setattr__(self, "hop", seconds if hop is None else hop)

    @classmethod
    def taken_from(cls, options_: dict[str, Any]) -> "Windows | None":
        """Removes a command's `windows`, `hop` and `pool` from its options; returns what they say.

        Returns None where none is given. Raises UserError for a hop or a pool without windows.
        """
        found = {name: options_.pop(name, None) for name in WINDOW_OPTIONS}
        given = {name: value for name, value in found.items() if value is not None}
        if given and "windows" not in given:
            raise UserError(f"--{next(iter(given))} is of --windows=SECONDS, which is not given")
        return cls(given.pop("windows"), **given) if given else None


@dataclass(frozen=True, kw_only=True)
class Source:
    """One published file of a data set.

    `path` is its place below the data set's folder. `kind`: an "archive" is unpacked there, a
    "table" is read as it is, a "guide" only helps to get the audio. A "list" names files, one a
    line: address, and perhaps size and SHA-256; they are fetched into the folder `into`, archives
    among them unpacked there. A file without `url` cannot be fetched, or comes inside an archive;
    `how` says what a person has to do.
    """

    path: str
    url: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None
    git_sha1: str | None = None
    kind: Literal["archive", "table", "guide", "list"] = "table"
    into: str = ""
    how: str = ""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One data set as an evaluation uses it: one literal of this class in `tasks/<name>.py`.

    `read` takes the folder of the unpacked data set and returns a pandas table, one row per clip:
    `file` (relative to that folder), `label` (several joined by "," in a tagging task), `split`
    ("train", "valid", "test") or `fold`, and, where the data set has them, `group` (speaker,
    recording, ...: what must not be on both sides of a split).
    """

    name: str
    version: str  # written into every result; raise it when scores change
    title: str
    read: Callable[[Path], "pd.DataFrame"]
    marker: str | tuple[str, ...]  # what every copy has in its root; of several the first found
    folders: tuple[str, ...] = ()  # what its folder is usually called (patterns)
    metadata: str = ""  # the file that lists the clips; error messages name it
    seconds: float | None  # unit length; None: clips are read whole
    longest: float | None = None  # own sounds, `seconds` None: the longest clip, at most so long
    windows: Windows | None = None  # own sounds: score recordings by windows of the unit's length
    classes: int | None = None  # expected number; None: as many as the data has
    kind: str = "classification"  # a name in KINDS
    metric: str = ""  # a metric that fits the kind; "": the kind's default
    folds: tuple[str, ...] = ()  # cross-validation folds; empty: train / valid / test
    counts: Mapping[str, int] = field(default_factory=dict)  # clips of each split or fold
    lr: float | None = None  # of the linear probe for all models, where the usual one is too slow
    group: str = ""  # what a group is: "speaker", "recording", ...; empty: no groups
    groups_cross: tuple[str, ...] = ()  # sides that share groups in the published split itself
    silence: bool = False  # the published set holds digital silence, and papers score it
    captions: str | Mapping[str, str] = "{label} can be heard"  # zero-shot; "_" of a label is " "
    titles: Callable[[Path], Mapping[str, str]] | None = None  # what captions call a label
    read_captions: Callable[[Path], "pd.DataFrame"] | None = None  # retrieval
    sources: tuple[Source, ...] = ()
    licence: str = ""
    homepage: str = ""
    citation: str = ""  # BibTeX of the paper that describes the data set
    notes: tuple[str, ...] = ()  # traps of the data set, for docs/tasks.md
    comparable: str = ""  # why a score of an incomplete copy cannot be compared, where that is so
    trains: bool = True  # False: a test side alone, for zero-shot classification
    bundled: Path | None = None  # the data set's folder, where it ships with the harness

    def __post_init__(self):
        def require(condition, reason):
            if not condition:
                raise ValueError(f"task {self.name!r}: {reason}")

        require(self.seconds is None or self.seconds > 0, "seconds must be positive")
        require(self.longest is None or self.longest > 0, "longest must be positive")
        require(not self.windows or self.windows.seconds == self.seconds, "a window is the unit")
        require(self.kind in KINDS, f"unknown kind {self.kind!r}, not one of {', '.join(KINDS)}")
        kind = KINDS[self.kind]
        object.__setattr__(self, "metric", self.metric or kind.metrics[0])
        require(kind.captions == bool(self.read_captions), f"{self.kind} and captions disagree")
        expected = self.folds or SPLITS
        require(set(self.counts) <= set(expected), f"counts must name {expected}")
        object.__setattr__(self, "counts", MappingProxyType(dict(self.counts)))
        object.__setattr__(self, "citation", inspect.cleandoc(self.citation))

    def __getstate__(self) -> dict:
        """Returns the fields, for another process; the read-only view of counts cannot be sent."""
        return {**vars(self), "counts": dict(self.counts)}

    def __setstate__(self, state: dict) -> None:
        vars(self).update(state, counts=MappingProxyType(state["counts"]))

    @property
    def multi_label(self) -> bool:
        """Returns whether a clip can have several labels."""
        return KINDS[self.kind].labels == "several"

    @property
    def labelled(self) -> bool:
        """Returns whether clips have labels at all."""
        return KINDS[self.kind].labels != "none"

    @property
    def column(self) -> str:
        """Returns the column that says which side a clip is on: "fold" or "split"."""
        return "fold" if self.folds else "split"

    def unit_samples(self, sample_rate: int) -> int:
        """Samples of one unit at this rate, truncated as in the paper's evaluation."""
        if self.seconds is None:
            raise ValueError(f"clips of {self.name} are read whole")
        return int(sample_rate * self.seconds)


def is_own(task: Task) -> bool:
    """Returns whether a task is a user's own sounds, whose unit is a default, not published."""
    return task.bundled is not None and not task.counts and task.name not in names()


def names() -> list[str]:
    """Returns all registered tasks, by the names of their files."""
    return registry.names("tasks")


def get(name: str) -> Task:
    """Returns the task of this name; UserError with close matches where there is none."""
    registry.require_known("task", name, names())
    return registry.declared("tasks", name, "TASK", Task)
