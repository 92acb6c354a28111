"""Retrieval metrics: pure functions on a similarity matrix, averaged over ties.

Q queries, G items of a gallery. An item is relevant to a query if both have the same id: a clip
and its captions. Items of equal similarity have no order: every metric is its expected value over
all orders of the tied items, so that a constant model scores at chance level.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evar.scoring.evaluation import Unit

RECALL_AT = (1, 5, 10)
TOP = 10  # of mAP@10
RANKS = frozenset({"medR"})  # metrics that are ranks, not fractions: the lower, the better
_BLOCK = 2**24  # similarities in memory at a time


def validate(similarity: NDArray, query_ids: NDArray, gallery_ids: NDArray) -> None:
    """Raises ValueError unless similarity is finite (Q, G) and every query has a relevant item."""
    if similarity.shape != (len(query_ids), len(gallery_ids)):
        raise ValueError(
            f"similarity is {similarity.shape}, not ({len(query_ids)}, {len(gallery_ids)})"
        )
    if similarity.size == 0 or not np.isfinite(similarity).all():
        raise ValueError("similarities must be finite, of one query and one item or more")
    alone = ~np.isin(query_ids, gallery_ids)
    if alone.any():
        raise ValueError(f"query {int(alone.argmax())} has no relevant item")


def per_query(
    similarity: NDArray, query_ids: ArrayLike, gallery_ids: ArrayLike
) -> dict[str, NDArray]:
    """Computes the metrics of each query (Q,), from similarities (Q, G), higher is nearer.

    "R@1", "R@5", "R@10": whether the best-ranked relevant item is among the first k. "rank": its
    rank, from 1. "mAP@10": average precision of the first ten, over min(relevant items, 10).
    A block of queries against the whole gallery gives the same as all queries at once.
    """
    query_ids, gallery_ids = np.asarray(query_ids), np.asarray(gallery_ids)
    similarity = np.asarray(similarity)
    validate(similarity, query_ids, gallery_ids)
    relevant = query_ids[:, None] == gallery_ids  # (Q, G)
    best = np.where(relevant, similarity, -np.inf).max(axis=1, keepdims=True)  # (Q, 1)
    above = (similarity > best).sum(axis=1)
    tied = similarity == best
    size, hits = tied.sum(axis=1), (tied & relevant).sum(axis=1)
    found = {f"R@{k}": _first_hit_within(k - above, size, hits) for k in RECALL_AT}
    found["rank"] = above + (size + 1) / (hits + 1)
    found[f"mAP@{TOP}"] = np.array(
        [_precision_of_top(s, r) for s, r in zip(similarity, relevant, strict=True)]
    )
    return found


def _first_hit_within(places: NDArray, size: NDArray, hits: NDArray) -> NDArray:
    """Computes the probability that one of `hits` items among `size` is in the first m.

    1 - C(size - hits, m) / C(size, m), as a product over the hits; m is `places` within the tie.
    """
    m = np.clip(places, 0, size)
    none = np.ones(len(size))
    for j in range(int(hits.max())):
        here = hits > j
        none[here] *= np.clip((size - m - j)[here] / (size - j)[here], 0, 1)
    return 1 - none


def _precision_of_top(similarity: NDArray, relevant: NDArray) -> float:
    """Computes average precision of the first ten places of one query; both arrays are (G,).

    Within a tie of g items, r of them relevant, c relevant ones above: place i of the tie holds a
    relevant item with probability r / g, and then on average c + 1 + (i - 1)(r - 1) / (g - 1)
    relevant items stand up to there (McSherry and Najork 2008).
    """
    top = min(TOP, len(similarity))
    edge = np.partition(similarity, -top)[-top]
    near = similarity >= edge
    values, relevant_near = similarity[near], relevant[near]
    total, place, above = 0.0, 0, 0
    for value in np.unique(values)[::-1]:
        tie = values == value
        size, hits = int(tie.sum()), int(relevant_near[tie].sum())
        if hits:
            i = np.arange(1, min(size, top - place) + 1)
            upto = above + 1 + (i - 1) * (hits - 1) / max(size - 1, 1)
            total += hits / size * float((upto / (place + i)).sum())
        place, above = place + size, above + hits
        if place >= top:
            break
    return total / min(int(relevant.sum()), TOP)


def summary(found: Mapping[str, NDArray], weights: ArrayLike | None = None) -> dict[str, float]:
    """Computes means over queries, and "medR", the median rank; weights (Q,) repeat queries."""
    count = len(found["rank"])
    weights = np.ones(count, int) if weights is None else np.asarray(weights)
    means = {k: float(np.average(v, weights=weights)) for k, v in found.items() if k != "rank"}
    return means | {"medR": float(np.median(np.repeat(found["rank"], weights)))}


def unit(metric: str) -> Unit:
    """Returns whether a metric of this module is a fraction or a plain number."""
    return "plain" if metric in RANKS else "fraction"


def higher_is_better(metric: str) -> bool:
    """Returns the direction of a metric of this module."""
    return metric not in RANKS


def normalised(x: NDArray) -> NDArray:
    """Returns the rows of (N, E) scaled to length one."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def rank_in_blocks(
    queries: NDArray, gallery: NDArray, query_ids: NDArray, gallery_ids: NDArray
) -> dict[str, NDArray]:
    """Computes `per_query` of unit vectors (Q, E) and (G, E), a block of queries at a time.

    Equal vectors of the gallery tie exactly: a matrix product may round them differently.
    """
    size = max(1, _BLOCK // len(gallery))
    first, where = _distinct(gallery)
    columns = gallery[first].T
    parts = [
        per_query(
            (queries[at : at + size] @ columns)[:, where], query_ids[at : at + size], gallery_ids
        )
        for at in range(0, len(queries), size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def nearest(queries: NDArray, gallery: NDArray, count: int) -> tuple[NDArray, NDArray]:
    """Returns the items nearest to unit vectors (Q, E), and their cosine similarities, (Q, count).

    Nearest first; of items as near as each other the first. `count` at most (G, E) has.
    """
    similarity = queries @ gallery.T  # (Q, G)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(similarity, order, axis=1)


def _distinct(rows: NDArray) -> tuple[NDArray, NDArray]:
    """Positions of the distinct rows of (N, E), and for each row (N,) which of them it equals."""
    numbers: dict[bytes, int] = {}
    first: list[int] = []
    where = np.empty(len(rows), np.int64)
    for i, row in enumerate(np.ascontiguousarray(rows)):
        mark = hashlib.blake2b(row.data, digest_size=16).digest()
        where[i] = numbers.setdefault(mark, len(numbers))
        if where[i] == len(first):
            first.append(i)
    return np.array(first), where
