"""Few-shot classification: a logistic regression on N clips of each class, drawn several times.

The classifier and the preset are those of MTEB (github.com/embeddings-benchmark/mteb,
abstasks/classification): scikit-learn's LogisticRegression with 100 iterations, C = 1, embeddings
as they are. The letters: N training rows, C classes.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evar.probing.prepared import Sides

SHOTS = (1, 4, 8, 16)
DRAWS = 10
MTEB_SHOTS, MTEB_SEED = 8, 42
ITERATIONS = 100


@dataclass(frozen=True, eq=False)
class Fitted:
    """Scores (n_test, C) of the test rows, the rows trained on, and whether lbfgs converged."""

    scores: NDArray
    rows: NDArray
    converged: bool


def fit(
    x: NDArray, y: NDArray, train: NDArray, test: NDArray, order: NDArray, *, shots: int
) -> Fitted:
    """Trains on the first `shots` rows of each class in `order`, and scores the test rows.

    x: float32 (V, D). y: int (V,) classes, or 0/1 (V, C). train, test: rows of them; `order` is a
    permutation of the numbers below len(train).
    """
    classes = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
    rows = train[first_of_each(y[train], order, shots)]
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        scores = regression(x[rows], y[rows], x[test], classes)
    converged = not any(w.category.__name__ == "ConvergenceWarning" for w in raised)
    return Fitted(scores, rows, converged)


def orders(count: int, seeds: Sequence[int], *, mteb: bool = False) -> Iterator[NDArray]:
    """Yields one permutation of `count` rows for each draw.

    A draw has its seed. `mteb`: only their number matters; the generator starts from 42 at every
    draw, but shuffles what the draw before has left, so that the draws differ.
    """
    left = np.arange(count)
    for seed in seeds:
        if mteb:
            np.random.RandomState(MTEB_SEED).shuffle(left)
            yield left.copy()
        else:
            yield np.random.RandomState(seed).permutation(count)


def first_of_each(y: NDArray, order: NDArray, shots: int) -> NDArray:
    """Returns positions in y of the first `shots` rows of each class, in `order`.

    y: int (N,) classes, or 0/1 (N, C); a row of several labels counts for each of them, and is
    listed once. A class with fewer rows gives all it has.
    """
    taken = np.zeros(len(y), bool)
    for c in np.unique(y) if y.ndim == 1 else range(y.shape[1]):
        of_class = y[order] == c if y.ndim == 1 else y[order, c] == 1
        taken[order[of_class][:shots]] = True
    return order[taken[order]]


def regression(x: NDArray, y: NDArray, test: NDArray, classes: int) -> NDArray:
    """Returns probabilities (n_test, C): of one label, or of each of several labels by itself.

    x: (n, D), y: int (n,) or 0/1 (n, C), test: (n_test, D). A class without an example has the
    probability 0; a label that all examples have, 1.
    """
    from sklearn.linear_model import LogisticRegression

    scores = np.zeros((len(test), classes), np.float32)
    if y.ndim == 1 and len(np.unique(y)) == 1:
        scores[:, y[0]] = 1
    elif y.ndim == 1:
        model = LogisticRegression(max_iter=ITERATIONS, random_state=MTEB_SEED).fit(x, y)
        scores[:, model.classes_] = model.predict_proba(test)
    else:
        for c in range(classes):
            scores[:, c] = regression(x, y[:, c].astype(np.int64), test, 2)[:, 1]
    return scores


def curve(
    x: NDArray,
    y: NDArray,
    sides: Sequence[Sides],
    *,
    shots: Sequence[int],
    seeds: Sequence[int],
    mteb: bool = False,
    on_fit: Callable[[], object] = lambda: None,
) -> dict[int, list[list[Fitted]]]:
    """Fits every number of shots: curve[shots][draw][fold].

    sides: of each fold; validation rows are not used. With one seed, more shots contain the fewer.
    `on_fit()` is called after each of them.
    """
    of_folds = [list(orders(len(fold.train), seeds, mteb=mteb)) for fold in sides]
    found: dict[int, list[list[Fitted]]] = {}
    for n in shots:
        found[n] = []
        for draw in range(len(seeds)):
            fitted = []
            for fold, drawn in zip(sides, of_folds, strict=True):
                fitted.append(fit(x, y, fold.train, fold.test, drawn[draw], shots=n))
                on_fit()
            found[n].append(fitted)
    return found
