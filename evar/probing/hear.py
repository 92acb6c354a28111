"""HEAR 2021's probe of scene tasks: a multilayer perceptron, a grid on the first split, k folds.

After hear-eval-kit (github.com/hearbenchmark/hear-eval-kit, Turian et al. 2022), whose published
scores it is made to stand beside. Oddities of the kit that change scores, and are kept:

- embeddings enter as they are: no scaler, no norm;
- training rows have one fixed order: they are shuffled once and never between epochs;
- the grid is searched on the first split only, and its best point serves all the others;
- eight of the grid's sixteen points are tried.

Unknown, and chosen here: the order of the sixteen points before the shuffle that picks the eight
(scikit-learn's ParameterGrid), and the fixed order of rows (NumPy's generator 0). A last batch of a
single row is left out, as batch normalisation cannot train on it. Letters: N rows, D embedding, C
classes.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from evar.probing import holdout
from evar.probing.prepared import Sides

HIDDEN_LAYERS = (1, 2)
RATES = (3.2e-3, 1e-3, 3.2e-4, 1e-4)
INITIALISATIONS = ("xavier_uniform", "xavier_normal")
GRID_SEED, ORDER_SEED = 42, 0
_CHUNK = 4096  # rows per product outside of training


@dataclass(frozen=True)
class Point:
    """One point of the grid: hidden layers, Adam's learning rate, initial weights."""

    hidden_layers: int
    lr: float
    initialisation: str


@dataclass(frozen=True)
class HearSettings:
    """What the grid has one value of.

    epochs: at most so many. check_every: epochs from a validation check to the next. patience:
    checks without a better score after which training stops. batch_size: rows per step.
    """

    width: int = 1024
    dropout: float = 0.1
    batch_size: int = 1024
    epochs: int = 500
    check_every: int = 3
    patience: int = 20


USUAL = HearSettings()


@dataclass(frozen=True, eq=False)
class Fitted:
    """A trained probe: scores (n_test, C) of its test rows, and how its training went.

    goodness: the score of the validation rows, the larger the better; -inf where training
    diverged: `scores` then mean nothing.
    """

    scores: NDArray
    point: Point
    goodness: float
    best_epoch: int
    epochs: int
    held_out: str


def points(count: int = 8) -> list[Point]:
    """Returns the first `count` of the grid's 16 points, in the kit's shuffled order."""
    # Sorted by name, the last fastest: what scikit-learn's ParameterGrid makes of the grid.
    grid = [
        Point(hidden, lr, init)
        for hidden in HIDDEN_LAYERS
        for init in INITIALISATIONS
        for lr in RATES
    ]
    random.Random(GRID_SEED).shuffle(grid)
    return grid[:count]


def k_fold_sides(folds: Sequence[NDArray], tests: Sequence[NDArray]) -> list[Sides]:
    """Returns the splits of k folds: test on fold i, validate on (i + 1) mod k, train on the rest.

    folds, tests: rows of each fold for training and for testing, the same where clips are not
    cropped. Raises ValueError for fewer than three folds.
    """
    k = len(folds)
    if k < 3:
        raise ValueError(f"HEAR's cross-validation takes 3 folds or more, not {k}")
    return [
        Sides(
            np.concatenate([folds[j] for j in range(k) if j not in (i, (i + 1) % k)]),
            folds[(i + 1) % k],
            tests[i],
        )
        for i in range(k)
    ]


def network(dim: int, classes: int, point: Point, settings: HearSettings = USUAL) -> nn.Sequential:
    """Returns D -> C: blocks of Linear, BatchNorm1d, Dropout, ReLU, then Linear.

    Draws from torch's global generator. Xavier weights with the gain of what comes before: 1 at
    first, that of ReLU after.
    """
    modules: list[nn.Module] = []
    gain = nn.init.calculate_gain("linear")
    for _ in range(point.hidden_layers):
        modules += [_xavier(dim, settings.width, point, gain), nn.BatchNorm1d(settings.width)]
        modules += [nn.Dropout(settings.dropout), nn.ReLU()]
        dim, gain = settings.width, nn.init.calculate_gain("relu")
    return nn.Sequential(*modules, _xavier(dim, classes, point, gain))


def _xavier(fan_in: int, fan_out: int, point: Point, gain: float) -> nn.Linear:
    layer = nn.Linear(fan_in, fan_out)
    draw = {"xavier_uniform": nn.init.xavier_uniform_, "xavier_normal": nn.init.xavier_normal_}
    draw[point.initialisation](layer.weight, gain=gain)
    return layer


