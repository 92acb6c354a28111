"""`PROTOCOL MODEL TASK`: the command line of any protocol, derived from its settings."""

import inspect
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from fire.decorators import SetParseFns

from evar.errors import UserError
from evar.protocol import Protocol, require_windows
from evar.task import WINDOW_OPTIONS, Windows

_HEAD = """{title}

usage: {command} MODEL TASK [options]{usage}

MODEL          a registered name (`evar list models`), path/to/file.py:ClassName, hf:ORG/NAME (any
               audio model of transformers) or hear:MODULE (a HEAR module)
TASK           {task}
"""
_TASKS = {
    False: """a registered name (`evar list tasks`) or the path of a CSV with the columns
               file,label,split (or fold) and optionally group,start,end; .tsv and .xlsx do as well
               (`evar table` makes one of a folder)""",
    True: """a registered name (`evar list tasks`) or the path of a CSV with the columns
               file,caption and optionally split (then only "test" is used); several captions
               of a file are several rows""",
}
_SEEDS = """--seeds=3      runs, with seeds {first}, {second}, ...; or the seeds themselves: \
--seeds={first},{second}"""
_OPTIONS = {  # those that all protocols share, in the order of the help text
    "weights": """--weights=PATH checkpoint; default: the published file in $EVAR_WEIGHTS or
               weights/; "random" evaluates the untrained network""",
    "data": "--data=DIR     where data sets and manifests are; default: $EVAR_DATA or data/",
    "seconds": "--seconds=S    unit length of a CSV task; default: its longest clip, at most 10",
    "windows": """--windows=S    hear the recordings of a CSV by windows of S seconds, each with its
               label; scores are of whole recordings, and so are intervals""",
    "hop": "--hop=S        seconds from one window to the next; default: a window",
    "pool": "--pool=mean    or max: of the class scores of a recording's windows",
    "device": "--device=auto  cpu, cuda, cuda:1, mps, ...",
    "precision": "--precision=fp32  or bf16: mixed precision in the encoder, behind its front end",
    "resample": """--resample=cpu or gpu: in batches on the device, by a filter of its own; its
               embeddings are kept apart (docs/benchmarks.md)""",
    "batch_size": "--batch_size=N clips per forward pass (no effect on the protocol)",
    "results": """--results=DIR  where results are written; default: $EVAR_RESULTS or results/,
              beside TASK if it is a table of your own recordings""",
    "cache": """--cache=DIR    where embeddings are kept; default: $EVAR_CACHE or the user's cache
               folder""",
    "no_cache": "--no_cache     keep no embeddings",
    "no_resume": "--no_resume    start over, although the same run was interrupted, or has ended",
    "eval_only": "--eval_only    score the weights of an earlier run, without training",
    "tensorboard": "--tensorboard  write loss, rate and validation score for TensorBoard",
    "partial": "--partial      accept an incomplete data set; the score then says so",
    "skip_bad": "--skip_bad     leave out clips that cannot be decoded; the score then says so",
    "quiet": "--quiet        no progress bars, and no notes but those beside the score",
}
_DEFAULTS = {
    "device": "auto",
    "results": None,
    **dict.fromkeys(("no_cache", "no_resume", "eval_only", "tensorboard"), False),
    **dict.fromkeys(("partial", "skip_bad", "quiet"), False),
}
_TEXT = (
    *("model", "task", "weights", "data", "cache", "results"),
    *("device", "precision", "resample", "pool"),
)


@dataclass(frozen=True)
class Extra:
    """Options that only one protocol's command line has: presentation, not measurement.

    options: names and defaults. help: their lines. instead: called with (model, task, options)
    before anything else; True from it ends the command. after: called with the run and options.
    """

    options: Mapping[str, object]
    help: str
    usage: str = ""
    text: tuple[str, ...] = ()
    instead: Callable[[str, str, dict], bool] | None = None
    after: Callable[..., None] | None = None


def command_of(protocol: Protocol, extra: Extra | None = None) -> Callable:
    """Returns the function that the command line calls: its signature has all options."""
    settings = [f for f in fields(protocol.settings) if f.name in protocol.options()]
    shared = _shared(protocol)
    options: dict = {"seeds": None} if protocol.seeds else {}
    options |= {f.name: False if f.default is False else None for f in settings}
    options |= dict(extra.options) if extra else {}
    options |= {name: _DEFAULTS.get(name) for name in shared}
    command = protocol.command or protocol.name

    def run(model, task, **given):
        given = {**options, **given}
        own = {name: given.pop(name) for name in (extra.options if extra else ())}
        if extra and extra.instead and extra.instead(model, task, {**own, **given}):
            return
        evaluated = _evaluate(protocol, model, task, given)
        if extra and extra.after and evaluated is not None:
            extra.after(evaluated, **own)

    words = [
        inspect.Parameter(w, inspect.Parameter.POSITIONAL_OR_KEYWORD) for w in ("model", "task")
    ]
    keywords = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in options.items()
    ]
    rest = inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD)
    signature = inspect.Signature([*words, *keywords, rest])
    vars(run)["__signature__"] = signature  # which Fire and `cli` read
    vars(run)["check_more"] = partial(_check_more, protocol)
    run.__name__ = run.__qualname__ = command
    run.__doc__ = _help(protocol, command, shared, extra)
    text = {name for name in _TEXT if name in options} | {"model", "task"}
    text |= {f.name for f in settings if str(f.type).startswith(("str", "<class 'str'"))}
    text |= set(extra.text) if extra else set()
    return SetParseFns(**dict.fromkeys(text, str))(run)


