"""From what a user writes to the jobs of a sweep: names, globs, sets, paths, or a YAML plan."""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from fnmatch import fnmatchcase
from pathlib import Path

from evar import models, protocol, registry, run
from evar import task as tasks
from evar.errors import UserError, unknown
from evar.protocol import Protocol
from evar.runtime import Runtime
from evar.sweeping.job import Job
from evar.yaml_files import read_yaml

_RUNTIME = tuple(f.name for f in fields(Runtime) if f.name not in ("progress", "training"))
_ARGUMENTS = tuple(dict.fromkeys((*run.ARGUMENTS, *tasks.WINDOW_OPTIONS)))
_KEYS = ("models", "tasks", "protocols")


def make_jobs(
    models_: "str | Sequence[str | Mapping]",
    tasks_: str | Sequence[str],
    protocols: str | Sequence[str],
    options: Mapping[str, object],
    *,
    also: Sequence[str] = (),
) -> list[Job]:
    """Returns the jobs of all combinations, each once, in the order of tasks.

    models_, tasks_, protocols: text as on the command line, or lists of it; a model may be a
    mapping with `name` and options of its own. options: of all jobs; a job takes those that its
    protocol and its model have. also: options of the command itself, which the message about an
    unknown option may suggest. Raises UserError for names and options that nothing has.
    """
    chosen = [protocol.of_command(name) for name in _words(protocols)]
    data = options.get("data")
    spelled = list(_models(models_))
    named = list(dict.fromkeys(t for word in _words(tasks_) for t in _tasks(word, chosen, data)))
    _require_known(options, chosen, spelled, also)
    _require_windowed(options, chosen, named)
    jobs = [
        Job.of(model, task, each.name, _fitting({**options, **own}, own, each, model, task))
        for task in named
        for model, own in spelled
        for each in chosen
    ]
    return list(dict.fromkeys(jobs))


def read_plan(path) -> tuple[dict[str, object], dict[str, object]]:
    """Returns models, tasks and protocols of a YAML plan, and the options that all jobs share.

    Raises UserError for a file that is no plan.
    """
    content = read_yaml(path, what="a plan of a sweep")
    if not isinstance(content, dict) or not {"models", "tasks"} <= content.keys():
        raise UserError(f"{path}: a plan of a sweep has the keys `models` and `tasks`")
    what = {key: content[key] for key in _KEYS if key in content}
    for key, value in what.items():
        entries = value if isinstance(value, list) else [value]
        good = (str, dict) if key == "models" else (str,)
        if not entries or not all(isinstance(entry, good) for entry in entries):
            raise UserError(f"{path}: `{key}` must be a name or a list of names")
    return what, {str(k): v for k, v in content.items() if k not in _KEYS}


def _words(text: str | Sequence[str]) -> list[str]:
    lines = [text] if isinstance(text, str) else list(text)
    return [word.strip() for line in lines for word in line.split(",") if word.strip()]


def _models(given) -> Iterable[tuple[str, dict]]:
    """Yields names of models and the options that they were given."""
    entries = [given] if isinstance(given, (str, Mapping)) else given
    for entry in entries:
        if isinstance(entry, Mapping):
            own = dict(entry)
            name = own.pop("name", None)
            if not isinstance(name, str):
                raise UserError(f"a model of the plan has no name: {dict(entry)}")
            yield from ((each, own) for each in _matching("model", name, models.names()))
        else:
            for word in _words(entry):
                yield from ((name, {}) for name in _matching("model", word, models.names()))


def _matching(kind: str, word: str, known: list[str]) -> list[str]:
    """Returns the names that a word stands for: itself, a glob's matches, or all."""
    from evar.data.own_sounds import is_csv

    if word == "all":
        return known
    if ":" in word or is_csv(word):  # a prefix, or a path
        return [word]
    if any(c in word for c in "*?["):
        found = [name for name in known if fnmatchcase(name, word)]
        if not found:
            raise UserError(f"no {kind} matches {word!r} (`evar list {kind}s` shows all)")
        return found
    registry.require_known(kind, word, known)
    return [word]


def _tasks(word: str, chosen: Sequence[Protocol], data) -> list[str]:
    if word == "paper":
        found = [t for p in chosen for t in p.averaged] or list(protocol.get("linear").averaged)
        return list(dict.fromkeys(found))
    if word == "all":
        return [name for name in tasks.names() if is_prepared(name, data)]
    return _matching("task", word, tasks.names())


def is_prepared(task: str, data=None) -> bool:
    """Returns whether a task's clips are on this machine, without reading any of them."""
    from evar.data import manifests, own_sounds
    from evar.data.opening import data_folder

    if own_sounds.is_csv(task):
        return Path(task).is_file()
    found = tasks.get(task)
    folder = data_folder(data)
    if found.bundled or (folder / found.name).is_dir():
        return True
    known = manifests.load(found, folder)
    return known is not None and known.root.is_dir()


