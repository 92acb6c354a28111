"""Writes docs/models.md from the registry: `python docs/make_models.py`.

Sizes are measured on untrained networks; the largest ones need several GB of memory.
"""

from pathlib import Path

import torch

from evar import models

PAGE = Path(__file__).resolve().parent / "models.md"


def page(*, measure: bool = True) -> str:
    """Returns the whole page; `measure=False` leaves out the sizes (a test compares the rest)."""
    head = (PAGE.parent / "models.head.md").read_text(encoding="utf-8")
    return head + "\n" + "\n".join(section(name, measure=measure) for name in models.names())


def section(name: str, *, measure: bool) -> str:
    """Returns the section of one model: title, paper, checkpoint, licence, how it was verified."""
    config = models.config(name)
    cls = models.adapter_class(config.adapter)
    about = (cls.__doc__ or "").strip().splitlines()
    lines = [f"## {name}", "", config.title or (about[0] if about else ""), ""]
    if measure and cls.TINY is not None:  # None: it needs an optional package or a file
        lines.append(f"- {_size(cls, config)}")
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


def _size(cls, config) -> str:
    with torch.random.fork_rng(devices=[]):
        adapter = cls(**config.options)
    count = sum(p.numel() for p in adapter.parameters()) / 1e6
    joint = f", joint space {adapter.joint_dim}-d" if adapter.joint_dim else ""
    return (
        f"{adapter.sample_rate:,} Hz, embedding {adapter.embed_dim:,}-d{joint}, "
        f"{count:,.1f} million parameters"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
