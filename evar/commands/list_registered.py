"""`list models|tasks|protocols`: what is registered, and what is known of one of them."""

import json
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from pathlib import Path

from fire.decorators import SetParseFns

from evar.errors import UserError, unknown


@SetParseFns(what=str, name=str, data=str)
def list_registered(what, name=None, *, data=None, json=False):
    """List the registered models, tasks or protocols, or show one of them.

    usage: list models|tasks|protocols [NAME] [options]

    NAME           show what is known of this one: a model's options and their defaults, checkpoint,
                   licence and citation; a task's split, sources and citation

    --data=DIR     where manifests are (to tell which tasks are prepared)
    --json         print JSON
    """
    kinds = {"models": _models, "tasks": _tasks, "protocols": _protocols}
    if what not in kinds:
        raise unknown("list:", what, list(kinds))
    registered, table, one = kinds[what](data)
    if name is None:
        _print_json([_or_error(one, n) for n in registered]) if json else table(registered)
    elif name not in registered and not (what == "models" and ":" in name):
        raise unknown(what.removesuffix("s"), name, registered)
    elif json:
        _print_json(one(name))
    else:
        _print_fields(one(name))


def _or_error(one: Callable[[str], dict], name: str) -> dict:
    """Returns what is known of a name; of a faulty file or plug-in, what is wrong with it."""
    try:
        return one(name)
    except UserError as error:
        return {"name": name, "error": str(error)}


def _models(_):
    from evar import models

    def table(registered: list[str]) -> None:
        for name in registered:
            found = _or_error(lambda n: {"title": models.config(n).title}, name)
            print(f"{name:<20} {found.get('title', found.get('error'))}")

    def one(name: str) -> dict:
        return {**asdict(models.config(name)), "options": models.options_of(name)}

    return models.names(), table, one


def _tasks(data):
    from evar import task as tasks
    from evar.data.opening import data_folder

    def prepared(name: str) -> bool:
        manifest = data_folder(data) / "manifests" / f"{name}.json"
        return manifest.exists() or bool(tasks.get(name).bundled)

    def table(registered: list[str]) -> None:
        layout = "{:<14} {:>9} {:>7}  {:<8} {:>7}  {:<8}  {:<8}  {}"
        heads = ("task", "clips", "classes", "split", "seconds", "metric", "prepared", "licence")
        print(layout.format(*heads))
        for name in registered:
            try:
                task = tasks.get(name)
            except UserError as error:  # a faulty file or plug-in; the others are listed
                print(f"{name:<14} {error}")
                continue
            cells = (
                name,
                f"{sum(task.counts.values()):,}",
                str(task.classes or "-"),
                f"{len(task.folds)} folds" if task.folds else "split",
                f"{task.seconds:g}" if task.seconds else "whole",
                task.metric,
                "yes" if prepared(name) else "no",
                task.licence,
            )
            print(layout.format(*cells))

    def one(name: str) -> dict:
        fields = {k: v for k, v in vars(tasks.get(name)).items() if not callable(v)}
        return {**fields, "prepared": prepared(name)}

    return tasks.names(), table, one


def _protocols(_):
    from evar import protocol

    def table(registered: list[str]) -> None:
        for name in registered:
            try:
                found = protocol.get(name)
            except UserError as error:
                print(f"{name:<12} {error}")
                continue
            print(f"{name:<12} {found.command or found.name:<12} {found.title}")

    def one(name: str) -> dict:
        found = protocol.get(name)
        return {
            "name": name,
            "command": found.command or name,
            "version": found.version,
            "title": found.title,
            "seeds": found.seeds,
            "needs": sorted(found.needs),
            "kinds": sorted(found.kinds),
            "settings": {n: found.defaults().get(n) for n in found.options()},
        }

    return protocol.names(), table, one


def _print_fields(known: dict) -> None:
    for key, value in known.items():
        if value in (None, "", (), {}, []):
            continue
        if isinstance(value, dict):
            print(f"{key}:")
            for inside, text in value.items():
                print(f"  {inside:<18} {text}")
        else:
            text = str(value).strip()
            print(f"{key}:\n{text}" if "\n" in text else f"{key}: {text}")


def _print_json(value) -> None:
    print(json.dumps(value, indent=1, default=_plain, ensure_ascii=False))


def _plain(value):
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "items"):
        return dict(value)
    return list(value) if isinstance(value, (tuple, set, frozenset)) else str(value)
