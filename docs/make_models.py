"""Writes docs/models.md from the registry: `python docs/make_models.py`.

Sizes are those of untrained networks.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from evar import models

PAGE = Path(__file__).resolve().parent / "models.md"
_SIZE = re.compile(
    r"(?P<rate>[\d,]+) Hz, embedding (?P<width>[\d,]+)-d(, joint space (?P<joint>[\d,]+)-d)?"
    r"(, (?P<count>[\d,.]+) million parameters)?"
)


def page(sizes: Mapping[str, str]) -> str:
    """Returns the whole page; `sizes` are those of the models by name, as `size` words them."""
    head = (PAGE.parent / "models.head.md").read_text(encoding="utf-8")
    sections = "\n".join(section(name, sizes.get(name, "")) for name in models.names())
    return f"{head}\n{table(sizes)}\n{sections}"


def written_sizes(text: str) -> dict[str, str]:
    """Returns the sizes that a page has: what `page` was given."""
    found = re.findall(rf"^## (\w+)\n\n.*\n\n- ({_SIZE.pattern})\n", text, re.MULTILINE)
    return {name: size for name, size, *_ in found}


def table(sizes: Mapping[str, str]) -> str:
    """Returns the table of all models, one a row."""
    rows = ["| model | kHz | embedding | joint space | parameters (M) | licence |"]
    rows += ["| --- | --: | --: | --: | --: | --- |"]
    for name in models.names():
        config = models.config(name)
        found = _SIZE.fullmatch(sizes.get(name, ""))
        cells = found.groupdict("") if found else dict.fromkeys(("rate", "width"), "")
        rate = cells["rate"].replace(",", "")
        numbers = (
            f"{int(rate) / 1000:g}" if rate else "",
            *(cells.get(key, "") for key in ("width", "joint", "count")),
        )
        link = f"[{config.title or name}](#{name})"
        rows.append(f"| `{name}`: {link} | {' | '.join(numbers)} | {config.licence} |")
    return "## All models\n\n" + "\n".join(rows) + "\n"


def section(name: str, size: str) -> str:
    """Returns the section of one model: title, paper, checkpoint, licence, how it was verified."""
    config = models.config(name)
    cls = models.adapter_class(config.adapter)
    about = (cls.__doc__ or "").strip().splitlines()
    lines = [f"## {name}", "", config.title or (about[0] if about else ""), ""]
    if size:
        lines.append(f"- {size}")
    facts = {
        "Paper": config.paper,
        "Checkpoint": _weights(config.weights),
        "Licence": config.licence,
        "Probe learning rate": _rates(config, cls),
        "Trained on": _trained_on(config.trained_on),
        "Verified": config.verified,
        "Notes": config.notes,
    }
    lines += [f"- {key}: {' '.join(value.split())}" for key, value in facts.items() if value]
    return "\n".join(lines) + "\n" + bibtex(config.citation)


def _rates(config: models.ModelConfig, cls: type) -> str:
    """Returns the usual learning rate and those of single tasks, "0.0003 (surge: 0.0001)"."""
    own = ", ".join(f"{task}: {rate:g}" for task, rate in config.lr_by_task.items())
    return f"{config.lr or cls.lr:g}" + (f" ({own})" if own else "")


def bibtex(citation: str) -> str:
    """Returns a folded block with a BibTeX entry; nothing without one."""
    if not citation:
        return ""
    entry = citation.strip()
    return f"\n<details><summary>BibTeX</summary>\n\n```bibtex\n{entry}\n```\n\n</details>\n"


def _weights(weights: models.Weights | None) -> str:
    if weights is None:
        return ""
    where = weights.url or weights.how
    check = f", sha256 `{weights.sha256}`" if weights.sha256 else ""
    return f"`{weights.file}`: {where}{check}"


def _trained_on(entries) -> str:
    """The data sets of a checkpoint, what was used of them where it was not audio alone, notes."""
    if entries is None:
        return "not known"
    described = (
        entry.data
        + (f" with {entry.use}" if entry.use != "audio" else "")
        + (f" ({entry.note})" if entry.note else "")
        for entry in entries
        if isinstance(entry, models.TrainingData)
    )
    return "; ".join(described) or "nothing, a fixed formula"


def size(name: str) -> str:
    """Returns a model's rate, dimensions and parameters, of an untrained build."""
    config = models.config(name)
    cls = models.adapter_class(config.adapter)
    if cls.TINY is None:  # it needs an optional package or a file
        known = hasattr(cls, "sample_rate") and hasattr(cls, "embed_dim")
        return f"{cls.sample_rate:,} Hz, embedding {cls.embed_dim:,}-d" if known else ""
    adapter = _untrained(cls, config.options)
    count = sum(p.numel() for p in adapter.parameters()) / 1e6
    joint = f", joint space {adapter.joint_dim:,}-d" if adapter.joint_dim else ""
    return (
        f"{adapter.sample_rate:,} Hz, embedding {adapter.embed_dim:,}-d{joint}, "
        f"{count:,.1f} million parameters"
    )


def _untrained(cls, options):
    """The network without memory for its parameters, where its code allows that."""
    try:
        with torch.device("meta"):
            return cls(**options)
    except (RuntimeError, NotImplementedError, TypeError):  # it computes with its tables
        with torch.random.fork_rng(devices=[]):
            return cls(**options)


if __name__ == "__main__":
    PAGE.write_text(page({name: size(name) for name in models.names()}), encoding="utf-8")
    print(f"wrote {PAGE}")
