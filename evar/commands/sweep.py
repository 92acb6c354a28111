"""`sweep MODELS TASKS`: whole tables, each cell what the single command would do."""

import contextlib
import inspect
import signal
import sys
from dataclasses import fields

from fire.decorators import SetParseFns

from evar.errors import UserError
from evar.sweeping.engine import Engine
from evar.task import WINDOW_OPTIONS

_SHARED = {  # options of all jobs that single commands have too
    **dict.fromkeys(("seeds", "weights", "data", "seconds", *WINDOW_OPTIONS)),
    **dict.fromkeys(("device", "precision", "resample", "batch_size", "cache")),
    **dict.fromkeys(("partial", "skip_bad"), False),
}
_OF_ENGINE = {f.name: f.default for f in fields(Engine)}
_TEXT = ("models", "tasks", "protocols", "weights", "data", "cache", "results", "device", "pool")


@SetParseFns(**dict.fromkeys((*_TEXT, "precision", "resample", "part", "engine", "address"), str))
def sweep(
    models,
    tasks=None,
    *,
    protocols=None,
    part=None,
    dry_run=False,
    status=False,
    results="",
    quiet=False,
    **options,
):
    """Evaluate many models on many tasks, each clip decoded once for all models of a task.

    usage: sweep MODELS TASKS [options]
           sweep PLAN.yaml [options]

    MODELS         names, comma lists, globs ('m2d*,beats_*'), path.py:Class, hf:ORG/NAME,
                   hear:MODULE, or "all"
    TASKS          names, comma lists, globs, CSVs, "paper" (the tasks of the protocol's average)
                   or "all" (all that are prepared on this machine)
    PLAN.yaml      the keys models (names, or mappings with `name` and options), tasks, protocols,
                   and any option

    --protocols=linear  a comma list of protocols
    --engine=local  processes of this machine; or ray: a Ray cluster (docs/cluster.md)
    --address=ADDR  of a running Ray cluster, or auto; default: one on this machine
    --workers=N    processes; default: one per GPU, else one
    --gpus_per_job=1  GPUs of a job that trains the encoder (torchrun where it is more than one)
    --retries=1    how often a job that fails is tried again
    --part=I/N     only the I-th of N parts of the jobs, counted from 0, for a SLURM array
    --split=20000  ray: tasks of more clips are embedded in parts of so many clips
    --dry_run      print the jobs and what they would embed; start nothing
    --status       print what is done, running, failed and left, from the results folder alone
    --seeds=3      runs, or the seeds themselves, of the protocols that have seeds
    --weights=PATH checkpoint of all models; "random" evaluates the untrained networks
    --data=DIR     where data sets and manifests are; default: $EVAR_DATA or data/
    --results=DIR  where results are written; default: $EVAR_RESULTS or results/, or where the
                   tasks' tables of own recordings lie, if they lie in one folder
    --seconds=S    unit length of CSV tasks
    --windows=S    hear the recordings of CSV tasks by windows of S seconds, each with its label;
                   scores are of whole recordings, and so are intervals (linear, knn)
    --hop=S        seconds from one window to the next; default: a window
    --pool=mean    or max: of the class scores of a recording's windows
    --device=auto  cpu, cuda, ...
    --precision=fp32  or bf16
    --resample=cpu or gpu: resample in batches on the device (docs/benchmarks.md)
    --batch_size=N clips per forward pass
    --cache=DIR    where embeddings are kept; default: $EVAR_CACHE or the user's cache folder
    --partial      accept incomplete data sets
    --skip_bad     leave out clips that cannot be decoded
    --quiet        print the end alone
    --NAME=VALUE   an option of the protocols or of the models' adapters; a job takes those it has
    """
    from evar.sweeping import plan
    from evar.sweeping.state import Folder, report

    engine = Engine(**{name: options.pop(name) for name in _OF_ENGINE if name in options})
    given = {k: v for k, v in options.items() if v is not _SHARED.get(k)}
    jobs = _jobs(models, tasks, protocols, given)
    results = results or _usual_results(jobs)
    folder = Folder(results, jobs)
    if status:
        print("\n".join(report(folder)))
        return
    if part is not None:
        from evar.options import part as part_of_text
        from evar.sweeping.job import part_of

        jobs = part_of(jobs, part_of_text(part))
    why = {job: plan.blocked(job) for job in jobs}
    if dry_run:
        from evar.sweeping import preview

        print("\n".join(preview.lines(why, results)))
        return
    for line in () if quiet else plan.understood(jobs):
        print(f"note: {line}", file=sys.stderr)
    with _terminating():
        failed = _run(folder, why, engine, device=given.get("device"), quiet=quiet)
    sys.exit(1 if failed else 0)


def check_more(words: list[str], keys: list[str], options: list[str]) -> None:
    """Leaves unknown options to the plan, which knows all protocols and models."""


def _signature() -> inspect.Signature:
    """Returns the options that the command line has: the function's, the engine's and all jobs'."""
    *own, rest = inspect.signature(sweep).parameters.values()
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in {**_OF_ENGINE, **_SHARED}.items()
    ]
    return inspect.Signature([*own, *more, rest])


vars(sweep)["check_more"] = check_more
vars(sweep)["__signature__"] = _signature()  # which Fire and `cli` read


def _usual_results(jobs) -> str:
    """Returns where single commands would write the results of all jobs, else results/."""
    from evar.data.own_sounds import usual_results

    places = {str(usual_results(job.task)) for job in jobs}
    return places.pop() if len(places) == 1 else str(usual_results())


def _jobs(models: str, tasks: str | None, protocols: str | None, options: dict) -> list:
    from evar.sweeping import plan

    what: dict = {"models": models, "tasks": tasks}
    if models.endswith((".yaml", ".yml")):
        if tasks is not None:
            raise UserError(f"{models} names the tasks: leave {tasks!r} out")
        what, own = plan.read_plan(models)
        options = {**own, **options}
    elif tasks is None:
        raise UserError("sweep needs MODELS TASKS or PLAN.yaml; --help explains them")
    chosen = protocols or what.get("protocols") or "linear"
    also = list(inspect.signature(sweep).parameters)
    jobs = plan.make_jobs(what["models"], what["tasks"], chosen, options, also=also)
    if not jobs:
        raise UserError("no job: TASKS names no task that is prepared (`evar list tasks`)")
    return jobs


def _run(folder, why: dict, engine: Engine, *, device: str | None, quiet: bool) -> bool:
    """Runs what can run and prints the end; returns whether any job failed."""
    from evar import cli
    from evar.pages import board as page
    from evar.sweeping import ending
    from evar.sweeping.display import display
    from evar.sweeping.state import BLOCKED, FAILED, Board

    folder.create()
    board = Board(folder, why)
    board.open(why)
    for job in board.of(BLOCKED):
        print(f"cannot run  {job.name}: {why[job]}")
    due = [job for job, reason in why.items() if not reason]
    try:
        with display(quiet=quiet) as shown:
            engine.run(board, due, shown, device)
    except KeyboardInterrupt:  # tables and page would keep the user waiting
        tables = cli.spelled("leaderboard")
        print(f"{ending.count(board)}; `{tables}` makes the tables of what is done")
        raise
    for line in ending.lines(board):
        print(line)
    print(f"page: {page.write(folder.results)}")
    return bool(board.of(FAILED))


@contextlib.contextmanager
def _terminating():
    """Treats SIGTERM, which a cluster sends before it kills, as Ctrl-C."""

    def interrupt(signum, frame):
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
