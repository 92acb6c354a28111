"""Says what a small set of clips can tell, before anything is trained."""

import math
from collections import Counter
from collections.abc import Mapping

FEWEST = 10  # groups of an interval, as in evar.scoring.statistics
_Z = 1.959964  # quantile of the normal distribution for 95 %
LIKELY = 0.8  # an accuracy as it is often met
SMALL = 100  # test clips below which the width of the interval is worth a line
_RARE = 5  # test clips of a class below which its own accuracy says little


def half_width(clips: int, accuracy: float = LIKELY) -> float:
    """Returns half of Wilson's 95 % interval for an accuracy over so many clips, in [0, 1]."""
    spread = accuracy * (1 - accuracy) / clips + (_Z / (2 * clips)) ** 2
    return _Z * math.sqrt(spread) / (1 + _Z**2 / clips)


def expectation(clips: int, groups: int | None = None) -> str:
    """Returns a clause on the interval to expect; clips of a group count less than others."""
    independent = groups or clips
    if independent < FEWEST:
        units = "groups" if groups else "clips"
        return (
            f"{clips:,} test clips"
            + (f" of {groups:,} groups" if groups else "")
            + f": too few for an interval, which needs {FEWEST} {units}"
        )
    widths = sorted({round(100 * half_width(n)) for n in (clips, groups or clips)})
    points = " to ".join(f"{width}" for width in widths)
    of = f"{clips:,} test clips" + (f" of {groups:,} groups" if groups else "")
    what = f"95 % interval, at {100 * LIKELY:.0f} % accuracy"
    return f"{of}: expect about ±{points} points ({what})"


def of_small_set(
    sides: Mapping[str, Counter], *, folds: bool, groups: int | None = None, table: str = ""
) -> str:
    """Returns one line on a small set, or "" for one that is not.

    sides: clips of each class by split or fold. groups: number of them on the test side.
    """
    tested = sum(sides.values(), Counter()) if folds else sides.get("test", Counter())
    total = sum(tested.values())
    if not total or total >= SMALL:
        return ""
    said = [expectation(total, groups)]
    rarest = min(tested, key=lambda name: (tested[name], name))
    if tested[rarest] < _RARE:
        said.append(f"only {tested[rarest]} of {rarest!r}")
    if not folds:
        everything = sum(sum(side.values()) for side in sides.values())
        said.append(f"folds would test all {everything:,} clips ({table or '`evar table`'})")
    return "; ".join(said)
