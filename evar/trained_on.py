"""What a checkpoint was trained on, and whether the clips of a task are among that."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from evar import registry
from evar.errors import UserError, unknown
from evar.yaml_files import read_yaml

if TYPE_CHECKING:
    from evar.models import ModelConfig

LEVELS = ("test set", "test audio", "train set", "train audio", "same source", "possible")
UNKNOWN = "unknown"  # nothing is known of the checkpoint's training data, or of the task's clips
USES = ("audio", "labels", "captions")
_HEARD = {"test set": "test audio", "train set": "train audio"}  # what is left without labels


@dataclass(frozen=True)
class TrainingData:
    """One data set that a checkpoint was trained on.

    data: a name in tasks/data/training_sets.yaml. use: "audio" (self-supervised), "labels" or
    "captions". note: what else is known, and how surely.
    """

    data: str
    use: str = "audio"
    note: str = ""


@dataclass(frozen=True)
class TaskOverlap:
    """What is known of one task in particular; it counts before what the data sets imply.

    task: its name. level: one of LEVELS. note: why.
    """

    task: str
    level: str
    note: str = ""


def read_entries(entries: object, where: str) -> tuple[TrainingData | TaskOverlap, ...] | None:
    """Returns the entries of `trained_on` in a model's YAML; None stays None: not known.

    Raises UserError that names the file (`where`) for an entry with unknown keys or names.
    """
    if entries is None:
        return None
    if not isinstance(entries, list) or not all(isinstance(e, Mapping) for e in entries):
        raise UserError(f"{where}: trained_on is a list of {{data, use}} (docs/add-a-model.md)")
    return tuple(_entry(entry, where) for entry in entries)


def _entry(entry: Mapping, where: str) -> TrainingData | TaskOverlap:
    kind = TaskOverlap if "task" in entry else TrainingData
    known = [f.name for f in fields(kind)]
    for key in entry:
        if key not in known:
            raise unknown(f"key of trained_on in {where}:", str(key), known)
    for key, allowed in (("data", list(_table()["sets"])), ("use", USES), ("level", LEVELS)):
        if key in known and entry.get(key, "audio" if key == "use" else None) not in allowed:
            raise unknown(f"{key} of trained_on in {where}:", str(entry.get(key)), allowed)
    return kind(**entry)


def seen_in_training(config: "ModelConfig", task_name: str) -> str | None:
    """Returns how a task's clips overlap with what a model's checkpoint was trained on.

    One of LEVELS, the most serious one that is known; None where none is known (which does not
    prove that there is none); UNKNOWN where the training data are not known, because nobody stated
    them, because the weights are other ones than the published, or because nobody looked at the
    task. A model that was not trained, as with --weights=random, has seen nothing.
    """
    if config.checkpoint == "random" or config.trained_on == ():
        return None
    if config.trained_on is None or not _is_published(config):
        return UNKNOWN
    for entry in config.trained_on:
        if isinstance(entry, TaskOverlap) and entry.task == task_name:
            return entry.level
    shared = _table()["overlap"].get(task_name)
    if shared is None:
        return None if task_name in _table()["no_known_overlap"] else UNKNOWN
    return _most_serious(config.trained_on, shared)


def _most_serious(
    trained_on: Iterable[TrainingData | TaskOverlap], shared: Mapping[str, str]
) -> str | None:
    found = [
        _HEARD.get(shared[e.data], shared[e.data]) if e.use == "audio" else shared[e.data]
        for e in trained_on
        if isinstance(e, TrainingData) and e.data in shared
    ]
    return min(found, key=LEVELS.index, default=None)


def _is_published(config: "ModelConfig") -> bool:
    """Returns whether the weights are the published ones; a path counts where it has their name."""
    if config.checkpoint in ("", "published"):
        return True
    published = config.weights and Path(config.weights.file).name
    return Path(config.checkpoint).name == published


@cache
def _table() -> dict:
    """Returns tasks/data/training_sets.yaml."""
    return read_yaml(registry.folder("tasks") / "data" / "training_sets.yaml")
