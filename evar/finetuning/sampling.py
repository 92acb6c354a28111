"""Which clips a run trains on, in which order, and which ones it holds out to choose an epoch."""

import numpy as np
from numpy.typing import NDArray

from evar import probe

HELD_OUT = 0.1  # share of the training clips
_DRAWS = 100  # of groups to hold out
_CHUNK = 10_000


def hold_out(y: NDArray, groups: NDArray, rng: np.random.Generator) -> tuple[NDArray, NDArray, str]:
    """Split training clips into kept and held-out ones: (kept, held out, how), positions in y.

    y: (N,) classes or (N, C) of 0 and 1. groups: (N,) text, "" where a clip has none. A group is
    never on both sides, and a clip without one is alone. Without groups, a tenth of each class; of
    several labels a clip, the tenth that the linear probe holds out.
    """
    if (groups != "").any():
        alone = [group or f"\0{row}" for row, group in enumerate(groups)]
        if len(set(alone)) > 1:
            return *_whole_groups(y, np.array(alone), rng), "tenth of the groups"
    if y.ndim == 2:
        return probe.hold_out(y, rng)
    held = []
    for c in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == c))
        held.extend(rows[: max(1, round(HELD_OUT * len(rows))) if len(rows) > 1 else 0])
    held = np.sort(np.array(held if held else [rng.integers(len(y))], np.int64))
    return np.setdiff1d(np.arange(len(y)), held), held, "stratified tenth"


def _whole_groups(y: NDArray, groups: NDArray, rng: np.random.Generator):
    """The best of many draws: no class gone from training, then most classes held out."""
    from sklearn.model_selection import GroupShuffleSplit

    draws = GroupShuffleSplit(_DRAWS, test_size=HELD_OUT, random_state=int(rng.integers(2**31)))
    best, found = None, (-1, -1)
    for kept, held in draws.split(y, groups=groups):
        counts = _classes(y[kept]), _classes(y[held])
        if counts > found:
            best, found = (np.sort(kept), np.sort(held)), counts
    return best


def _classes(y: NDArray) -> int:
    return int(y.any(axis=0).sum()) if y.ndim == 2 else len(np.unique(y))


def balanced_weights(y: NDArray) -> NDArray:
    """Weights (N,) with which clips are drawn so that rare classes are seen more often.

    y: (N,) classes or (N, C) of 0 and 1. A class of n_c clips counts 1000 / (n_c + 0.01), a clip
    the sum over its classes to the power of 1 / 1.5. Clips without a class are never drawn.
    """
    counts = y.sum(axis=0, dtype=np.int64) if y.ndim == 2 else np.bincount(y)
    of_class = 1000.0 / (counts + 0.01)
    if y.ndim == 1:
        return of_class[y] ** (1 / 1.5)
    # Part by part: two million clips of 527 classes are 8 GB as floats.
    parts = (y[at : at + _CHUNK] @ of_class for at in range(0, len(y), _CHUNK))
    return np.concatenate(list(parts)) ** (1 / 1.5)


def epoch_order(
    count: int, rng: np.random.Generator, *, weights: NDArray | None = None, draws: int | None
) -> NDArray:
    """Positions of the clips of one epoch, in order: all, or `draws` without replacement.

    Drawing one after the other in proportion to `weights` (N,) is the same as ranking exponential
    waiting times (Efraimidis and Spirakis, 2006).
    """
    draws = min(draws or count, count)
    if weights is None:
        return rng.permutation(count)[:draws]
    possible = np.flatnonzero(weights > 0)
    waiting = rng.standard_exponential(len(possible)) / weights[possible]
    return possible[np.argsort(waiting, kind="stable")[:draws]]


def batches(order: NDArray, size: int) -> list[NDArray]:
    """An epoch's batches; the last one is smaller. One clip alone sits this epoch out.

    (The head normalises over the batch, and there is nothing to normalise one clip over.)
    """
    parts = [order[at : at + size] for at in range(0, len(order), size)]
    return parts[:-1] if len(parts) > 1 and len(parts[-1]) == 1 else parts
