"""A protocol: one way to evaluate an encoder on a task, declared by one file in evar/protocols/."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from evar import registry
from evar.errors import UserError, unknown

if TYPE_CHECKING:
    from evar.data.manifest import Manifest
    from evar.models import Model
    from evar.runtime import Runtime
    from evar.scoring.evaluation import Evaluation
    from evar.task import Task

Needs = Literal["text", "gradients"]
_TRUTHS = {
    "classification": "classes, no captions",
    "tagging": "classes",
    "retrieval": "captions, no classes",
}
_SEEDS = 2**32  # as many as every generator takes


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """One way to evaluate an encoder: the literal `PROTOCOL` of `evar/protocols/<name>.py`.

    `evaluate(model, manifest, settings, seeds, runtime)` is a function of its arguments: it reads
    audio through the manifest, writes nothing but the embedding cache and, where it trains the
    encoder, `runtime.training.folder`, and returns an Evaluation.

    `settings` is a frozen dataclass; its fields are the options of the command line and of
    `evar.evaluate`. `resolve(given, model, manifest)` makes the settings of one run from the
    fields that were given; by default the dataclass itself does. Two runs with equal settings,
    model, data and seeds are one run.
    """

    name: str  # the file's name
    version: int  # written into every result; raise it when scores change
    title: str
    settings: type
    evaluate: Callable[[Model, Manifest, Any, tuple[int, ...], Runtime], Evaluation]
    resolve: Callable[[Mapping[str, object], Model, Manifest], Any] | None = None
    seeds: tuple[int, ...] = ()  # of the runs by default; (): nothing in it is random
    needs: frozenset[Needs] = frozenset()  # of the model, beyond embedding audio
    kinds: frozenset[str] = frozenset({"classification", "tagging"})  # of tasks (evar.task.KINDS)
    trains: bool = True  # False: only the test side is used, so that the others may be absent
    adapter_options: Callable[[Task, Mapping[str, object], Sequence[str]], dict] | None = None
    # (task, given options, the adapter's option names) -> adapter options that a task wants
    embeds: Literal["", "units", "joint"] = ""  # what a sweep may embed ahead, with the model as it
    # is: `embed_task` with `settings.crop_seed`, or the test side in the joint space, whole clips
    # unless `settings.clips` says "unit"
    windows: bool = False  # whether it scores recordings by windows (`evar.task.Windows`)
    averaged: tuple[str, ...] = ()  # tasks of the leaderboard's average column; empty: none
    command: str = ""  # name of its command line; "": the protocol's name
    help: str = ""  # what --help says of the settings, one option per line

    def options(self) -> tuple[str, ...]:
        """Returns the names of the settings that a user may set (metadata option=False hides)."""
        return tuple(f.name for f in fields(self.settings) if f.metadata.get("option", True))

    def defaults(self) -> dict[str, object]:
        """Returns the default of every setting that has one."""
        found = {}
        for f in fields(self.settings):
            if f.default is not MISSING:
                found[f.name] = f.default
            elif f.default_factory is not MISSING:
                found[f.name] = f.default_factory()
        return found

    def check(self, given: Mapping[str, object]) -> None:
        """Raises UserError for values that are wrong for any model and task."""
        if self.defaults().keys() >= {f.name for f in fields(self.settings)}:
            self.settings(**given)

    def settings_for(self, given: Mapping[str, object], model: Model, manifest: Manifest) -> Any:
        """Returns the settings of one run; None in `given` means "not given".

        Raises UserError for an unknown setting or a value out of range.
        """
        given = {k: v for k, v in given.items() if v is not None}
        for key in given:
            if key not in self.options():
                raise unknown(f"option of {self.name}:", key, self.options())
        if self.resolve is not None:
            return self.resolve(given, model, manifest)
        return self.settings(**given)

    def require_task(self, task: Task, model_name: str = "MODEL") -> None:
        """Raises UserError where the protocol cannot score this kind of task."""
        if task.kind in self.kinds:
            return
        fitting = [p.command or p.name for p in usable() if task.kind in p.kinds]
        known = ", ".join(f"`evar {name} {model_name} {task.name}`" for name in fitting)
        raise UserError(
            f"{task.name} has {_TRUTHS.get(task.kind, task.kind)}, which {self.name} does not "
            f"score. It is for {known or 'no protocol that is installed'}"
        )


def require_windows(chosen: Protocol) -> None:
    """Raises UserError for a protocol that does not score recordings by windows."""
    if not chosen.windows:
        known = ", ".join(p.command or p.name for p in usable() if p.windows)
        raise UserError(
            f"{chosen.name} does not score recordings by windows: leave --windows out ({known} do)"
        )


def names() -> list[str]:
    """Returns the names of all protocols: files in evar/protocols/ and installed plug-ins."""
    return registry.names("protocols")


def get(name: str) -> Protocol:
    """Returns the protocol of this name; UserError with close matches where there is none."""
    registry.require_known("protocol", name, names())
    return registry.declared("protocols", name, "PROTOCOL", Protocol)


def usable() -> list[Protocol]:
    """Returns all protocols but those of installed packages that cannot be imported."""
    found = []
    for name in names():
        with contextlib.suppress(UserError):  # `get` names it when it is asked for
            found.append(get(name))
    return found


def of_command(name: str) -> Protocol:
    """Returns the protocol that a command line names: by its own name or by its command."""
    if name in names():
        return get(name)
    known = {p.command: p for p in usable() if p.command}
    return known[name] if name in known else get(name)


def seeds_of(protocol: Protocol, given: int | Sequence[int] | None) -> tuple[int, ...]:
    """Returns the seeds of the runs: a count, counted from the protocol's first, or themselves.

    Raises UserError for anything but whole numbers in [0, 2**32), each once.
    """
    if given is None or not protocol.seeds:
        if given is not None:
            raise UserError(f"{protocol.name} has nothing random in it: leave --seeds out")
        return protocol.seeds
    if isinstance(given, Sequence) and given:
        if not all(type(v) is int and 0 <= v < _SEEDS for v in given):
            raise UserError(f"--seeds must be whole numbers from 0 to {_SEEDS - 1}, not {given}")
        if len(set(given)) < len(given):
            raise UserError("--seeds: the same seed twice is the same run twice")
        return tuple(given)
    if type(given) is not int or given < 1:
        raise UserError(f"--seeds must be a whole number of 1 or more, not {given!r}")
    if given > 1000:
        raise UserError(f"--seeds={given} is a number of runs; one seed has a comma: {given},")
    return tuple(range(protocol.seeds[0], protocol.seeds[0] + given))


def no_interval(seeds: Sequence[int], benchmark: str) -> dict[str, object]:
    """Returns why a result has no interval over runs, where it has none: facts of an evaluation."""
    if len(seeds) > 1:
        return {}
    return {"no_ci95": f"one run, as in {benchmark}; --seeds=3 makes three"}
