"""What a run predicted for each test clip, read from the tables beside its JSON."""

import gzip
import io
import re
import zlib
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evar import files
from evar.errors import UserError
from evar.results.record import RunRecord

_TEXT = ("clip", "fold", "true", "predicted", "group", "caption", "near_clip", "near_caption")
DIRECTION, RETRIEVED = "text_to_audio", ("mAP@10", "R@1", "R@5", "R@10")

_NEEDED = ("clip", "fold", "true", "predicted", "group", "caption", "direction", *RETRIEVED)


@dataclass(frozen=True, eq=False)
class PerClip:
    """One value per test clip, or query of retrieval, whose mean is the score.

    clips (N,): names, sorted within folds. folds (N,). values (N,): float, the mean over seeds.
    groups (N,): what belongs together; None where the run's tables do not have it.
    """

    clips: NDArray
    folds: NDArray
    values: NDArray
    groups: NDArray | None = None

    def same_clips(self, other: "PerClip") -> bool:
        """Returns whether both have values of exactly the same clips and folds."""
        return np.array_equal(self.clips, other.clips) and np.array_equal(self.folds, other.folds)


def read_table(
    results, run: RunRecord, name: str, columns: Container[str] | None = None
) -> pd.DataFrame | None:
    """Returns a table of a run, all text as it is; None where it is not there.

    columns: leave out all others, as they come. Raises UserError for a file that is damaged.
    """
    path = Path(results) / "runs" / f"{run.id}.{name}.csv.gz"
    if not path.is_file():
        return None
    # pandas takes half as long for bytes and plain objects as for a path and its own strings
    text = dict.fromkeys(_TEXT, str if columns is None else object)
    wanted = None if columns is None else columns.__contains__
    with files.reading(path):
        try:
            content = io.BytesIO(gzip.decompress(path.read_bytes()))
            return pd.read_csv(content, dtype=text, keep_default_na=False, usecols=wanted)
        except (ValueError, EOFError, zlib.error, pd.errors.ParserError) as error:
            raise UserError(f"{path}: damaged ({error}). Run the evaluation again.") from error


def predictions(
    results, run: RunRecord, columns: Container[str] | None = None
) -> pd.DataFrame | None:
    """Returns one row per test clip, fold and seed; None where the table is gone or foreign."""
    table = read_table(results, run, "predictions", columns)
    if table is None or not {"clip"} <= set(table):
        return None
    return table


def values_of(results, run: RunRecord, metric: str = "") -> PerClip | None:
    """Returns `per_clip` of a run's predictions, without reading what that does not need."""
    return per_clip(predictions(results, run, _NEEDED), run, metric)


def per_clip(table: pd.DataFrame | None, run: RunRecord, metric: str = "") -> PerClip | None:
    """Returns the clips' values under a metric, by default the run's own.

    None for metrics that are no mean over clips (mAP of tagging, median rank), and without table.
    """
    if table is None or not len(table):
        return None
    metric = metric or run.score.metric.rpartition(" ")[2]
    if metric in RETRIEVED and {"direction", metric, "caption"} <= set(table):
        return _of_queries(table[table.direction == DIRECTION], metric)
    if metric == "accuracy" and {"true", "predicted", "fold"} <= set(table):
        right = (table.true == table.predicted).to_numpy(float)
        return _means(table, right)
    return None


def _of_queries(table: pd.DataFrame, metric: str) -> PerClip:
    """Captions of one text are told apart by their clip; all captions of a clip are a group."""
    order = np.lexsort((table.caption.to_numpy(str), table["clip"].to_numpy(str)))
    table = table.iloc[order]
    names = (table["clip"] + ": " + table.caption).to_numpy(str)
    values = table[metric].to_numpy(float)
    return PerClip(names, np.full(len(names), "test"), values, table["clip"].to_numpy(str))


def _means(table: pd.DataFrame, values: NDArray) -> PerClip:
    """Means over seeds, one row per fold and clip, sorted by both."""
    of_fold, folds = pd.factorize(table.fold, sort=True)
    of_clip, clips = pd.factorize(table["clip"], sort=True)
    # numbers, which sort as the pairs (fold, clip) do: a MultiIndex of the pairs is slow to build
    pairs, codes = np.unique(of_fold * len(clips) + of_clip, return_inverse=True)
    counts = np.bincount(codes)
    means = np.bincount(codes, values) / counts
    groups = None
    if "group" in table:
        groups = np.empty(len(pairs), object)
        groups[codes] = groups_of(table)
        groups = groups.astype(str)
    fold, clip = np.divmod(pairs, len(clips))
    return PerClip(clips.to_numpy(str)[clip], folds.to_numpy(str)[fold], means, groups)


def groups_of(table: pd.DataFrame) -> NDArray:
    """Returns the group of each row (N,); a clip without one is a group of its own."""
    return np.where(table.group == "", "alone: " + table["clip"], table.group).astype(str)


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of all classes: of tagging, or similarities of zero-shot classification.

    names (C,). clips, folds (N,). groups (N,) or None. truth (N, C) of 0 and 1. scores (R, N, C).
    """

    names: tuple[str, ...]
    clips: NDArray
    folds: NDArray
    groups: NDArray | None
    truth: NDArray
    scores: NDArray


def class_scores(results, run: RunRecord, table: pd.DataFrame | None) -> Scores | None:
    """Returns the scores of every class, from the tables "scores-SEED" or "similarities"."""
    if table is None or "true" not in table:
        return None
    wanted = [f"scores-{seed}" for seed in run.seeds] or ["similarities"]
    read = (read_table(results, run, name) for name in wanted)
    found = [part for part in read if part is not None]
    if len(found) < len(wanted):
        return None
    first = found[0]
    skip = 2 if len(first.columns) > 1 and first.columns[1].startswith("fold") and run.seeds else 1
    names = tuple(_unmangled(name, first.columns) for name in first.columns[skip:])
    one = table[table.seed == table.seed.iloc[0]] if "seed" in table else table
    if len(one) != len(first) or not np.array_equal(one["clip"].to_numpy(), first.iloc[:, 0]):
        return None
    return Scores(
        names=names,
        clips=one["clip"].to_numpy(str),
        folds=one.fold.to_numpy(str),
        groups=groups_of(one) if "group" in one else None,
        truth=_truth(one.true, names),
        scores=np.stack([part.iloc[:, skip:].to_numpy(float) for part in found]),
    )


def _unmangled(name: str, columns) -> str:
    """pandas calls a second column "clip" "clip.1": a class may have that name."""
    base = re.sub(r"\.1$", "", name)
    return base if base != name and base in ("clip", "fold") and base in columns else name


def _truth(labels: pd.Series, names: tuple[str, ...]) -> NDArray:
    number = {name: i for i, name in enumerate(names)}
    truth = np.zeros((len(labels), len(names)), np.int8)
    for row, label in enumerate(labels):
        parts = [label] if label in number else label.split(",")
        truth[row, [number[part] for part in parts if part in number]] = 1
    return truth
