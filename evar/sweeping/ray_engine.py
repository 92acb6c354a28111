"""The Ray engine: groups of jobs as tasks of a Ray cluster, which places and restarts them.

Nothing but the results and the cache, in folders that all machines share, passes between tasks;
both are written by atomic rename. Ray runs a task again whose process or machine has died.
"""

import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import evar
from evar import files
from evar.errors import UserError
from evar.sweeping.display import Display
from evar.sweeping.job import Job, groups
from evar.sweeping.state import DONE, FAILED, RUNNING, WAITING, Board, Folder, State

_TICK_SECONDS = 1.0
_PROGRESS_SECONDS = 2.0  # between two writes of a job's progress to the shared folder
_PASSED_ON = ("EVAR_", "HF_", "OMP_", "MKL_", "TRANSFORMERS_")  # beginnings of variables


@dataclass(frozen=True)
class _Order:
    """What a Ray task is given: plain data.

    jobs: of one task. part: embed only (I, N) of their clips. folder: the sweep's folder.
    """

    jobs: tuple[dict, ...]
    folder: str
    results: str
    here: str
    part: tuple[int, int] | None = None
    gpus: int = 1


@dataclass(eq=False)
class _Group:
    """Jobs of one task on their way: parts that are being embedded, then the jobs themselves."""

    jobs: list[Job]
    parts: list[Any] = field(default_factory=list)  # references that are still to be awaited
    ended: set[Job] = field(default_factory=set)  # jobs that the driver knows to be done or failed


def run(
    board: Board,
    jobs: Sequence[Job],
    display: Display,
    *,
    address: str | None,
    retries: int,
    split: int,
    gpus: int,
) -> None:
    """Does jobs on a Ray cluster, or on one that it starts on this machine.

    split: tasks of more clips are embedded in parts of so many. Raises UserError without Ray or
    where no cluster answers.
    """
    ray = _ray()
    owned = not ray.is_initialized()
    if owned:
        try:
            ray.init(address=address, include_dashboard=False, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"--address={address}: no Ray cluster ({error})") from error
    try:
        _Driver(ray, board, display, retries=retries, split=split, gpus=gpus).run(list(jobs))
    finally:
        for job in board.of(RUNNING):
            board.set(job, status=WAITING, stage="", worker=None)
        if owned:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError("--engine=ray needs Ray: pip install 'evar[ray]'") from error
    return ray


class _Driver:
    def __init__(self, ray: Any, board: Board, display: Display, **how):
        self.ray, self.board, self.display = ray, board, display
        self.retries, self.split, self.gpus = how["retries"], how["split"], how["gpus"]
        resources = ray.cluster_resources()
        self.has_gpus = resources.get("GPU", 0) >= 1
        nodes = sum(node["Alive"] for node in ray.nodes())
        self.slots = int(resources["GPU"]) if self.has_gpus else nodes
        self.waiting: dict[Any, _Group] = {}  # by the reference of what it waits for

    def run(self, jobs: list[Job]) -> None:
        for group in groups(jobs, at_least=self.slots):
            self._start(_Group(group))
        while self.waiting:
            ready, _ = self.ray.wait(list(self.waiting), num_returns=1, timeout=_TICK_SECONDS)
            for reference in ready:
                self._ended(reference, self.waiting.pop(reference))
            self._look()
            self.display.update(self.board)

    def _start(self, group: _Group) -> None:
        """Submits the parts of a large task, else its jobs."""
        clips = _clips(group.jobs[0])
        total = math.ceil(clips / self.split)
        if total > 1:
            group.parts = [self._submit(group.jobs, part=(i, total)) for i in range(total)]
            self.waiting[group.parts[0]] = group
        else:
            self.waiting[self._submit(group.jobs)] = group

    def _submit(self, jobs: list[Job], part: tuple[int, int] | None = None) -> Any:
        from evar.sweeping.work import trains_encoder

        folder = self.board.folder
        order = _Order(
            tuple(job.to_json() for job in jobs),
            str(folder.path.resolve()),
            str(folder.results.resolve()),
            str(Path.cwd()),
            part,
            self.gpus,
        )
        training = any(trains_encoder(job) for job in jobs)
        remote = self.ray.remote(
            max_retries=self.retries,  # after the death of a process or a machine
            max_calls=1,  # a process of its own: what a job leaves in memory ends with it
            num_cpus=1,
            num_gpus=(self.gpus if training else 1) if self.has_gpus else 0,
            runtime_env={"env_vars": _environment()},
        )(_do)
        return remote.remote(order)

    def _ended(self, reference: Any, group: _Group) -> None:
        if group.parts:  # what a part could not embed, the jobs will say
            group.parts.pop(0)
            following = group.parts[0] if group.parts else self._submit(group.jobs)
            self.waiting[following] = group
            return
        try:
            events = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            self._look()  # what it did before it died
            self._crashed([job for job in group.jobs if job not in group.ended], error)
            return
        reported = {event["job"]: event for event in events}
        for job in group.jobs:
            if job.id in reported:
                self._settle(group, job, reported[job.id])
        left = [job for job in group.jobs if job not in group.ended]
        if left:  # memory ran out before them
            self._start(_Group(left))

    def _settle(self, group: _Group, job: Job, event: Mapping) -> None:
        """Notes, once, that a job of a group is done or has failed."""
        if job in group.ended:
            return
        group.ended.add(job)
        if event["event"] == "done":
            self.board.set(job, status=DONE, run=event["run"], stage="", why="", worker=None)
            self.display.note(self.board, job, "done")
        else:
            self._fail(job, event["why"])

    def _crashed(self, jobs: list[Job], error: Exception) -> None:
        """Ray has given up on a task: its jobs are tried one by one, to find the guilty one."""
        if len(jobs) == 1:
            self._fail(jobs[0], f"Ray: {(str(error).strip().splitlines() or [''])[0]}")
            return
        for job in jobs:
            self.waiting[self._submit([job])] = _Group([job])

    def _fail(self, job: Job, why: str) -> None:
        if self.board.fail(job, why, retries=self.retries):
            self.waiting[self._submit([job])] = _Group([job])
        self.display.note(self.board, job, "failed")

    def _look(self) -> None:
        """Reads what running tasks have written of their jobs: one ends long before its group."""
        for group in list(self.waiting.values()):
            for job in group.jobs:
                if job in group.ended:
                    continue
                seen = self.board.folder.read(job)
                if seen.status == RUNNING:
                    attempts = self.board.states[job].attempts
                    self.board.states[job] = replace(seen, attempts=attempts)
                elif seen.status == DONE:
                    self._settle(group, job, {"event": "done", "run": seen.run})
                elif seen.status == FAILED:
                    self._settle(group, job, {"event": "failed", "why": seen.why})


