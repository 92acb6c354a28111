"""Selects the clips of each epoch and their order."""

import numpy as np
from numpy.typing import NDArray

_CHUNK = 10_000


def balanced_weights(y: NDArray) -> NDArray:
    """Returns weights (N,) for drawing clips so that rare classes are seen more often.

    y: (N,) classes or (N, C) of 0 and 1. A class of n_c clips counts 1000 / (n_c + 0.01), a clip
    the sum over its classes to the power of 1 / 1.5. Clips without a class are never drawn.
    """
    counts = y.sum(axis=0, dtype=np.int64) if y.ndim == 2 else np.bincount(y)
    of_class = 1000.0 / (counts + 0.01)
    if y.ndim == 1:
        return of_class[y] ** (1 / 1.5)
    # In parts: two million clips of 527 classes are 8 GB as floats.
    parts = (y[at : at + _CHUNK] @ of_class for at in range(0, len(y), _CHUNK))
    return np.concatenate(list(parts)) ** (1 / 1.5)


def epoch_order(
    count: int, rng: np.random.Generator, *, weights: NDArray | None = None, draws: int | None
) -> NDArray:
    """Returns the positions of an epoch's clips in order: all, or `draws` without replacement.

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
    """Splits an epoch into batches, of which the last is smaller; a single last clip is left out.

    (The head normalises over the batch, which is undefined for one clip.)
    """
    parts = [order[at : at + size] for at in range(0, len(order), size)]
    return parts[:-1] if len(parts) > 1 and len(parts[-1]) == 1 else parts
