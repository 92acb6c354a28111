"""What `--dry_run` prints: every job, what it would embed, and how long decoding would take."""

import os
from collections.abc import Mapping

from evar import protocol
from evar import task as tasks
from evar.data import manifests, own_sounds
from evar.data.opening import data_folder
from evar.results import record
from evar.sweeping.job import Job

_CLIPS_PER_SECOND = 400  # 5-s clips that one core decodes and resamples (docs/benchmarks.md)


def lines(why: Mapping[Job, str], results) -> list[str]:
    """Returns a table of jobs (`why`: the reasons of those that cannot run), and an estimate.

    No network is loaded: "has a result" says that there is one of this model, task and protocol;
    the sweep itself compares what decides the result.
    """
    there = {(r.model.name, r.task.name, r.protocol) for r in record.load_runs(results)[0]}
    rows, decoded = [], {}
    for job, reason in why.items():
        clips = None if reason else clips_of(job)
        name = protocol.of_command(job.protocol).name
        done = (_model_name(job), _task_name(job), name) in there
        note = f"cannot run: {reason}" if reason else "has a result" if done else "due"
        embeds = "" if clips is None else f"{clips:,} clips"
        rows.append((job.model, job.task, job.protocol, embeds, note))
        if clips and note == "due":
            decoded[job.task] = clips
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    out = ["  ".join([*map(str.ljust, row[:4], widths), row[4]]) for row in rows]
    total, cores = sum(decoded.values()), os.cpu_count() or 1
    minutes = total / (_CLIPS_PER_SECOND * cores) / 60
    due = sum(row[4] == "due" for row in rows)
    return [
        *out,
        f"{len(rows)} jobs, {due} due; {total:,} clips to decode once for each sample rate: about "
        f"{minutes:.1f} min of 5-s clips on {cores} cores, and the time of the encoders",
    ]


def clips_of(job: Job) -> int | None:
    """Returns the number of clips that a job embeds; None where it has not been counted."""
    data = dict(job.options).get("data")
    if own_sounds.is_csv(job.task):
        return own_sounds.clips_in(job.task)
    task = tasks.get(job.task)
    manifest = manifests.load(task, data_folder(data))
    if manifest is None:
        return sum(task.counts.values()) or None
    chosen = protocol.of_command(job.protocol)
    return len((manifest if chosen.trains else manifest.test_side()).good)


def _model_name(job: Job) -> str:
    from evar import models

    return models.config(job.model).name


def _task_name(job: Job) -> str:
    return own_sounds.name_of(job.task) if own_sounds.is_csv(job.task) else job.task