def _check_more(protocol: Protocol, words: list[str], keys: list[str], options: list[str]) -> None:
    """Raises UserError for options that neither the command nor the model's adapter has."""
    from evar import cli

    if any(key.removeprefix("--") in WINDOW_OPTIONS for key in keys):
        require_windows(protocol)
    cli.check_model_options(words, keys, options)


def _shared(protocol: Protocol) -> list[str]:
    """Returns the shared options that a protocol's command line has."""
    training = ("no_resume", "eval_only", "tensorboard")
    left_out = {"cache", "no_cache", "resample"} if "gradients" in protocol.needs else set(training)
    left_out |= set(protocol.options())
    if not protocol.trains:
        left_out.add("seconds")
    if not protocol.windows:
        left_out |= set(WINDOW_OPTIONS)
    return [name for name in _OPTIONS if name not in left_out]


def _help(protocol: Protocol, command: str, shared: list[str], extra: Extra | None) -> str:
    usage = extra.usage if extra else ""
    if "gradients" in protocol.needs:
        usage += f"\n       torchrun --nproc_per_node=2 {command}.py MODEL TASK [options]"
    head = _HEAD.format(
        title=protocol.title,
        command=command,
        usage=usage,
        task=_TASKS[protocol.kinds == {"retrieval"}],
    )
    lines = [head]
    if protocol.seeds:
        lines.append(_SEEDS.format(first=protocol.seeds[0], second=protocol.seeds[0] + 1))
    lines += [protocol.help.strip("\n"), extra.help.strip("\n") if extra else ""]
    lines += [_OPTIONS[name] for name in shared]
    lines.append("--NAME=VALUE   an option of the model's adapter (`evar list models MODEL`)")
    return "\n".join(line for line in lines if line)


def _evaluate(protocol: Protocol, model: str, task: str, given: dict):
    from evar import files, run
    from evar.data import own_sounds

    _require_one_process(protocol)
    results = given.pop("results") or own_sounds.usual_results(task)
    quiet = given.pop("quiet")
    files.make_folder(results)
    how = _how(protocol, given, Path(results))
    evaluated = run.evaluate(model, task, protocol, progress=not quiet, **how)
    if run.is_first_process():
        report(evaluated, results)
        return evaluated
    return None


def _require_one_process(protocol: Protocol) -> None:
    if "gradients" not in protocol.needs and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"{protocol.name} runs in one process: every process of torchrun would do the same "
            "work. Start it without torchrun"
        )


def _how(protocol: Protocol, given: dict, results: Path) -> dict:
    """Returns the options of `evar.evaluate` from those of the command line."""
    from evar.runtime import Training

    how = {k: v for k, v in given.items() if v is not None}
    if windows := Windows.taken_from(how):
        how["windows"] = windows
    if how.pop("no_cache", False):
        how["cache"] = None
    if "gradients" in protocol.needs:
        how["training"] = Training(
            folder=results / protocol.name,
            resume=not how.pop("no_resume", False),
            eval_only=how.pop("eval_only", False),
            tensorboard=how.pop("tensorboard", False),
        )
    return how


def report(evaluated, results) -> None:
    """Saves a run and prints where it is, its notes and, last, its score.

    Raises UserError, after all that is printed, where the tables cannot be rebuilt.
    """
    from evar.results import leaderboard, record, text

    path = record.save_run(evaluated.record, evaluated.evaluation, results)
    failure, problems = None, []
    try:
        rebuilt = leaderboard.rebuild(results)
        table, problems = f"table: {rebuilt.paths[-1]}", rebuilt.problems
    except UserError as error:  # this run is saved all the same
        failure, table = error, "tables not rebuilt (see below)"
    for problem in problems:
        print(f"note: {problem}")
    for line in text.notes(evaluated.record):
        print(line)
    print(f"results: {path}, {table}")
    print(_as_pages(evaluated.record.id[:8], results))
    print(text.summary_line(evaluated.record))
    if failure is not None:
        raise failure


def _as_pages(run: str, results) -> str:
    """Returns the commands that make pages of a run, as this one was started."""
    from evar import cli
    from evar.data import own_sounds

    usual = Path(results) == own_sounds.usual_results()
    folder = "" if usual else f" --results={shlex.quote(str(results))}"
    board, one = cli.spelled("leaderboard"), cli.spelled("report")
    return f"as pages: {board}{folder}; {one} {run}{folder}"
