"""Splits clips into training, validation and test, or into folds: stratified, groups kept apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from evar.data.clip_table import NO_LABEL
from evar.errors import UserError

FEW = 200  # clips below which a test side of a fifth says too little: folds test every clip
FOLDS = 5
_TRIES = 20  # shuffles of groups, of which the most even one is taken


@dataclass(frozen=True)
class Split:
    """A side for each clip. column: "split" or "fold". reason: why that one, as a clause."""

    column: str
    sides: list[str]
    reason: str


def make_split(
    labels: Sequence[str], groups: Sequence[str], *, seed: int = 0, folds: int | None = None
) -> Split:
    """Returns a split in which every class is on every side, and no group on two.

    labels: of each clip, several joined by ",". groups: of each clip; one of its own where there
    are none. folds: how many; None: train, valid and test (3:1:1), or folds where clips or groups
    are too few for that. The same clips and seed give the same split.
    Raises UserError for a class with a single group: it cannot be trained and tested.
    """
    parts = [[p for p in label.split(",") if p != NO_LABEL] for label in labels]
    of_class: dict[str, set[str]] = {}
    for names, group in zip(parts, groups, strict=True):
        for name in names:
            of_class.setdefault(name, set()).add(group)
    grouped = len(set(groups)) < len(groups)
    _require_two(of_class, grouped)
    rarest = min(of_class, key=lambda name: (len(of_class[name]), name))
    fewest = len(of_class[rarest])
    if folds is not None and folds > fewest:
        unit = "group" if grouped else "clip"
        raise UserError(
            f"--folds={folds}: {rarest!r} has {fewest} {unit}s, one a fold at most: "
            f"--folds={fewest} or fewer"
        )
    reason = _why_folds(len(labels), rarest, fewest, grouped) if folds is None else "as you asked"
    count = folds or min(FOLDS, fewest)
    sides = _best(_strata(parts, of_class), parts, groups, count, seed, grouped)
    if not reason and sides.max() < 2:
        reason = "groups are too uneven for three sides"
    if reason:
        return Split("fold", [str(side + 1) for side in sides], reason)
    called = {0: "test", 1: "valid"}
    return Split("split", [called.get(side, "train") for side in sides], f"{len(labels):,} clips")


def _require_two(of_class: dict[str, set[str]], grouped: bool) -> None:
    single = sorted(name for name, groups in of_class.items() if len(groups) < 2)
    if single:
        unit = "group (recording, speaker, ...)" if grouped else "clip"
        raise UserError(
            f"a single {unit} of {', '.join(map(repr, single[:5]))}{' ...' * (len(single) > 5)}: "
            "such a class cannot be trained and tested. Record more, or leave it out: "
            f"--without={','.join(single[:5])}"
        )
    if len(of_class) < 2:
        raise UserError(f"a single class, {', '.join(of_class)}: there is nothing to tell apart")


def _why_folds(clips: int, rarest: str, fewest: int, grouped: bool) -> str:
    if clips < FEW:
        return f"{clips} clips, fewer than {FEW}: folds test every clip once"
    if fewest < FOLDS:
        unit = "groups" if grouped else "clips"
        return f"{rarest!r} has {fewest} {unit}, too few for three sides: folds test each once"
    return ""


def _strata(parts: list[list[str]], of_class: dict[str, set[str]]) -> list[str]:
    """What is spread evenly: the class of a clip, of several the rarest."""
    return [min(names, key=lambda n: (len(of_class[n]), n)) if names else "" for names in parts]


def _best(
    strata: list[str],
    parts: list[list[str]],
    groups: Sequence[str],
    count: int,
    seed: int,
    grouped: bool,
) -> np.ndarray:
    """The most even of some shuffles that have every class on every side; (N,) of 0 ... count-1."""
    y, columns = np.array(strata), sorted({name for names in parts for name in names})
    has = np.array([[name in names for name in columns] for names in parts])  # (N, C)
    found = []
    for attempt in range(_TRIES if grouped else 1):
        kind = StratifiedGroupKFold if grouped else StratifiedKFold
        splitter = kind(count, shuffle=True, random_state=(seed * _TRIES + attempt) % 2**32)
        sides = np.zeros(len(y), int)
        for side, (_, test) in enumerate(splitter.split(y, y, groups if grouped else None)):
            sides[test] = side
        counts = np.array([has[sides == side].sum(0) for side in range(count)])  # (sides, C)
        missing = int((counts == 0).sum())
        uneven = float((np.abs(counts - has.sum(0) / count) / has.sum(0)).sum())
        found.append((missing, uneven, attempt, sides))
    missing, _, _, sides = min(found, key=lambda each: each[:3])
    if missing and count > 2:  # a fold without a class: fewer folds have it
        return _best(strata, parts, groups, count - 1, seed, grouped)
    if missing:
        raise UserError("no split has every class on both sides and no group on two: add groups")
    return sides
