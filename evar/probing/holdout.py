"""Holds out training clips to select an epoch by, where a task has no validation split.

y: (N,) classes or (N, C) of 0 and 1. All return (kept, held out, how), positions in y.
"""

import numpy as np
from numpy.typing import NDArray

from evar.errors import UserError

SHARE = 0.1
REDRAWS = 100  # of a random tenth, until every class is in it
_DRAWS = 100  # of groups, of which the best is taken

Sides = tuple[NDArray, NDArray, str]


def random_tenth(y: NDArray, rng: np.random.Generator) -> Sides:
    """Holds out a random tenth, redrawn until every class is on both sides (linear probe).

    Small sets on which that never happens get a stratified tenth.
    """
    size = max(1, int(np.ceil(SHARE * len(y))))
    present = _classes(y)
    for _ in range(REDRAWS):
        order = rng.permutation(len(y))
        if _classes(y[order[:size]]) == present == _classes(y[order[size:]]):
            return order[size:], order[:size], "random tenth"
    return _stratified_tenth(y, rng)


def tenth(y: NDArray, groups: NDArray, rng: np.random.Generator) -> Sides:
    """Holds out a tenth of the groups, or without groups of each class (fine-tuning).

    groups: (N,) text, "" where a clip has none and is a group of its own. A group is never on both
    sides. Multi-label clips without groups are held out as by `random_tenth`.
    """
    if (groups != "").any():
        alone = [group or f"\0{row}" for row, group in enumerate(groups)]
        if len(set(alone)) > 1:
            return *_whole_groups(y, np.array(alone), rng), "tenth of the groups"
    return random_tenth(y, rng) if y.ndim == 2 else _stratified_tenth(y, rng)


def _stratified_tenth(y: NDArray, rng: np.random.Generator) -> Sides:
    """Holds out a tenth of every class (of the first label), never the last row of a class.

    Raises UserError where no class can spare a row.
    """
    order = rng.permutation(len(y))
    first = y if y.ndim == 1 else y.argmax(axis=1)
    left = np.bincount(y) if y.ndim == 1 else y.sum(axis=0, dtype=np.int64)
    held = []
    for c in np.unique(first):
        rows = order[first[order] == c]
        spare = max(1, round(SHARE * len(rows)))
        for row in rows:
            classes = y[row] if y.ndim == 1 else np.flatnonzero(y[row])
            if spare and np.all(left[classes] > 1):
                held.append(row)
                left[classes] -= 1
                spare -= 1
    if not held:
        raise UserError(
            "no class has a training clip to spare, so that none can be held out to select an "
            "epoch by: add training clips or a validation split (fine-tuning: --select=last)"
        )
    return np.setdiff1d(order, held), np.array(held), "stratified tenth"


def _whole_groups(y: NDArray, groups: NDArray, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Returns the best of many draws: most classes in training, then most classes held out."""
    from sklearn.model_selection import GroupShuffleSplit

    draws = GroupShuffleSplit(_DRAWS, test_size=SHARE, random_state=int(rng.integers(2**31)))
    best: tuple[NDArray, NDArray] | None = None
    found = (-1, -1)
    for kept, held in draws.split(y, groups=groups):
        counts = len(_classes(y[kept])), len(_classes(y[held]))
        if counts > found:
            best, found = (np.sort(kept), np.sort(held)), counts
    assert best is not None  # the first draw beats (-1, -1)
    return best


def _classes(y: NDArray) -> set[int]:
    return set(np.flatnonzero(y.any(axis=0)).tolist() if y.ndim == 2 else np.unique(y).tolist())
