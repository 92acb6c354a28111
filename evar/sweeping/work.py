"""Does the jobs of one task in this process: decode once, embed with all models, then score."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock

from evar import files, locks, protocol, run
from evar.embedding import embeddings
from evar.embedding.together import fill_together
from evar.errors import UserError, described
from evar.progress import Bar, Progress
from evar.results import record
from evar.run import Request
from evar.runtime import Training
from evar.sweeping import torchrun
from evar.sweeping.job import Job
from evar.sweeping.shelf import Report, Shelf, ordered, split

_MEMORY = ("memoryerror", "out of memory", "allocate memory", "not enough memory", "bad_alloc")
_PROGRESS_SECONDS = 0.5


class Exhausted(Exception):
    """A job ran out of memory: this process may be beyond use, and should end."""


@dataclass(frozen=True, eq=False)
class Worker:
    """Does jobs and reports on them.

    results: the folder. report: called with an event ("at", "progress", "done", "failed"), the job
    and details. gpus: of a job that trains the encoder; torchrun starts as many processes where it
    is more than one.
    """

    results: Path
    report: Report
    shelf: Shelf
    gpus: int = 1
    _seen: dict[tuple[str, int], tuple[str, str]] = field(default_factory=dict)

    def do(self, jobs: Sequence[Job]) -> None:
        """Does jobs of one task. Raises Exhausted, after reporting it, where memory ran out."""
        for ready in self._chunks(jobs):
            self._run_all(ready)
        for job in jobs:
            if trains_encoder(job):
                self._train(job)

    def fill(self, jobs: Sequence[Job], part: tuple[int, int]) -> None:
        """Embeds part (I, N) of the clips that jobs of one task need."""
        for ready in self._chunks(jobs):
            self._embed(ready, part=part, alone=True)

    def _chunks(self, jobs: Sequence[Job]) -> Iterator[dict[Job, Request]]:
        """Yields jobs that are due and share the encoder: as many as there is memory for models."""
        waiting = [job for job in jobs if not trains_encoder(job)]
        while waiting:
            ready: dict[Job, Request] = {}
            while waiting and (waiting[0] in self.shelf or not self.shelf.full):
                self._prepare(waiting.pop(0), ready)
            yield ready
            if waiting:
                ready.clear()
                self.shelf.clear()

    def _prepare(self, job: Job, ready: dict[Job, Request]) -> None:
        """Adds a job's request to those that are ready, unless its result is there."""
        with self._blaming(job):
            self.report("at", job, stage="load")
            request = run.prepare(
                self.shelf.model(job), job.task, job.protocol, **self._options(job)
            )
            if not self._is_there(job, request):
                ready[job] = request

    def _options(self, job: Job) -> dict[str, Any]:
        _, rest = split(job)
        rest.pop("weights", None)  # the model is loaded
        return {**rest, "progress": Reported(self.report, job)}

    def _run_all(self, ready: dict[Job, Request]) -> None:
        todo = self._embed(ready)
        for job, request in todo.items():
            if not self._run(job, request, wait=False):
                continue
            ready.pop(job)
        for job, request in ready.items():
            if job in todo:  # another sweep was at it
                self._run(job, request, wait=True)

    def _embed(
        self, ready: Mapping[Job, Request], *, part: tuple[int, int] = (0, 1), alone: bool = False
    ) -> dict[Job, Request]:
        """Embeds what models of one sample rate need of the clips; returns the jobs that live.

        alone: of a single model too, whose protocol would otherwise embed it itself.
        """
        living = dict(ready)
        for requests in _alike(ready).values():
            of_model: dict[int, list[Job]] = {}
            for job in requests:
                of_model.setdefault(id(ready[job].model), []).append(job)
            if len(of_model) > 1 or alone:
                for job in self._fill(list(of_model.values()), ready, part):
                    living.pop(job)
        return living

    def _fill(
        self, by_model: list[list[Job]], ready: Mapping[Job, Request], part: tuple[int, int]
    ) -> list[Job]:
        """Embeds the clips with several models at once; returns the jobs of those that fail."""
        lost: list[Job] = []

        def failed(jobs: list[Job], error: Exception) -> None:
            lost.extend(jobs)
            for job in jobs:
                self._failed(job, error)

        with contextlib.ExitStack() as stack:
            engines, owners = [], []
            for jobs in by_model:
                try:
                    engines.append(stack.enter_context(engine_of(ready[jobs[0]])))
                    owners.append(jobs)
                except Exception as error:  # of this model: the others go on
                    failed(jobs, error)
            if engines:
                fill_together(
                    engines,
                    part=part,
                    at=lambda number: self.report("at", owners[number][0], stage="embed"),
                    failed=lambda number, error: failed(owners[number], error),
                )
        return lost

    def _run(self, job: Job, request: Request, *, wait: bool) -> bool:
        """Evaluates and saves a job; False where another sweep is at it and we do not wait."""
        with self._blaming(job), self._lock(request.key, wait=wait) as ours:
            if not ours:
                return False
            if not self._is_there(job, request):
                self.report("at", job, stage="run")
                self._save(job, request)
        return True

    def _save(self, job: Job, request: Request) -> None:
        done = request.run()
        path = record.save_run(done.record, done.evaluation, self.results)
        self.report("done", job, run=path.stem)

    def _train(self, job: Job) -> None:
        """Does a job that trains the encoder, in this process or under torchrun."""
        with self._blaming(job):
            self.report("at", job, stage="train")
            folder = self.results / protocol.of_command(job.protocol).name
            options: dict[str, Any] = {**ordered(job), "progress": Reported(self.report, job)}
            request = run.prepare(
                job.model, job.task, job.protocol, training=Training(folder=folder), **options
            )
            if self._is_there(job, request):
                return
            if self.gpus < 2:
                self._save(job, request)
                return
            key = request.key
            del request  # the GPU's memory is for the processes that train
            torchrun.run(job, self.results, processes=self.gpus)
            made = self._result_of(key)
            if made is None:
                raise UserError("torchrun ended without a result; the log shows why")
            self.report("done", job, run=made)

    def _is_there(self, job: Job, request: Request) -> bool:
        """Whether the result of a request is in the folder; reports it as done then."""
        known = self._result_of(request.key)
        if known is None:
            return False
        self.report("done", job, run=known, there=True)
        return True

    def _result_of(self, wanted: str) -> str | None:
        """Returns the id of the run in the folder that has a request's key, None without one."""
        for path in sorted((self.results / "runs").glob("*.json")):
            with contextlib.suppress(UserError, OSError):  # the leaderboard names what is no result
                stamp = (str(path), path.stat().st_mtime_ns)
                if stamp not in self._seen:
                    found = record.read_run(path)
                    self._seen[stamp] = found.request, found.id
                key, known = self._seen[stamp]
                if key == wanted:
                    return known
        return None

    @contextlib.contextmanager
    def _blaming(self, job: Job) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of this job: the others go on
            self._failed(job, error)

    def _failed(self, job: Job, error: Exception) -> None:
        why = str(error) if isinstance(error, UserError) else described(error)
        why = (why.splitlines() or [type(error).__name__])[0]
        exhausted = any(word in f"{type(error).__name__} {error}".lower() for word in _MEMORY)
        self.report("failed", job, why=why)
        if exhausted:
            raise Exhausted(why) from error

    @contextlib.contextmanager
    def _lock(self, key: str, *, wait: bool) -> Iterator[bool]:
        folder = files.make_folder(self.results / "sweeps" / "locks")
        lock = locks.lock(folder / f"{key}.lock")
        try:
            lock.acquire(blocking=wait)
        except filelock.Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def trains_encoder(job: Job) -> bool:
    """Returns whether a job trains its own copy of the encoder, so that it shares nothing."""
    return "gradients" in protocol.of_command(job.protocol).needs


