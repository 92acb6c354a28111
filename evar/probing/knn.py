"""k nearest neighbours by cosine similarity: a probe that trains nothing.

Votes follow X-ARES (github.com/xiaomi-research/xares), "kNN": neighbour i of a clip counts
exp(similarity_i / 0.07), normalised over the k neighbours. The letters: N gallery rows, Q queries,
D embedding, K neighbours, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evar.probing.prepared import Sides

KS = (1, 5, 10, 20, 50)  # among which the validation split chooses
WITHOUT_VALIDATION = 10  # X-ARES' k
TEMPERATURE = 0.07  # of the votes
_QUERIES, _GALLERY = 4096, 16384  # rows of a block: 256 MiB of similarities at a time


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest rows of a gallery, nearest first: similarities and row numbers, both (Q, K)."""

    similarity: NDArray
    index: NDArray


@dataclass(frozen=True, eq=False)
class Fitted:
    """Scores (n_test, C) of the test rows, the k behind them, and the validation score of each k.

    `tried` is empty where there was no validation split.
    """

    scores: NDArray
    k: int
    tried: dict[int, float]


def fit(
    x: NDArray,
    y: NDArray,
    sides: Sides,
    *,
    score: Callable[[NDArray, NDArray], float],
    k: int | None = None,
    device: str = "cpu",
) -> Fitted:
    """Chooses k on the validation rows, then scores the test rows by their training neighbours.

    x: float32 (V, D). y: int (V,) classes, or 0/1 (V, C). `score(truth, scores)` says how good (n,
    C) scores are; of equally good k the smallest wins. Without validation rows k is 10. `k` leaves
    nothing to choose. A k beyond the number of training rows means all of them.
    """
    train, valid, test = sides.train, sides.valid, sides.test
    classes = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
    tried: dict[int, float] = {}
    given, k = k, min(k or WITHOUT_VALIDATION, len(train))
    if valid is not None and given is None:
        possible = sorted({min(each, len(train)) for each in KS})
        found = neighbours(x, train, valid, possible[-1], device=device)
        for candidate in possible:
            voted = votes(found, y[train], candidate, classes)
            tried[candidate] = score(y[valid], voted)
        k = max(tried, key=lambda candidate: (tried[candidate], -candidate))
    found = neighbours(x, train, test, k, device=device)
    return Fitted(votes(found, y[train], k, classes), k, tried)


def neighbours(
    x: NDArray, gallery: NDArray, queries: NDArray, k: int, *, device: str = "cpu"
) -> Neighbours:
    """Finds the k rows of `gallery` with the largest cosine similarity to each row of `queries`.

    x: float32 (V, D); `gallery` (N,) and `queries` (Q,) are rows of it, `index` counts in
    `gallery`. Works in blocks: memory grows with Q k, not with Q N. A row of zeros has the
    similarity 0 to all others. Raises ValueError where k is not in 1 ... N.
    """
    if not 1 <= k <= len(gallery):
        raise ValueError(f"k must lie in 1 ... {len(gallery)}, the rows of the gallery, not {k}")
    similarity = np.empty((len(queries), k), np.float32)
    index = np.empty((len(queries), k), np.int64)
    for at in range(0, len(queries), _QUERIES):
        part = slice(at, at + _QUERIES)
        query = _directions(x, queries[part], device)
        best = torch.empty(len(query), 0, device=device)
        where = torch.empty(len(query), 0, dtype=torch.int64, device=device)
        for begin in range(0, len(gallery), _GALLERY):
            block = _directions(x, gallery[begin : begin + _GALLERY], device)
            values, rows = torch.topk(query @ block.T, min(k, len(block)), dim=1)
            best, where = _merged(best, where, values, rows + begin, k)
        similarity[part], index[part] = best.cpu().numpy(), where.cpu().numpy()
    return Neighbours(similarity, index)


def votes(found: Neighbours, labels: NDArray, k: int, classes: int) -> NDArray:
    """Returns scores (Q, C) float32 in [0, 1] from the first k neighbours of each query.

    labels: of the gallery, int (N,) or 0/1 (N, C). One label: weighted votes, of sum 1. Several:
    the mean of the neighbours' labels.
    """
    index = found.index[:, :k]
    if labels.ndim == 2:
        total = np.zeros((len(index), classes), np.float32)
        for column in range(k):  # not (Q, K, C) at once: 50 neighbours of 527 classes are much
            total += labels[index[:, column]]
        return total / k
    nearest = found.similarity[:, :1]  # subtracted: exp(1 / 0.07) is 1.6e6
    weights = np.exp((found.similarity[:, :k] - nearest).astype(np.float64) / TEMPERATURE)
    weights /= weights.sum(axis=1, keepdims=True)
    cells = np.arange(len(index))[:, None] * classes + labels[index]
    scores = np.bincount(cells.ravel(), weights.ravel(), minlength=len(index) * classes)
    return scores.reshape(len(index), classes).astype(np.float32)


def _directions(x: NDArray, rows: NDArray, device: str) -> Tensor:
    """Rows of x, each of length one (a row of zeros stays as it is)."""
    return torch.nn.functional.normalize(torch.from_numpy(x[rows]).to(device), dim=1)


def _merged(
    best: Tensor, where: Tensor, values: Tensor, rows: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The k largest of two lists (Q, K'), equal ones in the order of the gallery."""
    values, rows = torch.cat([best, values], dim=1), torch.cat([where, rows], dim=1)
    by_row = rows.argsort(dim=1)
    values, rows = values.gather(1, by_row), rows.gather(1, by_row)
    order = values.argsort(dim=1, descending=True, stable=True)[:, :k]
    return values.gather(1, order), rows.gather(1, order)
