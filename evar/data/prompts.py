"""Makes the captions that stand for classes in zero-shot classification."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evar import files
from evar.data.indexing import own_table
from evar.data.manifest import Manifest
from evar.errors import UserError, unknown
from evar.task import Task
from evar.yaml_files import read_yaml

PLACE = "{label}"
DEFAULT = "{label} can be heard"


@dataclass(frozen=True)
class CaptionRule:
    """Makes captions of classes: from templates for all, or from a class's own captions.

    `templates` hold "{label}", where a class's title stands: its label with "_" as a space.
    `own` (label: captions) comes before them, and may hold it as well. Several captions of one
    class are averaged. `source` says whose rule it is: "task", the text of --template, or the name
    of a file and a hash of what it says.
    """

    templates: tuple[str, ...] = (DEFAULT,)
    own: Mapping[str, tuple[str, ...]] | None = None
    source: str = "task"

    def captions(
        self, names: Sequence[str], titles: Mapping[str, str] | None = None
    ) -> list[tuple[str, ...]]:
        """Returns the captions of each class, in the order of `names`.

        `titles`: what a label is called where the label is a code. Raises UserError for a class
        without caption and for two classes with the same captions.
        """
        made = []
        for name in names:
            title = (titles or {}).get(name, name).replace("_", " ")
            texts = (self.own or {}).get(name) or self.templates
            made.append(tuple(text.replace(PLACE, title) for text in texts))
            if not made[-1]:
                raise UserError(f"{self.source}: no caption for the class {name!r}")
        seen: dict[tuple[str, ...], str] = {}
        for name, captions in zip(names, made, strict=True):
            alike = tuple(sorted(captions))
            if alike in seen:
                raise UserError(
                    f"{seen[alike]!r} and {name!r} have the same caption, {captions[0]!r}: no "
                    "model can tell them apart. Rename a label or give it a caption of its own."
                )
            seen[alike] = name
        return made


def of_task(task: Task) -> CaptionRule:
    """Returns the task's own rule."""
    if isinstance(task.captions, str):
        return CaptionRule((task.captions,))
    return CaptionRule((), {label: (text,) for label, text in task.captions.items()})


def from_template(text: str) -> CaptionRule:
    """Returns the rule of --template: one template, or several separated by "|"."""
    return CaptionRule(_templates([t.strip() for t in text.split("|")], "--template"), None, text)


def from_yaml(path, names: Sequence[str], titles: Mapping[str, str] | None = None) -> CaptionRule:
    """Returns the rule in a user's YAML file: keys `templates` (text or list) and `labels`.

    `labels` maps a label to its captions, a text or a list. Raises UserError for anything else,
    and for labels that are neither in `names`, the classes of the task, nor among their `titles`.
    """
    path = Path(path)
    content = read_yaml(path, what="a file of caption rules")
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: needs `templates`, `labels` or both (docs/zeroshot.md)")
    for key in content:
        if key not in ("templates", "labels"):
            raise unknown(f"key in {path}:", str(key), ["templates", "labels"])
    labels = content.get("labels") or {}
    if not isinstance(labels, dict):
        raise UserError(f"{path}: `labels` maps each label to a caption or a list of captions")
    called = {name: name for name in names}
    coded = {title: name for name, title in (titles or {}).items() if name in called}
    own: dict[str, tuple[str, ...]] = {}
    for label, value in labels.items():
        name = called.get(str(label)) or coded.get(str(label))
        if name is None:
            raise unknown(f"label in {path}:", str(label), [*called, *coded])
        own[name] = _texts(value, f"{path}: {label}")
    templates = _templates(content.get("templates") or [], path)
    said = digest([templates, *([name, *texts] for name, texts in sorted(own.items()))])
    return CaptionRule(templates, own, f"{path.name} {said[:6]}")


def _texts(value, where) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(t, str) and t.strip() for t in texts):
        raise UserError(f"{where}: captions are a text or a list of texts, none of them empty")
    return tuple(texts)


def _templates(value, where) -> tuple[str, ...]:
    templates = _texts(value, where)
    for template in templates:
        if PLACE not in template:
            raise UserError(f"{where}: the template {template!r} has no {PLACE} in it")
    return templates


def digest(captions: Iterable[Sequence[str]]) -> str:
    """Returns the first 16 digits of the SHA-256 of lists of texts (a class's captions each)."""
    return hashlib.sha256(files.canonical_json([list(c) for c in captions]).encode()).hexdigest()[
        :16
    ]


def titles_of(manifest: Manifest) -> Mapping[str, str]:
    """Returns what the data set calls its labels, where these are codes."""
    task = manifest.task
    return own_table(task, task.titles, manifest.root) if task.titles else {}


def rule_of(
    manifest: Manifest, names: Sequence[str], *, template: str | None = None, path=None
) -> CaptionRule:
    """Returns the caption rule of a template, of a YAML file, or else of the task."""
    if template is not None:
        return from_template(template)
    if path is not None:
        return from_yaml(path, names, titles_of(manifest))
    return of_task(manifest.task)
