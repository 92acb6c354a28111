"""What tests of sweeps look at: results, tables and the states of jobs."""

import json
import subprocess
import sys
from pathlib import Path

import evar
from evar.results import record

ROOT = Path(evar.__file__).parent.parent
FEW = ("--protocols=knn,linear", "--epochs=2", "--seeds=1")  # two jobs of a model, short probes


def runs(results: Path) -> list[record.RunRecord]:
    """The results in a folder, all of them good."""
    found, problems = record.load_runs(results)
    assert problems == []
    return found


def tables(results: Path) -> dict[str, bytes]:
    """The content of what runs write beside their JSON, by file name."""
    return {p.name: p.read_bytes() for p in (results / "runs").glob("*.gz")}


def scored(results: Path) -> dict[str, tuple]:
    """Everything that a run measured, by its id."""
    return {
        r.id: (r.score, dict(r.variant), r.metrics, r.config, r.request, r.seeds)
        for r in runs(results)
    }


def singly(models: str, task: str, results: Path) -> None:
    """Does what a sweep with the options FEW does in this process, job by job."""
    for model in models.split(","):
        for protocol, options in (("knn", {}), ("linear", {"epochs": 2, "seeds": 1})):
            evar.evaluate(model, task, protocol, cache=None, **options).save(results)


def states(results: Path) -> list[dict]:
    """What the files of jobs say."""
    return [json.loads(p.read_text()) for p in results.glob("sweeps/*/jobs/*.json")]


def start(*arguments: str) -> subprocess.Popen:
    """Starts a sweep in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "sweep.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