def _require_known(
    options: Mapping, chosen: Sequence[Protocol], spelled: list, also: Sequence[str]
) -> None:
    """Raises UserError for an option that no protocol, no model and no runtime has."""
    known = [*_ARGUMENTS, *_RUNTIME, *(name for p in chosen for name in p.options())]
    rest = [key for key in options if key not in known]
    if rest:
        known += [name for model, _ in spelled for name in _option_names(model)]
    for key in rest:
        if key not in known:
            raise unknown(
                "option", f"--{key}", [f"--{name}" for name in dict.fromkeys([*known, *also])]
            )


def _require_windowed(options: Mapping, chosen: Sequence[Protocol], named: Sequence[str]) -> None:
    """Raises UserError where --windows is given and no protocol, or no task, is scored by them."""
    from evar.data import own_sounds

    if not any(options.get(name) is not None for name in tasks.WINDOW_OPTIONS):
        return
    if not any(p.windows for p in chosen):
        protocol.require_windows(chosen[0])
    if options.get("seconds") is not None:
        raise UserError("--windows sets the unit length: leave --seconds out")
    if not any(own_sounds.is_csv(task) for task in named):
        raise UserError("--windows is for CSV tasks: a registered task has a published unit")


def _option_names(model: str) -> list[str]:
    try:
        return models.option_names(model)
    except (UserError, ImportError):  # a missing package: `blocked` says so
        return []


def _fitting(given: Mapping, own: Mapping, chosen: Protocol, model: str, task: str) -> dict:
    """Returns the options that a job has; all that a model of a plan was given itself."""
    from evar.data import own_sounds

    tasks.Windows.taken_from(dict(given))  # all jobs would fail by it
    usable = {*_RUNTIME, *_ARGUMENTS, *chosen.options(), *own}
    if any(key not in usable for key in given):
        usable |= set(_option_names(model))
    if not chosen.seeds:
        usable.discard("seeds")
    if not own_sounds.is_csv(task) or not chosen.trains:
        usable -= {"seconds", *tasks.WINDOW_OPTIONS}
    if "gradients" in chosen.needs:
        usable.discard("resample")  # which is of embeddings
    if not chosen.windows:
        usable -= set(tasks.WINDOW_OPTIONS)
    if given.get("weights") is not None and not _takes_weights(model):
        usable.discard("weights")
    return {k: v for k, v in given.items() if k in usable and v is not None}


def _takes_weights(model: str) -> bool:
    try:
        return models.takes_weights(models.class_of(model, models.config(model)))
    except (UserError, ImportError):
        return True


def blocked(job: Job) -> str:
    """Returns why a job cannot run here, as one line, or ""; loads no network."""
    options = dict(job.options)
    try:
        chosen = protocol.of_command(job.protocol)
        run.split_options(
            chosen, job.model, {k: v for k, v in options.items() if k not in _ARGUMENTS}
        )
        if "text" in chosen.needs and not models.reads_text(job.model):
            return "an audio-only model: it reads no captions"
        return _no_task(chosen, job, options.get("data")) or _no_weights(job, options)
    except (UserError, ImportError) as error:
        return (str(error).splitlines() or [type(error).__name__])[0]


def understood(jobs: Iterable[Job]) -> list[str]:
    """Returns one line for each table of own sounds that is not in our own dialect.

    It says what was understood of it; of a table that cannot be read, the jobs say so.
    """
    from evar.data import own_sounds

    found = []
    for task in dict.fromkeys(job.task for job in jobs if own_sounds.is_csv(job.task)):
        with contextlib.suppress(UserError):
            captioned = own_sounds.has_captions(task)
            read = own_sounds.captions_from_csv if captioned else own_sounds.task_from_csv
            if notes := read(task).notes:
                found.append(f"{task}: {'; '.join(notes)}")
    return found


def _no_task(chosen: Protocol, job: Job, data) -> str:
    from evar.data import own_sounds

    if not is_prepared(job.task, data):
        return f"not prepared on this machine: `python prepare.py {job.task}`"
    if not own_sounds.is_csv(job.task):
        chosen.require_task(tasks.get(job.task), job.model)
    return ""


def _no_weights(job: Job, options: Mapping) -> str:
    from evar.weights import weights_folder

    spec = models.config(job.model)
    given = options.get("weights")
    if given == "random" or not _takes_weights(job.model):
        return ""
    if given is not None:
        return "" if os.path.exists(str(given)) else f"{given}: no such weights"  # noqa: PTH110
    if spec.weights is None or spec.weights.url:
        return ""  # without, or downloaded when it is loaded
    path = weights_folder() / spec.weights.file
    return "" if path.exists() else f"weights are not at {path}"
