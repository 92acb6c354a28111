"""The local engine: worker processes on this machine, and a supervisor that outlives them."""

import contextlib
import json
import multiprocessing
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from evar.sweeping import worker as worker_
from evar.sweeping.display import Display
from evar.sweeping.job import Job, groups
from evar.sweeping.state import DONE, RUNNING, WAITING, Board

_TICK_SECONDS = 0.5
# One server process imports these once; workers are forked from it, so that the second one, and one
# that takes over from a dead one, start at once. It never touches a GPU. Not this package itself:
# before Python 3.13 the server's sys.path is not ours, and might lead to another copy.
_PRELOADED = ["torch", "torchaudio", "pandas"]


@dataclass(frozen=True)
class Layout:
    """How many workers there are, and what each one uses.

    devices: of each worker, its $CUDA_VISIBLE_DEVICES, or None to leave that as it is. sharing: how
    many workers share a device's memory. gpus: of one job that trains the encoder.
    """

    devices: tuple[str | None, ...]
    sharing: int = 1
    gpus: int = 1


def layout(device: str | None, *, workers: int | None, gpus_per_job: int) -> Layout:
    """Returns one worker per GPU (or per `gpus_per_job`), or as many as `workers` says.

    On a CPU there is one by default.
    """
    import torch

    count = torch.cuda.device_count() if device in (None, "auto", "cuda") else 0
    if count == 0:
        return Layout((None,) * (workers or 1), workers or 1, gpus_per_job)
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = given.split(",")[:count] if given else [str(i) for i in range(count)]
    sets = [
        ",".join(visible[i : i + gpus_per_job])
        for i in range(0, max(1, count - gpus_per_job + 1), gpus_per_job)
    ]
    total = workers or len(sets)
    devices = tuple(sets[i % len(sets)] for i in range(total))
    return Layout(devices, -(-total // len(sets)), gpus_per_job)


@dataclass(eq=False)
class _Process:
    """A worker process, the jobs that it was given and the one that it is at."""

    number: int
    process: BaseProcess
    channel: Connection
    group: list[Job] = field(default_factory=list)
    current: Job | None = None
    ended: set[Job] = field(default_factory=set)  # jobs of the group that are done or have failed


class Supervisor:
    """Hands groups of jobs to workers; a worker that dies costs the job that it was at."""

    def __init__(self, board: Board, jobs: Sequence[Job], display: Display, **how):
        self.board, self.display = board, display
        self.plan: Layout = how["plan"]
        self.retries: int = how["retries"]
        self.device: str = how["device"] or "auto"
        self.by_id = {job.id: job for job in jobs}
        self.pending = deque(groups(list(jobs), at_least=len(self.plan.devices)))
        self.events: queue.Queue[tuple[_Process, dict | None]] = queue.Queue()
        self.workers: dict[int, _Process] = {}

    def run(self) -> None:
        """Returns when every job is done or has failed for good; an interrupt ends the workers."""
        try:
            while self.pending or any(w.group for w in self.workers.values()):
                self._assign()
                with contextlib.suppress(queue.Empty):
                    self._handle(*self.events.get(timeout=_TICK_SECONDS))
                    while True:
                        self._handle(*self.events.get_nowait())
                self.display.update(self.board)
        finally:
            for worker in self.workers.values():
                _kill(worker.process)
            for job in self.board.of(RUNNING):
                self.board.set(job, status=WAITING, stage="", worker=None)

    def _assign(self) -> None:
        for number in range(len(self.plan.devices)):
            if not self.pending:
                return
            worker = self.workers.get(number)
            if worker is None:
                worker = self.workers[number] = self._start(number)
            if not worker.group:
                worker.group, worker.ended, worker.current = self.pending.popleft(), set(), None
                self._send(worker, [job.to_json() for job in worker.group])

    def _start(self, number: int) -> _Process:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        ours, theirs = context.Pipe()
        how = {
            "results": str(self.board.folder.results),
            "folder": str(self.board.folder.path),
            "device": self.device,
            "sharing": self.plan.sharing,
            "gpus": self.plan.gpus,
        }
        environment = dict(os.environ)
        if self.plan.devices[number] is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.plan.devices[number] or ""
        process = context.Process(target=worker_.main, args=(theirs, how, environment))
        process.start()
        theirs.close()  # ours reads EOF from now on when the worker has died
        worker = _Process(number, process, ours)
        threading.Thread(target=self._read, args=(worker,), daemon=True).start()
        return worker

    @staticmethod
    def _send(worker: _Process, content) -> None:
        with contextlib.suppress(OSError):  # it has died, which `_read` notices
            worker.channel.send_bytes(json.dumps(content).encode())

    def _read(self, worker: _Process) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                self.events.put((worker, json.loads(worker.channel.recv_bytes())))
        self.events.put((worker, None))

    def _handle(self, worker: _Process, event: dict | None) -> None:
        if event is None:
            self._died(worker)
        elif event["event"] == "idle":
            self._requeue([job for job in worker.group if job not in worker.ended])
            worker.group = []
        else:
            self._note(worker, event, self.by_id[event["job"]])

    def _note(self, worker: _Process, event: dict, job: Job) -> None:
        kind = event["event"]
        if kind == "at":
            worker.current = job
            stage, pid = event["stage"], worker.process.pid
            new = {"count": 0, "total": None} if stage != self.board.states[job].stage else {}
            self.board.set(job, status=RUNNING, stage=stage, worker=pid, **new)
        elif kind == "progress":
            shown = {k: event[k] for k in ("count", "total", "unit")}
            self.board.set(job, **shown)
        elif kind == "done":
            worker.ended.add(job)
            self.board.set(job, status=DONE, run=event["run"], stage="", why="", worker=None)
        elif kind == "failed":
            worker.ended.add(job)
            self._fail(job, event["why"])
        self.display.note(self.board, job, kind)

    def _died(self, worker: _Process) -> None:
        """Takes over from a worker that has ended: its job has failed, the others wait again."""
        worker.process.join()
        code = worker.process.exitcode or 0
        if self.workers.get(worker.number) is worker:
            del self.workers[worker.number]
        left = [job for job in worker.group if job not in worker.ended]
        guilty = worker.current or (left[0] if left else None)
        if guilty in left:
            left.remove(guilty)
            self._fail(guilty, _ending(code))
            self.display.note(self.board, guilty, "failed")
        self._requeue(left)
        worker.group = []

    def _requeue(self, jobs: list[Job]) -> None:
        if jobs:
            self.pending.append(jobs)
            for job in jobs:
                self.board.set(job, status=WAITING, stage="", worker=None)

    def _fail(self, job: Job, why: str) -> None:
        if self.board.fail(job, why, retries=self.retries):
            self.pending.append([job])  # alone, so that it takes nothing with it


def _ending(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    killed = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"its process was ended by {signal.Signals(-code).name}{killed}"


def _kill(process: BaseProcess) -> None:
    """Ends a worker and what it started. Files are written atomically: nothing is left half."""
    process.kill()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
