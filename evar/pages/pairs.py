"""Two models on the same clips: what is compared, by which test, with which caveats."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evar.errors import UserError, unknown
from evar.pages import clips, finding, outcomes
from evar.pages.outcomes import PerClip
from evar.results.record import RunRecord
from evar.results.text import caveats
from evar.scoring import comparison, metrics
from evar.scoring.comparison import Difference, Draws, McNemar

_SEED = 42
ALPHA = 0.05


@dataclass(frozen=True, eq=False)
class Pair:
    """Two runs of one task, compared.

    difference: a - b, in the score's unit. mcnemar: of accuracy, else None. by: what was drawn.
    notes: differences between the runs that a reader must know. classes: name, a, b, difference.
    only_a, only_b: clips that one model alone has right, in most of its runs.
    """

    a: RunRecord
    b: RunRecord
    draws: Draws
    difference: Difference
    mcnemar: McNemar | None
    by: str
    notes: tuple[str, ...]
    classes: tuple[tuple[str, float, float], ...]
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()


def compare(a: RunRecord, b: RunRecord, results, *, data=None) -> Pair:
    """Compares two runs on the same clips.

    Raises UserError where they are of different tasks, protocols, metrics or clips, where a table
    of predictions is missing, or where both are the same run.
    """
    _require_alike(a, b)
    tables = [outcomes.predictions(results, run) for run in (a, b)]
    for run, table in zip((a, b), tables, strict=True):
        if table is None:
            raise UserError(
                f"{results}/runs/{run.id}.predictions.csv.gz: not there. Run the evaluation again."
            )
    one, other = (outcomes.per_clip(t, run) for run, t in zip((a, b), tables, strict=True))
    rng = np.random.default_rng(_SEED)
    notes = _notes(a, b)
    if one is not None and other is not None:
        draws, by = _of_means(a, one, other, rng, data)
    else:
        draws, by = _of_scores(a, b, results, tables, rng, data)
    if by == "clip" and a.score.test_unit != "clip":
        group = a.score.test_unit
        notes.append(f"drawn by clip: the tables of these runs do not name each clip's {group}")
    return Pair(
        a=a,
        b=b,
        draws=draws,
        difference=draws.difference(),
        mcnemar=_mcnemar(a, one, other),
        by=by,
        notes=tuple(notes),
        classes=_classes(a, b),
        **_discordant(a, one, other),
    )


def _require_alike(a: RunRecord, b: RunRecord) -> None:
    if a.id == b.id:
        raise UserError(f"{a.id}: both are the same run")
    for what, of_a, of_b in (
        ("protocol", a.protocol, b.protocol),
        ("task", a.task.name, b.task.name),
        ("version of the task", a.task.version, b.task.version),
        ("metric", a.score.metric, b.score.metric),
        ("set of clips (manifest)", a.manifest[:12], b.manifest[:12]),
    ):
        if of_a != of_b:
            raise UserError(
                f"{a.id[:8]} and {b.id[:8]} cannot be compared: different {what}, {of_a} and {of_b}"
            )


def _notes(a: RunRecord, b: RunRecord) -> list[str]:
    """Returns what differs besides the model, and the caveats of the scores, as sentences."""
    said = [
        f"{run.model.name} ({run.id[:8]}): {caveat}" for run in (a, b) for caveat in caveats(run)
    ]
    if a.protocol_version != b.protocol_version:
        said.append(f"different protocol versions: {a.protocol_version} and {b.protocol_version}")
    if a.task.seconds != b.task.seconds:
        said.append(f"different unit lengths: {a.task.seconds} s and {b.task.seconds} s")
    if a.seeds != b.seeds:
        said.append(f"different seeds: {list(a.seeds)} and {list(b.seeds)}")
    for key in sorted({*a.settings, *b.settings}):
        of_a, of_b = a.settings.get(key), b.settings.get(key)
        if of_a != of_b and key != "text":
            said.append(f"different {key}: {of_a} and {of_b}")
    return said


def _of_means(
    run: RunRecord, a: PerClip, b: PerClip, rng: np.random.Generator, data
) -> tuple[Draws, str]:
    if not a.same_clips(b):
        raise UserError(
            f"{run.task.name}: the two runs did not score the same clips (one left out bad ones): "
            "a paired comparison needs the same"
        )
    groups = a.groups if a.groups is not None else b.groups
    if groups is None:
        groups = _groups(run, a.clips, data)
    draws = comparison.paired_draws(a.values, b.values, rng, groups=groups, strata=a.folds)
    return draws, "clip" if groups is None else run.score.test_unit


def _groups(run: RunRecord, files: NDArray, data) -> NDArray | None:
    """Groups of clips from the data set on this disk, for runs whose tables do not have them."""
    if run.score.test_unit == "clip":
        return None
    manifest = clips.find(run, data).manifest
    if manifest is None:
        return None
    known = dict(zip(manifest.clips, manifest.table.group, strict=True))
    return np.array([known.get(file) or f"alone: {file}" for file in files])


def _of_scores(a: RunRecord, b: RunRecord, results, tables, rng, data) -> tuple[Draws, str]:
    """Of metrics that are no mean over clips: they are computed again from scores of classes."""
    one, other = (
        outcomes.class_scores(results, run, table)
        for run, table in zip((a, b), tables, strict=True)
    )
    if one is None or other is None or a.score.metric not in metrics.names():
        raise UserError(
            f"{a.id[:8]} and {b.id[:8]}: the runs' tables are not enough to compare their "
            f"{a.score.metric}. Run both evaluations again."
        )
    if one.names != other.names or not np.array_equal(one.clips, other.clips):
        raise UserError(f"{a.task.name}: the two runs did not score the same clips and classes")
    groups = one.groups if one.groups is not None else _groups(a, one.clips, data)
    by = "clip" if groups is None else a.score.test_unit
    draws = comparison.metric_draws(
        metrics.get(a.score.metric),
        one.truth,
        one.scores,
        other.scores,
        rng,
        groups=groups,
        strata=one.folds,
    )
    return draws, by


def _right(found: PerClip) -> NDArray:
    """Returns whether a clip is right in more than half of the runs, (N,)."""
    return found.values > 0.5


def _mcnemar(run: RunRecord, a: PerClip | None, b: PerClip | None) -> McNemar | None:
    if run.score.metric != "accuracy" or a is None or b is None:
        return None
    return comparison.mcnemar(_right(a), _right(b))


def _discordant(run: RunRecord, a: PerClip | None, b: PerClip | None) -> dict:
    if run.score.metric != "accuracy" or a is None or b is None:
        return {}
    gap = a.values - b.values
    order = np.argsort(-np.abs(gap), kind="stable")
    right = _right(a), _right(b)
    return {
        "only_a": tuple(str(a.clips[i]) for i in order if right[0][i] and not right[1][i]),
        "only_b": tuple(str(a.clips[i]) for i in order if right[1][i] and not right[0][i]),
    }


def _classes(a: RunRecord, b: RunRecord) -> tuple[tuple[str, float, float], ...]:
    """Values of classes that are defined for both, by the difference."""
    both = [
        (name, value, other)
        for name, value in a.per_class.items()
        if value is not None and (other := b.per_class.get(name)) is not None
    ]
    return tuple(sorted(both, key=lambda row: (row[2] - row[1], row[0])))


def of_models(
    runs: Sequence[RunRecord], a: str, b: str, *, protocol: str = "", task: str = ""
) -> list[tuple[RunRecord, RunRecord]]:
    """Returns the pairs of runs of two models on the same clips, one per task.

    Of several runs of a model the newest without overrides, else the newest.

    Raises UserError where there are none, or several protocols to choose from.
    """
    found: dict[str, dict[tuple, list[RunRecord]]] = {a: {}, b: {}}
    for name in (a, b):
        own = [run for run in runs if run.model.name == name]
        if not own:
            raise unknown("model", name, dict.fromkeys(run.model.name for run in runs))
        for run in own:
            found[name].setdefault((run.protocol, run.task.name, run.manifest), []).append(run)
    keys = [key for key in found[a] if key in found[b]]
    keys = [k for k in keys if protocol in ("", k[0]) and task in ("", k[1])]
    common = sorted({key[0] for key in keys})
    if len(common) > 1:
        raise UserError(f"{a} and {b} share several protocols: --protocol={' or '.join(common)}")
    if not keys:
        raise UserError(f"{a} and {b} have no task in common, on the same clips by one protocol")
    last = {key[1]: key for key in keys}  # of several sets of clips the one evaluated last
    return [
        (finding.preferred(found[a][key]), finding.preferred(found[b][key]))
        for _, key in sorted(last.items())
    ]
