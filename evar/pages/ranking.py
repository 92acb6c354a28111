"""Which cells of a leaderboard column no test separates, so that their models share a rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evar.pages.outcomes import PerClip
from evar.results.table import Cell
from evar.scoring import comparison

ALPHA = 0.05


@dataclass(frozen=True)
class Ranked:
    """Ranks of a column's cells (M,), and for each cell the positions of cells that beat it.

    paired: how many pairs were tested on the same clips; the others by their intervals.
    """

    ranks: list[int]
    beaten_by: list[list[int]]
    paired: int


def rank(cells: Sequence[Cell], outcomes: Mapping[str, PerClip]) -> Ranked:
    """Ranks the cells of one column.

    outcomes: values per clip by run id. Two runs with values of the same clips are compared by a
    paired test by group; others, such as published figures, by whether their intervals overlap.
    """
    count = len(cells)
    higher = all(cell.higher_is_better for cell in cells)
    values = np.array([cell.value if higher else -cell.value for cell in cells])
    separated = _by_intervals(cells)
    paired = 0
    for rows, p in _tested(cells, outcomes):
        separated[np.ix_(rows, rows)] = p < ALPHA
        paired += len(rows) * (len(rows) - 1) // 2
    better = (values[None, :] > values[:, None]) & separated
    return Ranked(
        ranks=comparison.ranks_with_ties(values, separated).tolist() if count else [],
        beaten_by=[np.flatnonzero(row).tolist() for row in better],
        paired=paired,
    )


def _by_intervals(cells: Sequence[Cell]) -> NDArray:
    """Returns whether the intervals of two cells have no value in common, bool (M, M)."""
    ends = np.array([interval(cell) for cell in cells]).reshape(-1, 2)
    apart = ends[:, None, 0] > ends[None, :, 1]
    return apart | apart.T


def interval(cell: Cell) -> tuple[float, float]:
    """Returns the widest interval of a cell: over test clips, over runs, or the value alone."""
    ends = [(cell.value, cell.value)]
    if cell.ci95 is not None:
        ends.append((cell.value - cell.ci95, cell.value + cell.ci95))
    if cell.interval is not None:
        ends.append(cell.interval)
    return min(low for low, _ in ends), max(high for _, high in ends)


def _tested(cells: Sequence[Cell], outcomes: Mapping[str, PerClip]):
    """Positions of cells with values of the same clips, and p-values of all their pairs."""
    known = {
        i: outcomes[cell.run]
        for i, cell in enumerate(cells)
        if cell.run is not None and cell.run in outcomes
    }
    while known:
        first = next(iter(known.values()))
        alike = [i for i, own in known.items() if own.same_clips(first)]
        found = [known.pop(i) for i in alike]
        if len(alike) < 2:
            continue
        groups = next((o.groups for o in found if o.groups is not None), None)
        values = np.stack([o.values for o in found])
        p = comparison.pairwise_p(values, groups=groups, strata=first.folds)
        yield np.array(alike), p
