"""Where a model fails: classes, confusions, mistakes and queries, from a run's tables.

N test clips, C classes, R runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evar.pages.outcomes import PerClip, Scores
from evar.results.record import RunRecord
from evar.scoring import metrics, statistics
from evar.scoring.statistics import Stratum

MISTAKES = 12
WORST_CLASSES, CLIPS_OF_A_CLASS = 3, 4
QUERIES = 12
_RANKED = 500_000  # clips x classes of which average precision is worked out in a few seconds


@dataclass(frozen=True)
class OfClass:
    """A class: its value as recorded, the 95 % interval over test clips if any, its clips."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    clips: int | None


@dataclass(frozen=True)
class Shown:
    """A clip to look at and to hear. score: of what was predicted, the mean over runs.

    near: the nearest captions with their cosine similarities, of zero-shot classification.
    """

    clip: str
    true: str
    predicted: str
    score: float
    near: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Query:
    """A query of retrieval: what was asked, and the rank of the first right answer.

    near: what was nearest instead, as far as the run kept it: clip, its caption, similarity.
    """

    direction: str
    clip: str
    caption: str
    rank: float
    precision: float
    near: tuple[tuple[str, str, float], ...] = ()


def classes(
    run: RunRecord, table: pd.DataFrame | None, found: PerClip | None, scores: Scores | None
) -> list[OfClass]:
    """Returns the classes, best first, with intervals over test clips by group, as the score's."""
    if run.score.metric == "accuracy" and table is not None and found is not None:
        intervals = _of_accuracy(table, found)
    elif scores is not None and scores.truth.size <= _RANKED and run.score.metric == "mAP":
        intervals = _of_precision(scores)
    else:
        intervals = {}
    listed = []
    for name, value in run.per_class.items():
        low, high, clips = intervals.get(name, (None, None, None))
        listed.append(OfClass(name, value, low, high, clips))
    return sorted(listed, key=lambda c: (c.value is None, -(c.value or 0), c.name))


def _of_accuracy(table: pd.DataFrame, found: PerClip) -> Mapping[str, tuple]:
    labels = dict(zip(zip(table.fold, table["clip"], strict=True), table.true, strict=True))
    truth = np.array(
        [labels[key] for key in zip(found.folds, found.clips, strict=True)], dtype=object
    )
    intervals = {}
    for name in sorted(set(truth)):
        here = truth == name
        groups = None if found.groups is None else found.groups[here]
        groups = np.arange(int(here.sum())) if groups is None else groups
        ends = statistics.over_clips([Stratum(groups, _mean_of(found.values[here]))])
        intervals[name] = (*_ends(ends), len(groups))
    return intervals


def _mean_of(values: NDArray) -> Callable[[NDArray], float]:
    return lambda weights: float(np.average(values, weights=weights))