def _alike(ready: Mapping[Job, Request]) -> dict[tuple, list[Job]]:
    """Returns jobs by what their embedding decodes: clips, sample rate, crops and treatment."""
    found: dict[tuple, list[Job]] = {}
    for job, request in ready.items():
        runtime = request.runtime
        if not request.protocol.embeds or runtime.cache is None:
            continue
        how = (runtime.device, *runtime.treatment.values(), runtime.batch_size, runtime.cache)
        seed = getattr(request.settings, "crop_seed", None)
        read = getattr(request.settings, "clips", None)
        whole = request.whole.task
        task = (request.manifest.sha256, whole.seconds, whole.windows, runtime.skip_bad)
        rate = request.model.adapter.sample_rate
        what = (request.protocol.embeds, rate, seed, read)
        found.setdefault((*what, *task, *how), []).append(job)
    return found


def engine_of(request: Request):
    """Returns the context of the engine that embeds what a request needs."""
    if request.protocol.embeds == "joint":
        unit = getattr(request.settings, "clips", "whole") == "unit"
        return embeddings.engine_for_test_side(
            request.model, request.whole, request.runtime, unit=unit
        )
    return embeddings.engine_for_task(
        request.model, request.whole, request.runtime, request.settings.crop_seed
    )


class Reported(Progress):
    """Sends progress to the driver, twice a second at most."""

    def __init__(self, report: Report, job: Job):
        self.report, self.job = report, job

    def bar(
        self, stage: str, unit: str, iterable: Iterable | None = None, total: int | None = None
    ) -> Bar:
        return _ReportedBar(self, stage, unit, iterable, total)


class _ReportedBar:
    def __init__(self, owner: Reported, stage: str, unit: str, iterable, total: int | None):
        self.owner, self.iterable = owner, iterable
        self.details = {"stage": stage, "unit": unit, "total": total}
        if total is None and hasattr(iterable, "__len__"):
            self.details["total"] = len(iterable)
        self.count, self.last = 0, 0.0

    def __enter__(self):
        return self

    def __exit__(self, *exception) -> None:
        pass

    def __iter__(self) -> Iterator:
        for each in self.iterable or ():
            yield each
            self.update()

    def update(self, count: int = 1) -> None:
        self.count += count
        if time.monotonic() - self.last > _PROGRESS_SECONDS:
            self.last = time.monotonic()
            self.owner.report("progress", self.owner.job, count=self.count, **self.details)

    def set_postfix(self, values: dict, refresh: bool = True) -> None:
        pass
