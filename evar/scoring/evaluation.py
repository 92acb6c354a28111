"""What a protocol returns: the score with its intervals, details, and tables per clip."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

Unit = Literal["fraction", "plain"]


@dataclass(frozen=True)
class Score:
    """A score with both of its 95 % intervals.

    metric: a name in evar.scoring.metrics.METRICS, or what a protocol calls its own. mean: over
    runs, of the mean over folds, in `unit`. ci95: half width of the Student t interval over runs;
    None for a single run. std: standard deviation over runs. runs: their number. test95: low and
    high end of the interval over test clips; None where there are too few of them
    (`statistics.over_clips`). test_unit: what is independent, "clip" or the task's group
    ("speaker"). test_groups: how many of those there are. test_clips: the clips that were scored.
    chance: the score of a constant prediction (`Metric.chance`). unit: "fraction" is shown in
    percent, "plain" as it is (a rank).
    """

    metric: str
    mean: float
    ci95: float | None
    std: float | None
    runs: int
    test95: tuple[float, float] | None
    test_unit: str
    test_groups: int | None = None
    test_clips: int | None = None
    chance: float | None = None
    unit: Unit = "fraction"
    higher_is_better: bool = True


@dataclass(frozen=True)
class Evaluation:
    """What a protocol measured; plain values and pandas tables only.

    settings: all that was chosen, as JSON values; with seeds, model and data it decides the run's
    identity. clips: clips in use on each side, those skipped, and whether the set is partial
    (`evar.scoring.summary.count_clips`). metrics: further metrics of the pooled test clips.
    per_class: value per class name, None where undefined. runs: one entry per seed, with its folds.
    seconds: wall-clock seconds per stage. extra: further fields of this protocol's record
    (docs/results.md lists them). clips_per_second: speed of decoding and embedding, where it was
    measured. predictions: one row per test clip, fold and seed. tables: further tables by name,
    such as "confusion". files: what else is kept with the run, such as its probes, by the end of
    the file's name.
    """

    settings: Mapping[str, object]
    seeds: tuple[int, ...]
    clips: Mapping[str, Any]
    score: Score
    predictions: "pd.DataFrame"
    metrics: Mapping[str, object] = field(default_factory=dict)
    per_class: Mapping[str, float | None] = field(default_factory=dict)
    undefined_classes: int = 0
    runs: tuple[Mapping[str, object], ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, object] = field(default_factory=dict)
    clips_per_second: float | None = None
    tables: Mapping[str, "pd.DataFrame"] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
