"""From what a user calls a run to its record: an id, the beginning of one, or MODEL TASK."""

from collections.abc import Sequence
from pathlib import Path

from evar.data import own_sounds
from evar.errors import UserError, unknown
from evar.results import record, render
from evar.results.record import RunRecord


def load(results) -> list[RunRecord]:
    """Returns all runs, oldest first. Raises UserError where there are none."""
    if not Path(results).is_dir():
        raise UserError(f"{results}: no such results folder (--results=DIR)")
    runs, _ = record.load_runs(results)
    if not runs:
        raise UserError(f"{results}: no runs in it. Evaluate a model first, or name --results=DIR")
    return runs


def run_of(
    runs: Sequence[RunRecord], word: str, task: str = "", *, protocol: str = ""
) -> RunRecord:
    """Returns the run of an id or a prefix of one, or that of a model on a task or a CSV.

    Of several runs of a model on a task the newest without overrides, else the newest.

    Raises UserError where there is none, or where a prefix leads to several.
    """
    if protocol:
        runs = [run for run in runs if run.protocol == protocol]
    if not task:
        found = [run for run in runs if run.id.startswith(word)]
        if len(found) == 1 or any(run.id == word for run in found):
            return next((run for run in found if run.id == word), found[0])
        if found:
            raise UserError(f"{word} begins {len(found)} ids; give more digits of one")
        if any(run.model.name == word for run in runs):
            raise UserError(f"{word} is a model: name a task too, as in `{word} demo`")
        raise unknown("run", word, [run.id for run in runs])
    of_model = [run for run in runs if run.model.name == word]
    if not of_model:
        raise unknown("model", word, dict.fromkeys(run.model.name for run in runs))
    named = own_sounds.name_of(task) if own_sounds.is_csv(task) else task
    found = [run for run in of_model if run.task.name in (task, named)]
    if not found:
        raise unknown(f"task of {word}:", task, dict.fromkeys(r.task.name for r in of_model))
    return preferred(found)


def preferred(runs: Sequence[RunRecord]) -> RunRecord:
    """Returns the newest run without overrides, or the newest of all; runs come oldest first."""
    plain = [run for run in runs if not run.variant]
    return (plain or runs)[-1]


def chosen_of(run: RunRecord, runs: Sequence[RunRecord]) -> str:
    """Returns a line that says which run stands for its model on its task, where it has several."""
    alike = [
        r
        for r in runs
        if (r.model.name, r.task.name, r.protocol) == (run.model.name, run.task.name, run.protocol)
    ]
    if len(alike) < 2:
        return ""
    what = render.variant_text(run.variant, reduced=run.reduced) or "no overrides"
    return f"{run.model.name} on {run.task.name}: run {run.id[:8]} of {len(alike)} ({what})"
