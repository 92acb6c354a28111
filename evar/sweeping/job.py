"""A job of a sweep: one call of `evar.evaluate`, as plain data that any process can be handed."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from evar import files


@dataclass(frozen=True)
class Job:
    """One evaluation: exactly the single command of its protocol with these options.

    options: (name, value) pairs in the order of their names: settings of the protocol, fields of
    `evar.runtime.Runtime`, options of the adapter, and arguments of `evar.evaluate`.
    """

    model: str
    task: str
    protocol: str
    options: tuple[tuple[str, object], ...] = ()

    @cached_property
    def id(self) -> str:
        """Returns a hash of the job, the name of its files below the sweep's folder."""
        text = files.canonical_json(self.to_json())
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """Returns the job as messages show it."""
        return f"{self.model} {self.task} {self.protocol}"

    def to_json(self) -> dict[str, object]:
        """Returns the job as JSON values."""
        return {
            "model": self.model,
            "task": self.task,
            "protocol": self.protocol,
            "options": dict(self.options),
        }

    @classmethod
    def of(cls, model: str, task: str, protocol: str, options: Mapping[str, object]) -> "Job":
        """Returns a job; lists among the options become tuples."""
        plain = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        return cls(model, task, protocol, tuple(sorted(plain.items())))

    @classmethod
    def from_json(cls, data: Mapping) -> "Job":
        """Returns the job that `to_json` described."""
        return cls.of(data["model"], data["task"], data["protocol"], data["options"])


def groups(jobs: list[Job], *, at_least: int = 1) -> list[list[Job]]:
    """Returns jobs by task, so that a task's clips are decoded once for all of its models.

    at_least: as many groups as workers, if there are as many models: large groups are halved, and
    jobs of one model stay together.
    """
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(job.task, []).append(job)
    parts = list(found.values())
    while len(parts) < at_least:
        largest = max(parts, key=_models, default=[])
        if _models(largest) < 2:
            break
        parts.remove(largest)
        parts += _halves(largest)
    return parts


def _models(jobs: list[Job]) -> int:
    return len({job.model for job in jobs})


def _halves(jobs: list[Job]) -> Iterator[list[Job]]:
    names = list(dict.fromkeys(job.model for job in jobs))
    first = set(names[: (len(names) + 1) // 2])
    yield [job for job in jobs if job.model in first]
    yield [job for job in jobs if job.model not in first]


def part_of(jobs: list[Job], part: tuple[int, int]) -> list[Job]:
    """Returns the I-th of N parts: a run of jobs in the order of tasks; parts are the whole."""
    ordered = sorted(jobs, key=lambda job: (job.task, job.model, job.protocol, job.id))
    number, total = part
    return ordered[len(ordered) * number // total : len(ordered) * (number + 1) // total]
