"""Makes the record of a run that has just ended: what was measured, of what, and where it ran."""

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import evar
from evar import files
from evar.errors import UserError
from evar.results import schema1
from evar.results.record import SCHEMA, RunRecord, from_json
from evar.scoring.evaluation import Evaluation
from evar.trained_on import UNKNOWN, seen_in_training

if TYPE_CHECKING:
    from evar.data.manifest import Manifest
    from evar.models import Model
    from evar.protocol import Protocol
    from evar.task import Task

_LIBRARIES = ("av", "numpy", "pandas", "scipy", "soundfile", "soxr", "torch", "torchaudio")


def make(
    evaluation: Evaluation,
    *,
    protocol: "Protocol",
    model: "Model",
    manifest: "Manifest",
    device: str,
    overrides: Mapping[str, object],
    request: str = "",
) -> RunRecord:
    """Returns the record of a run that has just ended.

    overrides: the settings in which it differs from the defaults for this model and task. request:
    hash of what was asked for (`evar.run.Request.key`).

    Its `id` hashes what decides the score: the same run again has the same id, and a new version
    of this package alone does not change it. Raises UserError for a score that is not a number.
    """
    task, of_model = manifest.task, plain(model.identity)
    skipped = [entry["clip"] for entry in evaluation.clips["skipped"]]
    decisive = {
        "protocol": protocol.name,
        "protocol_version": protocol.version,
        "model": {"name": model.name, **of_model},
        "task": {"name": task.name, "version": task.version, "seconds": task.seconds},
        "manifest": manifest.sha256,
        "settings": plain(evaluation.settings),
        "seeds": list(evaluation.seeds),
    }
    extra = dict(evaluation.extra)
    about = {
        "schema": SCHEMA,
        "id": _digest({**decisive, "skipped": skipped}),
        **decisive,
        "model": {**decisive["model"], **_size(model)},
        "task": {
            **decisive["task"],
            "published": bool(task.counts),
            "usual_seconds": manifest.usual_seconds(),
            "kind": task.kind,
        },
        "clips": evaluation.clips,
        "score": asdict(evaluation.score),
        "finished": datetime.now(UTC).isoformat(timespec="microseconds"),
        "variant": _variant(overrides, evaluation, protocol, model),
        "select": extra.pop("select", None),
        "metrics": evaluation.metrics,
        "per_class": evaluation.per_class,
        "undefined_classes": evaluation.undefined_classes,
        "runs": evaluation.runs,
        "seconds": evaluation.seconds,
        "clips_per_second": evaluation.clips_per_second,
        "config": asdict(model.config),
        "device": device,
        "python": platform.python_version(),
        "evar": evar.__version__,
        "libraries": {name: found for name in _LIBRARIES if (found := _version(name))},
        "git": git_revision(),
        "request": request,
        "seen_in_training": _seen(model, task),
        "unheard": _unheard(evaluation, manifest),
    }
    clash = set(extra) & set(about)
    if clash:
        raise ValueError(f"{protocol.name}: extra fields {sorted(clash)} are fields of the record")
    return from_json(plain({**about, **extra}), file=f"{task.name}, {protocol.name}")


def _digest(value) -> str:
    return hashlib.sha256(files.canonical_json(value).encode()).hexdigest()[:16]


def plain(value):
    """JSON values of mappings, sequences, paths and NumPy numbers."""
    if isinstance(value, Mapping):
        return {str(key): plain(inside) for key, inside in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inside) for inside in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value) if isinstance(value, Path) else value


def _size(model: "Model") -> dict[str, int | None]:
    """The number of parameters (None where the encoder keeps none in torch) and D."""
    return {"parameters": model.parameters or None, "width": model.adapter.embed_dim}


def _variant(
    overrides: Mapping[str, object],
    evaluation: Evaluation,
    protocol: "Protocol",
    model: "Model",
) -> dict[str, object]:
    """Returns what differs from the defaults of protocol and model, for a person to read."""
    changed = {**schema1.weights_variant(str(model.config.checkpoint)), **plain(overrides)}
    if tuple(evaluation.seeds) != tuple(protocol.seeds):
        changed["seeds"] = list(evaluation.seeds)
    given = plain(model.identity)["options"]
    of_config = plain(model.config.options)
    return changed | {k: v for k, v in given.items() if of_config.get(k) != v}


def _seen(model: "Model", task: "Task") -> str | None:
    """Returns how the model's training data overlap with the task's; of a user's task: unknown."""
    try:
        return seen_in_training(model.config, task.name) if task.counts else UNKNOWN
    except UserError:  # a model that is not registered
        return UNKNOWN


def _unheard(evaluation: Evaluation, manifest: "Manifest") -> dict[str, object]:
    """Returns how much of the clips no unit covers; empty where clips are heard whole."""
    unheard = manifest.unheard()
    if not unheard or evaluation.settings.get("reading") == "whole clips":
        return {}
    return {
        "longer": unheard.longer,
        "clips": unheard.clips,
        "share": unheard.share,
        "note": str(unheard),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_revision() -> str | None:
    """Returns the commit of the checkout this code runs from, with "-dirty" if it was edited."""
    folder = Path(evar.__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
