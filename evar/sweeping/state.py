"""A sweep's folder, <results>/sweeps/<id>/: what was asked for, and where each job stands.

jobs/<job id>.json is rewritten atomically by the driver whenever a job changes its state, so that
`--status` needs nothing else. logs/<job id>.log has what the job printed.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from evar import files
from evar.errors import UserError
from evar.sweeping.job import Job

WAITING, RUNNING, DONE, FAILED, BLOCKED = "waiting", "running", "done", "failed", "cannot run"
STATES = (DONE, RUNNING, WAITING, FAILED, BLOCKED)


@dataclass(frozen=True)
class State:
    """Where a job stands.

    status: one of STATES. attempts: how often it failed. stage, count, total, unit: what a running
    job is at. why: one line, of a job that failed or cannot run. run: id of its result. worker:
    the process. changed: Unix time of the last change.
    """

    status: str = WAITING
    attempts: int = 0
    stage: str = ""
    count: int = 0
    total: int | None = None
    unit: str = ""
    why: str = ""
    run: str = ""
    worker: int | None = None
    changed: float = 0.0


class Folder:
    """The folder of one sweep; jobs of another order or command are the same sweep."""

    def __init__(self, results, jobs: Iterable[Job]):
        self.jobs = sorted(set(jobs), key=lambda job: (job.task, job.model, job.protocol, job.id))
        digest = hashlib.sha256(" ".join(sorted(job.id for job in self.jobs)).encode())
        self.results = Path(results)
        self.path = self.results / "sweeps" / digest.hexdigest()[:12]

    def create(self) -> None:
        """Makes the folder and writes down what the sweep is."""
        files.make_folder(self.path / "jobs")
        files.make_folder(self.path / "logs")
        jobs = {job.id: job.to_json() for job in self.jobs}
        files.write_atomic(self.path / "plan.json", json.dumps(jobs, indent=1) + "\n")

    def log(self, job: Job) -> Path:
        """Returns the path of a job's log file."""
        return self.path / "logs" / f"{job.id}.log"

    def write(self, job: Job, state: State) -> None:
        """Writes where a job stands, whole or not at all."""
        content = {**job.to_json(), **asdict(state)}
        path = self.path / "jobs" / f"{job.id}.json"
        files.write_atomic(path, json.dumps(content, indent=1) + "\n")

    def read(self, job: Job) -> State:
        """Returns where a job stands; "waiting" where nothing is known."""
        path = self.path / "jobs" / f"{job.id}.json"
        try:
            content = json.loads(path.read_text())
            return State(**{k: content[k] for k in State.__dataclass_fields__})
        except FileNotFoundError:
            return State()
        except (ValueError, KeyError, OSError) as error:
            raise UserError(f"{path}: cannot be read ({error}). Remove it") from error


class Board:
    """The states of a sweep's jobs in the driver: in memory, on disk and on the display."""

    def __init__(self, folder: Folder, jobs: Iterable[Job]):
        self.folder = folder
        self.states = {job: State() for job in jobs}
        self.started = time.time()

    def open(self, why: Mapping[Job, str]) -> None:
        """Writes down which jobs cannot run, and that those of an earlier sweep wait again."""
        for job, reason in why.items():
            if reason:
                self.set(job, status=BLOCKED, why=reason)
            elif self.folder.read(job).status != DONE:
                self.folder.write(job, self.states[job])

    def set(self, job: Job, **changes) -> State:
        """Changes the state of a job; what changes its status is written to disk."""
        before = self.states[job]
        after = replace(before, **changes, changed=time.time())
        self.states[job] = after
        if any(getattr(after, k) != getattr(before, k) for k in ("status", "stage", "worker")):
            self.folder.write(job, after)
        return after

    def of(self, *statuses: str) -> list[Job]:
        """Returns the jobs of these statuses."""
        return [job for job, state in self.states.items() if state.status in statuses]

    def fail(self, job: Job, why: str, *, retries: int) -> bool:
        """Counts a failure; returns whether the job is to be tried again."""
        attempts = self.states[job].attempts + 1
        again = attempts <= retries
        status = WAITING if again else FAILED
        self.set(job, status=status, attempts=attempts, why=why, stage="", worker=None)
        return again


def counts(states: Iterable[State]) -> str:
    """Returns how many jobs have each status, as one line."""
    found = Counter(state.status for state in states)
    return ", ".join(f"{found[status]} {status}" for status in STATES if found[status])


def report(folder: Folder) -> list[str]:
    """Returns the lines of `--status`."""
    states = {job: folder.read(job) for job in folder.jobs}
    lines = [f"{folder.path}: {len(states)} jobs: {counts(states.values())}"]
    for job, state in states.items():
        if state.status == RUNNING:
            since = f"{time.time() - state.changed:.0f} s ago"
            lines.append(f"  running  {job.name}: {state.stage} (last change {since})")
        elif state.status == FAILED:
            lines.append(f"  failed  {job.name}: {state.why} ({folder.log(job)})")
        elif state.status == BLOCKED:
            lines.append(f"  cannot run  {job.name}: {state.why}")
    return lines
