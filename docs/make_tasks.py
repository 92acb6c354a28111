"""Writes docs/tasks.md from the registry: `python docs/make_tasks.py`."""

from pathlib import Path

from make_models import bibtex

from evar import task as tasks
from evar.task import SPLITS, Source, Task

PAGE = Path(__file__).resolve().parent / "tasks.md"
_HEAD = """# Tasks

This page is written by `python docs/make_tasks.py` from the files in `tasks/`.

`python prepare.py TASK --source=DIR` indexes a copy that is on disk; `--download` fetches what is
openly served and prints what to do by hand for the rest. The numbers of clips are the published
ones: a copy with fewer is scored only with `--partial`, and the score says so.
"""


def page() -> str:
    """Returns the whole page, one section per task."""
    return _HEAD + "".join("\n" + section(tasks.get(name)) for name in tasks.names())


def section(task: Task) -> str:
    """Returns the section of one task: question, source, split, segment, metric, captions."""
    counts = ", ".join(f"{side} {count:,}" for side, count in task.counts.items())
    unit = f"{task.seconds:g} s" if task.seconds else "whole clips"
    facts = {
        "Metric": task.metric + (", several labels a clip" if task.multi_label else ""),
        "Classes": str(task.classes or ""),
        "Clips": f"{sum(task.counts.values()):,} ({counts})",
        "Split": f"{len(task.folds)} folds" if task.folds else " / ".join(task.counts or SPLITS),
        "Groups": _groups(task),
        "Segment": unit,
        "Read from": task.metadata,
        "Folder holds": " or ".join(f"`{m}`" for m in _markers(task)),
        "Licence": task.licence,
        "Home": task.homepage,
        "Captions": "" if task.read_captions else _captions(task),
        "Incomplete copies": task.comparable,
    }
    lines = [f"## {task.name}", "", task.title, ""]
    lines += [f"- {key}: {value}" for key, value in facts.items() if value]
    lines += [f"- {note}" for note in task.notes]
    if task.sources:
        lines += ["", "| file | address | checksum |", "| --- | --- | --- |"]
        lines += [_row(source) for source in task.sources]
    return "\n".join(lines) + "\n" + bibtex(task.citation)


def _markers(task: Task) -> tuple[str, ...]:
    return (task.marker,) if isinstance(task.marker, str) else task.marker


def _groups(task: Task) -> str:
    if not task.group:
        return ""
    return f"{task.group}" + (
        f" (the published split shares some between {', '.join(task.groups_cross)})"
        if task.groups_cross
        else ""
    )


def _captions(task: Task) -> str:
    if isinstance(task.captions, str):
        return f'"{task.captions}"' + (", with the label's display name" * bool(task.titles))
    return "; ".join(f'{label}: "{text}"' for label, text in task.captions.items())


def _row(source: Source) -> str:
    for kind in ("sha256", "md5", "git_sha1"):
        if value := getattr(source, kind):
            check = f"{kind} `{value}`"
            break
    else:
        check = ""
    where = source.url or ("inside the archive" if not source.how else "")
    if source.how:
        where = f"{where} {source.how}.".strip()
    return f"| `{source.path}` | {where} | {check} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
