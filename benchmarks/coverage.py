"""How often the 95 % interval over test clips covers the true score: a simulation.

python benchmarks/coverage.py [--sets=1000] [--seed=0]

Test sets are drawn from a known population: groups (speakers) whose accuracy varies, clips of each
group, folds. For accuracy the true score is the population's; for macro mAP it is that of 20,000
groups. Prints the Markdown tables of docs/results.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

import fire
import numpy as np
from numpy.typing import NDArray

from evar.scoring import metrics, statistics
from evar.scoring.statistics import Stratum

ACCURACY, MAP = metrics.METRICS["accuracy"], metrics.METRICS["mAP"]
MANY = 20_000  # groups that stand for the population


@dataclass(frozen=True)
class Population:
    """Groups of clips; `alike` is the correlation of two clips of one group (0: independent)."""

    share: float  # of clips that are right, or of positives per class
    alike: float
    clips: int  # per group
    classes: int = 0  # of macro mAP; 0: accuracy

    def rates(self, rng: np.random.Generator, *shape: int) -> NDArray:
        if self.alike == 0:
            return np.full(shape, self.share)
        total = (1 - self.alike) / self.alike
        return rng.beta(self.share * total, (1 - self.share) * total, shape)

    def accuracy(self, rng: np.random.Generator, groups: int) -> tuple[NDArray, NDArray]:
        """Truth (N,) and the scores (1, N, 2) of one run: right where the first class is higher."""
        right = rng.random(groups * self.clips) < np.repeat(self.rates(rng, groups), self.clips)
        return np.zeros(len(right), int), np.stack([right, ~right], axis=1)[None].astype(float)

    def tags(self, rng: np.random.Generator, groups: int) -> tuple[NDArray, NDArray]:
        """Truth (N, C) and scores (1, N, C): a normal score, higher by 1.5 for positives."""
        group = np.repeat(np.arange(groups), self.clips)
        rates = self.rates(rng, groups, self.classes)[group]
        truth = (rng.random(rates.shape) < rates).astype(np.int8)
        shift = 0.5 * rng.standard_normal((groups, self.classes))[group] * (self.alike > 0)
        return truth, (rng.standard_normal(rates.shape) + 1.5 * truth + shift)[None]


def coverage(
    population: Population, groups: int, folds: int, sets: int, rng: np.random.Generator
) -> tuple[float, float] | None:
    """Returns the share of intervals that hold the true score, and their mean width in percent."""
    tagging = population.classes > 0
    metric, draw = (MAP, population.tags) if tagging else (ACCURACY, population.accuracy)
    truth = _true_map(population, rng) if tagging else population.share
    found = [_interval(metric, draw, population, groups, folds, rng) for _ in range(sets)]
    if any(interval is None for interval in found):
        return None
    low, high = np.array(found).T
    return float(np.mean((low <= truth) & (truth <= high))), 100 * float(np.mean(high - low))


def _true_map(population: Population, rng: np.random.Generator) -> float:
    truth, scores = population.tags(rng, MANY)
    return MAP.value(truth, scores[0])


def _interval(
    metric: metrics.Metric, draw: Callable, population: Population, groups: int, folds: int, rng
) -> NDArray | None:
    strata = []
    for fold in range(folds):
        members = groups // folds + (fold < groups % folds)
        truth, scores = draw(rng, members)
        of_group = np.repeat(np.arange(members), population.clips) + fold * groups
        strata.append(Stratum(of_group, metric.weighted(truth, scores)))
    return statistics.over_clips(
        strata, replicates=metric.replicates, independent=metric.share_of_clips
    )


def _table(title: str, cases: list, sizes: list[tuple[int, int]], sets: int, seed: int) -> None:
    print(f"\n{title}\n")
    print("| groups | folds | " + " | ".join(name for name, _ in cases) + " |")
    print("|" + " --- |" * (2 + len(cases)))
    for groups, folds in sizes:
        cells = []
        for _, population in cases:
            found = coverage(population, groups, folds, sets, np.random.default_rng(seed))
            cells.append(
                "none" if found is None else f"{100 * found[0]:.1f} (width {found[1]:.0f})"
            )
        print(f"| {groups} | {folds} | " + " | ".join(cells) + " |", flush=True)


def main(sets: int = 1000, seed: int = 0) -> None:
    sizes = [(2, 1), (5, 5), (9, 1), (10, 1), (10, 5), (15, 1), (20, 1), (20, 5), (50, 1)]
    sizes += [(100, 1), (100, 10)]
    accuracy = [
        ("60 %, 20 clips each", Population(0.6, 0.1, 20)),
        ("80 %, 10 clips each", Population(0.8, 0.2, 10)),
        ("95 %, 20 clips each", Population(0.95, 0.1, 20)),
        ("80 %, single clips", Population(0.8, 0, 1)),
    ]
    _table("Accuracy:", accuracy, sizes, sets, seed)
    tags = [
        ("10 classes, 10 clips each", Population(0.2, 0.1, 10, 10)),
        ("10 classes, single clips", Population(0.2, 0, 1, 10)),
    ]
    _table("Macro mAP:", tags, [(9, 1), (10, 1), (20, 1), (50, 1)], sets, seed)


if __name__ == "__main__":
    fire.Fire(main)
