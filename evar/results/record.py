"""Results on disk: one JSON a run, named by what the run was, with its predictions beside it.

results/runs/<id>.json, <id>.predictions.csv.gz and further tables of the protocol. The
leaderboard and pages are rebuilt from the JSONs.
"""

import gzip
import hashlib
import json
import platform
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import evar
from evar import files
from evar.data.manifest import Manifest
from evar.errors import UserError
from evar.models import ModelConfig
from evar.scoring.summary import Evaluation

SCHEMA = 1
_LIBRARIES = ("numpy", "pandas", "scipy", "soundfile", "soxr", "torch", "torchaudio")


def run_record(
    evaluation: Evaluation, config: ModelConfig, identity: dict, manifest: Manifest, *, device: str
) -> dict:
    """The whole record of a run: what the protocol gave, and what it was of.

    `id` hashes what decides the score: protocol and settings, model, data, seeds, code version,
    clips left out. The same run again has the same id.
    """
    task, record = manifest.task, evaluation.record
    about = {
        "protocol": record["protocol"],
        "protocol_version": record["protocol_version"],
        "model": {"name": config.name, **identity},
        "task": {
            "name": task.name,
            "version": task.version,
            "seconds": task.seconds,
            "published": bool(task.counts),
        },
        "manifest": manifest.sha256,
        "settings": record["settings"],
        "seeds": record["seeds"],
        "skipped": [skipped["clip"] for skipped in record["clips"]["skipped"]],
        "evar": evar.__version__,
    }
    return {
        "schema": SCHEMA,
        "id": hashlib.sha256(files.canonical_json(about).encode()).hexdigest()[:16],
        **about,
        "config": asdict(config),
        **record,
        "device": device,
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "git": git_revision(),
        "finished": datetime.now(UTC).isoformat(timespec="microseconds"),
    }


def git_revision() -> str | None:
    """The commit of the checkout this code runs from, "-dirty" if it was edited; None elsewhere."""
    folder = Path(evar.__file__).resolve().parent.parent
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def save_run(record: dict, evaluation: Evaluation, results) -> Path:
    """Write the tables, then the JSON that makes the run count; returns the JSON's path."""
    runs = Path(results) / "runs"
    path = runs / f"{record['id']}.json"
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    known = path.exists()
    written = []
    try:
        for name, table in {"predictions": evaluation.predictions, **evaluation.tables}.items():
            content = table.to_csv(index=False, lineterminator="\n").encode()
            packed = gzip.compress(content, compresslevel=5, mtime=0)  # the same bytes every time
            written.append(runs / f"{record['id']}.{name}.csv.gz")
            files.write_atomic(written[-1], packed)
        files.write_atomic(path, text)
    except UserError:
        if not known:  # tables of a run that does not count
            for beside in written:
                beside.unlink(missing_ok=True)
        raise
    return path


_NEEDED = {  # of a record, by whoever makes tables of it
    "id": (),
    "finished": (),
    "protocol": (),
    "protocol_version": (),
    "manifest": (),
    "settings": (),
    "seeds": (),
    "model": ("name", "weights", "source", "options"),
    "config": ("options",),
    "task": ("name", "version", "seconds", "published"),
    "clips": ("partial", "skipped"),
    "score": ("metric", "mean", "ci95", "runs", "bootstrap95", "bootstrap_unit"),
}


def load_runs(results) -> list[dict]:
    """All runs in a results folder, oldest first; UserError for a file that is none."""
    records = []
    for path in sorted((Path(results) / "runs").glob("*.json")):
        with files.reading(path):
            content = path.read_bytes()
        try:
            record = json.loads(content.decode())
            if record["schema"] != SCHEMA:
                raise ValueError(f"written by another version (schema {record['schema']})")
            for key, inside in _NEEDED.items():
                value = record[key]
                for name in inside:
                    value[name]
            100 * record["score"]["mean"], record["finished"] + record["id"]
        except (ValueError, KeyError, TypeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise UserError(f"{path}: not a run's result ({reason}). Move it away.") from error
        records.append(record)
    return sorted(records, key=lambda r: (r["finished"], r["id"]))


def percent(record: dict, digits: int = 1) -> str:
    """The score in percent with its interval.

    "71.3 ± 0.8" is the half width over runs; "71.3" a single run of several possible ones, which
    has none. "71.3 [69.0, 73.5]" is the interval over test clips, where nothing random decides.
    """
    score = record["score"]
    text = f"{100 * score['mean']:.{digits}f}"
    if not record["seeds"]:
        low, high = (f"{100 * value:.{digits}f}" for value in score["bootstrap95"])
        return f"{text} [{low}, {high}]"
    return text if score["ci95"] is None else f"{text} ± {100 * score['ci95']:.{digits}f}"


def caveats(record: dict) -> list[str]:
    """What must be said wherever the score is shown: a partial set, clips left out, an oracle."""
    said, clips = [], record["clips"]
    if record.get("select") == "oracle":
        said.append("oracle")  # the epoch was chosen by the test set
    if clips["partial"]:
        said.append(f"partial: {clips['partial']}")
    if clips["skipped"]:
        count = len(clips["skipped"])
        said.append(f"{count} bad clip{'s' if count > 1 else ''} skipped")
    return said


def summary_line(record: dict) -> str:
    """The line a run ends with: model, task, protocol, score, interval, runs, caveats."""
    score = record["score"]
    runs = f"{score['runs']} runs" if score["runs"] > 1 else "1 run, no interval over runs"
    how = f"{'' if score['ci95'] is None else '95 % CI, '}{runs}"
    if not record["seeds"]:
        how = "95 % CI over test clips"
    parts = [
        record["model"]["name"],
        record["task"]["name"],
        record["protocol"],
        f"{score['metric']} {percent(record)} % ({how})",
        *(f"[{caveat}]" for caveat in caveats(record)),
    ]
    return "  ".join(parts)
