"""Makes the record of a run that has just ended, and keeps records on disk.

results/runs/<id>.json, with <id>.predictions.csv.gz and further tables of the protocol beside it.
The leaderboard and pages are rebuilt from the JSONs.
"""

import gzip
import hashlib
import json
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
from evar.results import checks, schema1
from evar.results.schema import SCHEMA, RunRecord, from_json
from evar.scoring.evaluation import Evaluation

if TYPE_CHECKING:
    import pandas as pd

    from evar.data.manifest import Manifest
    from evar.models import Model
    from evar.protocol import Protocol
    from evar.runtime import Runtime

_LIBRARIES = ("numpy", "pandas", "scipy", "soundfile", "soxr", "torch", "torchaudio")


def make(
    evaluation: Evaluation,
    *,
    protocol: "Protocol",
    model: "Model",
    manifest: "Manifest",
    runtime: "Runtime",
    overrides: Mapping[str, object],
) -> RunRecord:
    """Returns the record of a run that has just ended.

    overrides: settings in which the run differs from the defaults for this model and task. The
    `id` hashes what decides the score: the same run again has the same id, and a new version of
    this package alone does not change it. Raises UserError for a score that is not a number.
    """
    task, of_model = manifest.task, _plain(model.identity)
    skipped = [entry["clip"] for entry in evaluation.clips["skipped"]]
    decisive = {
        "protocol": protocol.name,
        "protocol_version": protocol.version,
        "model": {"name": model.name, **of_model},
        "task": {"name": task.name, "version": task.version, "seconds": task.seconds},
        "manifest": manifest.sha256,
        "settings": _plain(evaluation.settings),
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
            "usual_seconds": _usual_seconds(manifest),
            "kind": task.kind,
        },
        "clips": evaluation.clips,
        "score": asdict(evaluation.score),
        "finished": datetime.now(UTC).isoformat(timespec="microseconds"),
        "variant": _variant(evaluation, protocol, model, overrides),
        "select": extra.pop("select", None),
        "metrics": evaluation.metrics,
        "per_class": evaluation.per_class,
        "undefined_classes": evaluation.undefined_classes,
        "runs": evaluation.runs,
        "seconds": evaluation.seconds,
        "clips_per_second": evaluation.clips_per_second,
        "config": asdict(model.config),
        "device": runtime.device,
        "python": platform.python_version(),
        "evar": evar.__version__,
        "libraries": {name: found for name in _LIBRARIES if (found := _version(name))},
        "git": git_revision(),
    }
    clash = set(extra) & set(about)
    if clash:
        raise ValueError(f"{protocol.name}: extra fields {sorted(clash)} are fields of the record")
    return from_json(_plain({**about, **extra}), file=f"{task.name}, {protocol.name}")


def _digest(value) -> str:
    return hashlib.sha256(files.canonical_json(value).encode()).hexdigest()[:16]


def _plain(value):
    """JSON values of mappings, sequences, paths and NumPy numbers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inside) for key, inside in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inside) for inside in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return str(value) if isinstance(value, Path) else value


def _size(model: "Model") -> dict[str, int | None]:
    """The number of parameters (None where the encoder keeps none in torch) and D."""
    return {"parameters": model.parameters or None, "width": model.adapter.embed_dim}


def _usual_seconds(manifest: "Manifest") -> float | None:
    """The unit length by default: a task's own, or the longest clip of a user's sounds."""
    from evar import task as tasks
    from evar.data import own_sounds

    task, table = manifest.task, manifest.good
    own = task.bundled is not None and not task.counts and task.name not in tasks.names()
    if task.seconds is None or not own or not len(table):
        return task.seconds
    longest = float((table.frames / table.sample_rate).max())
    return min(own_sounds.LONGEST, max(round(longest + 0.0005, 3), 0.001))  # as own_sounds does


def _variant(evaluation, protocol, model, overrides) -> dict[str, object]:
    """What differs from the defaults of protocol and model, for a person to read."""
    changed = schema1.weights_variant(str(model.config.checkpoint)) | _plain(overrides)
    if tuple(evaluation.seeds) != tuple(protocol.seeds):
        changed["seeds"] = list(evaluation.seeds)
    given, of_config = _plain(model.identity)["options"], _plain(model.config.options)
    return changed | {k: v for k, v in given.items() if of_config.get(k) != v}


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


def save_run(
    record: RunRecord,
    predictions: "pd.DataFrame",
    tables: Mapping[str, "pd.DataFrame"],
    folder,
) -> Path:
    """Writes the tables, then the JSON that makes the run count; returns the JSON's path.

    Raises UserError where the folder is not writable; tables of a new run are removed then.
    """
    runs = Path(folder) / "runs"
    path = runs / f"{record.id}.json"
    text = json.dumps(record.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    known = path.exists()
    written = []
    try:
        for name, table in {"predictions": predictions, **tables}.items():
            content = table.to_csv(index=False, lineterminator="\n").encode()
            packed = gzip.compress(content, compresslevel=5, mtime=0)  # the same bytes every time
            written.append(runs / f"{record.id}.{name}.csv.gz")
            files.write_atomic(written[-1], packed)
        files.write_atomic(path, text)
    except UserError:
        if not known:
            for table_path in written:
                table_path.unlink(missing_ok=True)
        raise
    return path


def load_runs(folder) -> tuple[list[RunRecord], list[str]]:
    """Returns the runs in a results folder, oldest first, and one line per file that is none.

    A run under two file names counts once. A bad file does not stop the others.
    """
    found: dict[str, RunRecord] = {}
    problems = []
    for path in sorted((Path(folder) / "runs").glob("*.json")):
        try:
            record = read_run(path)
        except UserError as error:
            problems.append(str(error))
            continue
        if record.id not in found or path.stem == record.id:
            found[record.id] = record
    return sorted(found.values(), key=lambda r: (checks.instant(r.finished), r.id)), problems


def read_run(path) -> RunRecord:
    """Returns the record in a file; UserError that names the file and what is wrong with it."""
    path = Path(path)
    if not path.is_file():  # a folder, or a pipe that would be waited for without end
        raise UserError(f"{path}: not a run's result (no regular file). Move it away.")
    with files.reading(path):
        content = path.read_bytes()
    try:
        data = checks.parse(content)
    except ValueError as error:
        raise UserError(f"{path}: not a run's result ({error}). Move it away.") from error
    return from_json(data, file=str(path))
