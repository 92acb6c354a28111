"""X-ARES' probe of one vector per clip: a layer norm and a linear layer, ten epochs.

After X-ARES (github.com/xiaomi-research/xares, Zhang et al. 2025, arXiv 2505.16369), "MLP", whose
published scores it is made to stand beside. With folds, the fold that is tested also selects the
epoch there, so that scores are optimistic; that is kept, and results call it an oracle.

Unknown, and chosen here: of equally good epochs the first counts. Different: rows are shuffled
completely in every epoch, where X-ARES shuffles in a buffer of 2,000. Letters: N rows, D embedding,
C classes, B batch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evar.probing import autograd, hear, holdout
from evar.probing.prepared import Sides

LR, LAST = 1e-3, 0.1  # Adam's rate, and the share of it that the schedule falls to
ON_TEST = "test fold"  # what selects the epoch where there are folds


@dataclass(frozen=True)
class XaresSettings:
    """epochs: all of them are trained, the best on validation counts. batch_size: rows per step."""

    epochs: int = 10
    batch_size: int = 32


USUAL = XaresSettings()


@dataclass(frozen=True, eq=False)
class Fitted:
    """Scores (n_test, C) of the test rows, the epoch behind them and its validation score.

    goodness: that score, the larger the better.
    """

    scores: NDArray
    goodness: float
    best_epoch: int
    held_out: str


class NormLinear(nn.Module):
    """Embeddings (B, D) -> logits (B, C): layer norm, linear layer."""

    def __init__(self, dim: int, classes: int, generator: torch.Generator):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.weight = autograd.linear((classes, dim), dim, generator)
        self.bias = autograd.linear((classes,), dim, generator)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, self.norm(x), self.weight.T)


def rate_of(epoch: int, epochs: int) -> float:
    """Returns the learning rate of an epoch, counted from 0: a cosine from LR towards LAST * LR."""
    share = (1 + math.cos(math.pi * epoch / epochs)) / 2
    return LR * (LAST + (1 - LAST) * share)


def fit(
    x: NDArray,
    y: NDArray,
    sides: Sides,
    settings: XaresSettings = USUAL,
    *,
    score: Callable[[NDArray, NDArray], float],
    seed: int,
    on_test: bool = False,
    device: str = "cpu",
) -> Fitted:
    """Trains a probe and scores the test rows with the weights of its best epoch.

    x: float32 (N, D). y: int (N,) classes, or 0/1 (N, C). `score(truth, scores)` of the validation
    rows, the larger the better, decides on the epoch. on_test: of the test rows instead. Without
    validation rows a random tenth is held out. Raises ValueError where training diverges.
    """
    one_label = y.ndim == 1
    classes = int(y.max()) + 1 if one_label else y.shape[1]
    train, valid, held_out = _sides(y, sides, seed, on_test=on_test)
    targets = torch.from_numpy(y if one_label else y.astype(np.float32)).to(device)
    generator = torch.Generator().manual_seed(seed)
    net = NormLinear(x.shape[1], classes, generator).to(device)
    optimiser = torch.optim.Adam(net.parameters(), lr=LR)
    best, best_epoch, state = -np.inf, 0, {}
    for epoch in range(settings.epochs):
        optimiser.param_groups[0]["lr"] = rate_of(epoch, settings.epochs)
        order = train[torch.randperm(len(train), generator=generator).numpy()]
        for at in range(0, len(order), settings.batch_size):
            rows = order[at : at + settings.batch_size]
            _step(net, optimiser, torch.from_numpy(x[rows]).to(device), targets[rows])
        scores = hear.predict(net, x, valid, one_label=one_label, device=device)
        if not np.isfinite(scores).all():
            raise ValueError("the probe diverged: its scores are not numbers")
        value = score(y[valid], scores)
        if value > best:
            best, best_epoch = value, epoch + 1
            state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    if not state:
        raise ValueError("the validation rows have no defined score in any epoch")
    net.load_state_dict(state)
    tested = hear.predict(net, x, sides.test, one_label=one_label, device=device)
    return Fitted(tested, best, best_epoch, held_out)


def _sides(y: NDArray, sides: Sides, seed: int, *, on_test: bool) -> holdout.Sides:
    """Returns training rows, the rows that select the epoch, and what those are."""
    if on_test:
        return sides.train, sides.test, ON_TEST
    if sides.valid is not None:
        return sides.train, sides.valid, "valid split"
    kept, held, how = holdout.random_tenth(y[sides.train], np.random.default_rng(seed))
    return sides.train[kept], sides.train[held], how


def _step(net: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, targets: Tensor) -> None:
    net.train()
    one_label = targets.ndim == 1
    loss_of = (
        nn.functional.cross_entropy if one_label else nn.functional.binary_cross_entropy_with_logits
    )
    with torch.enable_grad():
        loss = loss_of(net(x), targets)
        optimiser.zero_grad()
        loss.backward()
    optimiser.step()
