"""From the classes of a task to the captions that stand for them in zero-shot classification."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evar import files
from evar.data.indexing import own_table
from evar.data.manifest import Manifest
from evar.errors import UserError, unknown
from evar.task import Task

PLACE = "{label}"
DEFAULT = "{label} can be heard"


@dataclass(frozen=True)
class CaptionRule:
    """How a class becomes captions: templates for all, or captions of its own.

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
        """The captions of each class, in the order of `names`.

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
    """The task's own rule."""
    if isinstance(task.captions, str):
        return CaptionRule((task.captions,))
    return CaptionRule((), {label: (text,) for label, text in task.captions.items()})


def from_template(text: str) -> CaptionRule:
    """The rule of a command line: one template, or several with "|" between them."""
    return CaptionRule(_templates([t.strip() for t in text.split("|")], "--template"), None, text)


def from_yaml(path, names: Sequence[str], titles: Mapping[str, str] | None = None) -> CaptionRule:
    """The rule in a user's YAML file: `templates` (a text or a list), `labels` (label: captions).

    A label's captions are a text or a list. Raises UserError for anything else, and for labels
    that are neither in `names`, the classes of the task, nor among their `titles`.
    """
    import yaml

    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        _refuse_twice(yaml.compose(text, Loader=yaml.SafeLoader), path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{path}: not a file of caption rules ({reason})") from error
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


def _refuse_twice(node, path: Path) -> None:
    """UserError for a key that a mapping has twice: YAML would keep the last one in silence."""
    import yaml

    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise UserError(f"{path}: the key {key!r} stands there twice")
        for _, value in node.value:
            _refuse_twice(value, path)


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
    """SHA-256 of lists of texts, such as the captions of all classes; first 16 digits."""
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