def _do(order: _Order) -> list[dict]:
    """The Ray task: does jobs of one task, or embeds a part; returns what became of each job."""
    from evar.sweeping.logs import Logs
    from evar.sweeping.shelf import Shelf
    from evar.sweeping.work import Exhausted, Worker

    if Path(order.here).is_dir():
        os.chdir(order.here)  # relative paths mean what they mean to the driver
    jobs = [Job.from_json(data) for data in order.jobs]
    folder = Folder(order.results, jobs)
    folder.path = Path(order.folder)
    logs, told = Logs(folder.path / "logs"), _Told(folder, final=order.part is None)

    def report(event: str, job: Job, **details) -> None:
        if event == "at":
            logs.switch(job)
        told(event, job, details)
        if event == "failed":
            print(details["why"], file=sys.stderr, flush=True)

    device = str(dict(jobs[0].options).get("device", "auto"))
    worker = Worker(Path(order.results), report, Shelf(device), gpus=order.gpus)
    try:
        if order.part is None:
            worker.do(jobs)
        else:
            worker.fill(jobs, order.part)
    except Exhausted:  # has been reported
        pass
    return told.ended


class _Told:
    """Writes what becomes of jobs to the shared folder, where the driver looks for it.

    final: whether a job that is done or has failed here has ended; not where only a part of its
    clips is embedded.
    """

    def __init__(self, folder: Folder, *, final: bool):
        self.folder, self.final = folder, final
        self.ended: list[dict] = []
        self.last = 0.0

    def __call__(self, event: str, job: Job, details: Mapping) -> None:
        now, pid = time.time(), os.getpid()
        if event == "at":
            state = State(RUNNING, stage=details["stage"], worker=pid, changed=now)
            self.folder.write(job, state)
        elif event == "progress" and now - self.last > _PROGRESS_SECONDS:
            self.last = now
            self.folder.write(job, State(RUNNING, worker=pid, changed=now, **details))
        elif event in ("done", "failed") and self.final:
            self.ended.append({"event": event, "job": job.id, **details})
            ended = {"status": DONE, "run": details.get("run", "")}
            if event == "failed":
                ended = {"status": FAILED, "why": details["why"]}
            self.folder.write(job, State(**ended, changed=now))


def _environment() -> dict[str, str]:
    """Returns the variables that decide where things are, with this package's place."""
    found = {k: v for k, v in os.environ.items() if k.startswith(_PASSED_ON)}
    for name in ("EVAR_DATA", "EVAR_WEIGHTS"):
        if name in found:
            found[name] = str(Path(found[name]).resolve())
    found["EVAR_CACHE"] = str(files.cache_folder().resolve())
    found["EVAR_LOCKS"] = "0"  # network file systems: the driver keeps the tasks apart
    package = str(Path(evar.__file__).parent.parent)
    found["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    return found


def _clips(job: Job) -> int:
    from evar.sweeping.preview import clips_of

    return clips_of(job) or 0