def fit(
    x: NDArray,
    y: NDArray,
    sides: Sides,
    point: Point,
    settings: HearSettings = USUAL,
    *,
    score: Callable[[NDArray, NDArray], float],
    seed: int,
    device: str = "cpu",
) -> Fitted:
    """Trains one point of the grid on one split.

    x: float32 (N, D). y: int (N,) classes, or 0/1 (N, C). `score(truth, scores)` of the validation
    rows, the larger the better, decides on the check whose weights are tested: the first of equal
    ones. Training ends where their scores are not finite. Raises ValueError for fewer epochs than
    it takes until the first check.
    """
    if settings.epochs < settings.check_every:
        raise ValueError(f"the first validation check is in epoch {settings.check_every}")
    classes = y.shape[1] if y.ndim == 2 else int(y.max()) + 1
    train, valid, held_out = sides.train, sides.valid, "valid split"
    if valid is None:
        kept, held, held_out = holdout.random_tenth(y[train], np.random.default_rng(seed))
        train, valid = train[kept], train[held]
    train = np.random.RandomState(ORDER_SEED).permutation(train)  # once; never between epochs
    inputs = torch.from_numpy(x[train]).to(device)
    targets = torch.from_numpy(y[train].astype(np.float32) if y.ndim == 2 else y[train]).to(device)
    best, best_epoch, wait, epoch = -np.inf, 0, 0, 0
    state: dict[str, torch.Tensor] = {}
    with torch.random.fork_rng(devices=_cuda(device)):
        torch.manual_seed(seed)
        net = network(x.shape[1], classes, point, settings).to(device)
        optimiser = torch.optim.Adam(net.parameters(), lr=point.lr)
        for epoch in range(1, settings.epochs + 1):
            _epoch(net, optimiser, inputs, targets, settings.batch_size)
            if epoch % settings.check_every:
                continue
            scores = predict(net, x, valid, one_label=y.ndim == 1, device=device)
            if not np.isfinite(scores).all():
                best, state = -np.inf, {}
                break
            value = score(y[valid], scores)
            if value > best:  # an equal check is none
                best, best_epoch, wait = value, epoch, 0
                state = {k: v.clone() for k, v in net.state_dict().items()}
            else:
                wait += 1
            if wait >= settings.patience:
                break
    if state:
        net.load_state_dict(state)
    scores = predict(net, x, sides.test, one_label=y.ndim == 1, device=device)
    return Fitted(scores, point, best, best_epoch, epoch, held_out)


def search(
    x: NDArray,
    y: NDArray,
    splits: Sequence[Sides],
    grid: Sequence[Point],
    settings: HearSettings = USUAL,
    *,
    score: Callable[[NDArray, NDArray], float],
    seed: int,
    device: str = "cpu",
    on_fit: Callable[[], object] = lambda: None,
) -> tuple[list[Fitted], list[Fitted]]:
    """Returns the probes of all splits, and those of the grid on the first split.

    The best point by its validation score on the first split (the first of equal ones) is trained
    on the others too; on the first split the probe that is there already is tested. Raises
    ValueError where training diverges at every point, or at the best one on another split.
    """

    def train(sides: Sides, point: Point) -> Fitted:
        found = fit(x, y, sides, point, settings, score=score, seed=seed, device=device)
        on_fit()
        return found

    tried = [train(splits[0], point) for point in grid]
    chosen = max(tried, key=lambda found: found.goodness)
    fitted = [chosen, *(train(sides, chosen.point) for sides in splits[1:])]
    if any(found.goodness == -np.inf for found in fitted):
        raise ValueError(f"the probe diverged ({chosen.point}): its scores are not numbers")
    return fitted, tried


def predict(net: nn.Module, x: NDArray, rows: NDArray, *, one_label: bool, device: str) -> NDArray:
    """Returns probabilities (n, C) of some rows: softmax of one label, sigmoid of several."""
    net.eval()
    parts = []
    with torch.no_grad():
        for at in range(0, len(rows), _CHUNK):
            logits = net(torch.from_numpy(x[rows[at : at + _CHUNK]]).to(device))
            scores = logits.softmax(dim=1) if one_label else logits.sigmoid()
            parts.append(scores.cpu().numpy())
    return np.concatenate(parts)


def _epoch(net, optimiser, inputs: Tensor, targets: Tensor, batch_size: int) -> None:
    net.train()
    loss_of = cross_entropy if targets.ndim == 1 else binary_cross_entropy_with_logits
    with torch.enable_grad():
        for at in range(0, len(inputs), batch_size):
            x = inputs[at : at + batch_size]
            if len(x) == 1:
                continue
            optimiser.zero_grad()
            loss_of(net(x), targets[at : at + batch_size]).backward()
            optimiser.step()


def _cuda(device: str) -> list[int]:
    found = torch.device(device)
    return [found.index or 0] if found.type == "cuda" else []
