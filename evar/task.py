"""A task: one data set with its question, its split, its metric and where it comes from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import evar.registry as registry
from evar.errors import UserError

SPLITS = ("train", "valid", "test")


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

    `read` takes the folder of the unpacked data set and returns a pandas table with one row a clip:
    `file` (relative to that folder), `label` (several joined by "," in a multi-label task), `split`
    ("train", "valid", "test") or `fold`, and, where the data set has them, `group` (speaker,
    recording, ...: what must not be on both sides of a split).
    """

    name: str
    version: str  # written into every result; raise it when scores change
    title: str
    read: Callable[[Path], "pandas.DataFrame"]  # noqa: F821  (pandas is imported late)
    marker: str | tuple[str, ...]  # what every copy has in its root; of several the first found
    folders: tuple[str, ...] = ()  # what its folder is usually called (patterns)
    metadata: str = ""  # the file that lists the clips; error messages name it
    seconds: float | None  # unit length; None: clips are read whole
    classes: int | None = None  # expected number; None: whatever the data has
    metric: Literal["accuracy", "mAP", "recall"] = "accuracy"  # recall: audio-text retrieval
    multi_label: bool = False
    folds: tuple[str, ...] = ()  # cross-validation folds; empty: train / valid / test
    counts: Mapping[str, int] = field(default_factory=dict)  # clips of each split or fold
    lr: float | None = None  # of the linear probe for all models, where the usual one is too slow
    group: str = ""  # what a group is: "speaker", "recording", ...; empty: no groups
    groups_cross: tuple[str, ...] = ()  # sides that share groups in the published split itself
    silence: bool = False  # the published set holds digital silence, and papers score it
    captions: str | Mapping[str, str] = "{label} can be heard"  # zero-shot; "_" of a label is " "
    titles: Callable[[Path], Mapping[str, str]] | None = None  # what captions call a label
    read_captions: Callable[[Path], "pandas.DataFrame"] | None = None  # noqa: F821  (retrieval)
    sources: tuple[Source, ...] = ()
    licence: str = ""
    homepage: str = ""
    notes: tuple[str, ...] = ()  # traps of the data set, for docs/tasks.md
    comparable: str = ""  # why a score of an incomplete copy cannot be compared, where that is so
    trains: bool = True  # False: a test side alone, for zero-shot classification
    bundled: Path | None = None  # the data set's folder, where it ships with the harness

    def __post_init__(self):
        def require(condition, reason):
            if not condition:
                raise ValueError(f"task {self.name!r}: {reason}")

        require(self.seconds is None or self.seconds > 0, "seconds must be positive")
        require(self.metric in ("accuracy", "mAP", "recall"), f"unknown metric {self.metric!r}")
        require((self.metric == "recall") == bool(self.read_captions), "recall needs captions")
        require((self.metric == "mAP") == self.multi_label, "mAP goes with multi_label, only")
        expected = self.folds or SPLITS
        require(set(self.counts) <= set(expected), f"counts must name {expected}")
        object.__setattr__(self, "counts", MappingProxyType(dict(self.counts)))

    @property
    def column(self) -> str:
        """The column that says which side a clip is on: "fold" or "split"."""
        return "fold" if self.folds else "split"

    def unit_samples(self, sample_rate: int) -> int:
        """Samples of one unit at this rate, truncated as in the paper's evaluation."""
        return int(sample_rate * self.seconds)


def names() -> list[str]:
    """All registered tasks, by the names of their files."""
    return registry.module_names("tasks")


def get(name: str) -> Task:
    """The registered task of this name; UserError with close matches where there is none."""
    registry.require_known("task", name, names())
    task = registry.load("tasks", name).TASK
    if task.name != name:
        raise UserError(f"tasks/{name}.py calls itself {task.name!r}: name and file must agree")
    return task