def _ends(interval: NDArray | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (float(interval[0]), float(interval[1]))


def _of_precision(scores: Scores) -> Mapping[str, tuple]:
    intervals = {}
    metric = metrics.get("mAP")
    for c, name in enumerate(scores.names):
        truth = scores.truth[:, c : c + 1]
        if not truth.any():
            continue
        if metric.weighted is None:
            continue
        statistic = metric.weighted(truth, scores.scores[:, :, c : c + 1])
        groups = np.arange(len(truth)) if scores.groups is None else scores.groups
        ends = statistics.over_clips([Stratum(groups, statistic)], replicates=metric.replicates)
        intervals[name] = (*_ends(ends), int(truth.sum()))
    return intervals


def confusion(table: pd.DataFrame | None) -> pd.DataFrame | None:
    """Returns true, predicted, count (over all runs) and share of the true class's clips.

    None for tagging and retrieval, where a clip has no single truth.
    """
    if table is None or not {"true", "predicted"} <= set(table):
        return None
    sizes = table.groupby(["true", "predicted"], observed=True).size()
    counted = sizes.rename("count").reset_index()
    totals = table.groupby("true", observed=True).size()
    counted["share"] = counted["count"] / counted["true"].map(totals)
    return counted


def mistakes(
    table: pd.DataFrame,
    *,
    near: pd.DataFrame | None = None,
    captions: Mapping[str, Sequence[str]] | None = None,
) -> list[Shown]:
    """Returns the clips that are wrong in most runs, the most confident first.

    near: similarities of clips to classes, of zero-shot classification. captions: those of each
    class; a class of several, whose mean counts, is named by itself.
    """
    right = table.true == table.predicted
    grouped = table.assign(right=right).groupby("clip", sort=True)
    wrong = grouped.right.mean() < 0.5
    answers = table[~right].groupby(["clip", "predicted"], sort=True)
    said = answers.agg(score=("score", "mean"), times=("score", "size")).reset_index()
    said = said.sort_values(["times", "score"], ascending=False).drop_duplicates("clip")
    said = said[said["clip"].map(wrong).astype(bool)].sort_values(
        ["score", "clip"], ascending=[False, True]
    )
    truth = table.drop_duplicates("clip").set_index("clip").true
    nearest = _nearest(near, captions or {})
    return [
        Shown(c, truth[c], p, float(s), nearest(c))
        for c, p, s in zip(said["clip"], said.predicted, said.score, strict=True)
    ]


def _nearest(similarities: pd.DataFrame | None, captions: Mapping[str, Sequence[str]]):
    if similarities is None:
        return lambda clip: ()
    values = similarities.iloc[:, 1:].to_numpy(float)
    classes_ = [str(name) for name in similarities.columns[1:]]
    names = [captions[c][0] if len(captions.get(c, ())) == 1 else c for c in classes_]
    rows = {clip: row for row, clip in enumerate(similarities.iloc[:, 0])}

    def nearest(clip: str) -> tuple[tuple[str, float], ...]:
        if clip not in rows:
            return ()
        of_clip = values[rows[clip]]
        return tuple((names[i], float(of_clip[i])) for i in np.argsort(-of_clip)[:3])

    return nearest


def tagging_mistakes(scores: Scores) -> list[Shown]:
    """Returns clips by the score of a class that they do not have, the most confident first."""
    mean = scores.scores.mean(axis=0)  # (N, C)
    false = np.where(scores.truth == 1, -np.inf, mean)
    worst = false.argmax(axis=1)
    value = false[np.arange(len(worst)), worst]
    labels = [",".join(np.array(scores.names)[row == 1]) for row in scores.truth]
    order = [i for i in np.argsort(-value, kind="stable") if np.isfinite(value[i])]
    return [
        Shown(str(scores.clips[i]), labels[i], scores.names[worst[i]], float(value[i]))
        for i in order[:MISTAKES]
    ]


def worst_classes(listed: list[OfClass], wrong: list[Shown]) -> list[tuple[OfClass, list[Shown]]]:
    """Returns the classes of lowest value and their most confident mistakes."""
    known = [c for c in listed if c.value is not None]
    found = []
    for of_class in reversed(known):
        own = [shown for shown in wrong if shown.true == of_class.name]
        if own:
            found.append((of_class, own[:CLIPS_OF_A_CLASS]))
        if len(found) == WORST_CLASSES:
            break
    return found


def worst_queries(
    table: pd.DataFrame | None, near: pd.DataFrame | None = None
) -> dict[str, list[Query]]:
    """Returns the queries of each direction whose first right answer is ranked last.

    near: the run's table "nearest".
    """
    if table is None or not {"direction", "rank", "mAP@10"} <= set(table):
        return {}
    listed = {}
    answers = _answers(near)
    for direction, of_direction in table.groupby("direction", sort=False):
        last = of_direction.sort_values(["rank", "clip"], ascending=[False, True]).head(QUERIES)
        listed[str(direction)] = [
            Query(
                str(direction),
                row["clip"],
                row.get("caption", ""),
                float(row["rank"]),
                float(row["mAP@10"]),
                answers.get((str(direction), row["clip"], row.get("caption", "")), ()),
            )
            for _, row in last.iterrows()
        ]
    return listed


def _answers(near: pd.DataFrame | None) -> Mapping[tuple[str, str, str], tuple]:
    """What was nearest to a query, by direction, clip and caption."""
    wanted = {"direction", "clip", "caption", "place", "near_clip", "near_caption", "similarity"}
    if near is None or not wanted <= set(near):
        return {}
    return {
        (str(direction), str(clip), str(caption)): tuple(
            zip(own.near_clip, own.near_caption, own.similarity.astype(float), strict=True)
        )
        for (direction, clip, caption), own in near.sort_values("place").groupby(
            ["direction", "clip", "caption"], sort=False
        )
    }
