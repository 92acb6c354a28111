"""The leaderboard as a table of numbers, from the runs' records and the published figures.

Cells are numbers, rows and columns have typed names. Nothing here formats a number:
`evar.results.render` turns the table into CSV and Markdown.
"""

import csv
import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import evar
from evar import files
from evar import protocol as protocols
from evar.errors import UserError
from evar.results import text
from evar.results.record import RunRecord
from evar.scoring import ranking
from evar.scoring.evaluation import Unit


@dataclass(frozen=True)
class Cell:
    """A score in the table.

    value: in `unit`, a fraction or a plain number. ci95: half width of the interval over runs.
    interval: low and high end over test clips. runs: seeds that were run; 0 where nothing is
    random, None for published figures. caveats: what must be shown with it. run: the id of the
    run it is from. digits: decimal places as published.
    """

    value: float
    metric: str = ""
    unit: Unit = "fraction"
    higher_is_better: bool = True
    ci95: float | None = None
    interval: tuple[float, float] | None = None
    runs: int | None = None
    caveats: tuple[str, ...] = ()
    run: str | None = None
    digits: int = 1


@dataclass(frozen=True)
class Column:
    """What a column's scores have in common.

    data: first digits of the manifest's hash where the clips are not those of the column without.
    seconds: the unit length where it is not the task's usual one; infinite for whole clips.
    direction, metric: of retrieval, which has a column for each.
    """

    task: str
    data: str = ""
    seconds: float | None = None
    direction: str = ""
    metric: str = ""


@dataclass(frozen=True)
class Row:
    """One model under one protocol.

    variant: what differs from the defaults, by name. version: of the protocol, where a newer one
    has runs. weights, source: hashes. mark: digits of those hashes where rows would look alike.
    origin: a run, or a published figure. average: over the protocol's tasks, if all are there.
    """

    protocol: str
    model: str
    cells: Mapping[Column, Cell]
    origin: Literal["run", "published"] = "run"
    variant: Mapping[str, object] = field(default_factory=dict)
    reduced: bool = False
    version: int | None = None
    weights: str = ""
    source: str = ""
    mark: str = ""
    average: Cell | None = None


def rows_of_runs(runs: Iterable[RunRecord]) -> list[Row]:
    """Returns one row per protocol, model, weights and variant; of a cell the newest run counts.

    A column holds scores on the same clips: where a data set has changed between runs, or two
    CSVs share a name, the newest clips have the plain name. So has a task's usual unit length. A
    row holds scores of one version of its protocol. `runs` come oldest first.
    """
    runs = list(runs)
    usual = _Usual.of(runs)
    grouped: dict[_Key, dict[Column, RunRecord]] = {}
    for run in runs:  # later ones replace earlier ones
        grouped.setdefault(usual.key(run), {})[usual.column(run)] = run
    alike: dict[tuple, list[tuple[str, ...]]] = {}  # what rows that read alike differ by
    for key in grouped:
        alike.setdefault(key.shown, []).append(key.hashes)
    rows = [
        Row(
            protocol=key.protocol,
            model=key.model,
            cells={c: cell for name, run in own.items() for c, cell in cells_of(name, run).items()},
            variant=next(iter(own.values())).variant,
            reduced=key.reduced,
            version=key.version,
            weights=key.hashes[0],
            source=key.hashes[1],
            mark=_mark(key.hashes, alike[key.shown]),
            average=_average(key.protocol, own),
        )
        for key, own in sorted(grouped.items(), key=lambda item: item[0].order)
    ]
    return rows


@dataclass(frozen=True)
class _Key:
    """What makes a row: the runs of one key stand in one."""

    protocol: str
    model: str
    variant: str  # canonical JSON
    reduced: bool
    version: int | None
    hashes: tuple[str, str, str]  # of weights, source, and what reads captions

    @property
    def shown(self) -> tuple:
        return self.protocol, self.model, self.variant, self.reduced, self.version

    @property
    def order(self) -> tuple:
        return (*self.shown[:4], self.version or math.inf, self.hashes)


@dataclass(frozen=True)
class _Usual:
    """What has the plain name.

    By (protocol, task): version and manifest of the newest clips. By task: the usual unit length.
    By protocol: its newest version.
    """

    data: Mapping[tuple[str, str], tuple[str, str]]
    seconds: Mapping[str, float | None]
    versions: Mapping[str, int]

    @classmethod
    def of(cls, runs: list[RunRecord]) -> "_Usual":
        data: dict[tuple[str, str], tuple[str, str]] = {}
        seconds: dict[str, float | None] = {}
        versions: dict[str, int] = {}
        for run in runs:
            if not _part_of_published(run):
                data[run.protocol, run.task.name] = _data(run)
            versions[run.protocol] = max(versions.get(run.protocol, 0), run.protocol_version)
        for run in sorted(runs, key=lambda r: r.task.usual_seconds is not None):
            seconds[run.task.name] = run.task.usual_seconds or run.task.seconds
        return cls(data, seconds, versions)

    def key(self, run: RunRecord) -> _Key:
        captions = files.canonical_json(run.settings.get("text", {}))
        read_by = hashlib.sha256(captions.encode()).hexdigest()
        old = run.protocol_version < self.versions[run.protocol]
        return _Key(
            run.protocol,
            run.model.name,
            files.canonical_json(run.variant),
            run.reduced,
            run.protocol_version if old else None,
            (run.model.weights, run.model.source, read_by),
        )

    def column(self, run: RunRecord) -> Column:
        task = run.task
        if _part_of_published(run):
            return Column(task.name)
        others = _data(run) != self.data[run.protocol, task.name]
        length = None if task.seconds == self.seconds[task.name] else task.seconds or math.inf
        return Column(task.name, run.manifest[:6] if others else "", length)


def _part_of_published(run: RunRecord) -> bool:
    """Whether a run had some clips of a set that everybody knows by its name; its cell says so."""
    return bool(run.clips.partial and run.task.published)


def _data(run: RunRecord) -> tuple[str, str]:
    return run.task.version, run.manifest


def _mark(hashes: tuple[str, ...], others: list[tuple[str, ...]]) -> str:
    """Six digits of as few hashes as tell a row from others that read alike; "" where none do."""
    for count in range(len(hashes) + 1):
        for parts in itertools.combinations(range(len(hashes)), count):
            if len({tuple(other[i] for i in parts) for other in others}) == len(others):
                return "/".join(hashes[i][:6] for i in parts)
    raise AssertionError("rows that differ in nothing are one row")


def cells_of(column: Column, run: RunRecord) -> dict[Column, Cell]:
    """Returns the cells of a run: one, or one per direction and metric of retrieval."""
    said = tuple(text.caveats(run))
    if run.select not in (None, "oracle"):  # that is a caveat already
        said = (run.select, *said)
    nested = {k: v for k, v in run.metrics.items() if isinstance(v, Mapping)}
    if not nested:
        score = run.score
        cell = Cell(
            value=score.mean,
            metric=score.metric,
            unit=score.unit,
            higher_is_better=score.higher_is_better,
            ci95=score.ci95,
            interval=score.test95,
            runs=len(run.seeds),
            caveats=said,
            run=run.id,
        )
        return {column: cell}
    return {
        Column(column.task, column.data, column.seconds, direction, metric): Cell(
            value=value,
            metric=metric,
            unit=ranking.unit(metric),
            higher_is_better=ranking.higher_is_better(metric),
            caveats=said,
            run=run.id,
        )
        for direction, metrics in nested.items()
        for metric, value in metrics.items()
        if value is not None
    }


def _average(protocol: str, own: Mapping[Column, RunRecord]) -> Cell | None:
    """The mean over the protocol's tasks; None unless all are there, each on its whole set."""
    averaged = averaged_tasks(protocol)
    runs = [own[Column(task)] for task in averaged if Column(task) in own]
    if not averaged or len(runs) < len(averaged) or any(run.reduced for run in runs):
        return None
    score = runs[0].score
    mean = sum(run.score.mean for run in runs) / len(runs)
    return Cell(mean, unit=score.unit, higher_is_better=score.higher_is_better)


def averaged_tasks(protocol: str) -> tuple[str, ...]:
    """Returns the tasks of a protocol's average; none for a protocol that is not installed."""
    try:
        return protocols.get(protocol).averaged
    except UserError:
        return ()


def columns(rows: Iterable[Row]) -> list[Column]:
    """Returns the columns of some rows: tasks of averages first, then all others by name."""
    rows = list(rows)
    present = list(dict.fromkeys(column for row in rows for column in row.cells))
    averaged = [task for name in protocols.names() for task in averaged_tasks(name)]
    first = [Column(task) for task in dict.fromkeys(averaged) if Column(task) in present]
    rest = [column for column in present if column not in first]
    return first + sorted(rest, key=lambda c: (c.task, c.data, c.seconds or 0))


_PUBLISHED = ("protocol", "model", "task", "score_percent", "ci95")


def rows_published(path) -> list[Row]:
    """Returns the rows of published figures: of `path`, else of the checkout's published.csv.

    Raises UserError for a file that is no such table.
    """
    path = Path(path)
    if not path.is_file():
        path = Path(evar.__file__).resolve().parent.parent / "results" / "published.csv"
    if not path.is_file():
        return []
    grouped: dict[tuple[str, str], dict[Column, Cell]] = {}
    with files.reading(path), path.open(newline="", encoding="utf-8") as file:
        try:
            for line in csv.DictReader(file):
                cells = grouped.setdefault((line["protocol"], line["model"]), {})
                cells[Column(line["task"])] = _published(line)
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            reason = f"no column {error}" if isinstance(error, KeyError) else error
            raise UserError(
                f"{path}: not the table of published figures ({reason}). "
                f"Its columns are {', '.join(_PUBLISHED)} and perhaps metric, caveat."
            ) from error
    return [
        Row(protocol, model, cells, "published", average=cells.pop(Column("average"), None))
        for (protocol, model), cells in grouped.items()
    ]


def _published(line: Mapping[str, str]) -> Cell:
    printed, half = line["score_percent"], line["ci95"]
    value = float(printed) / 100
    if not 0 <= value <= 1:
        raise ValueError(f"{printed} is no percentage")
    caveats = (line.get("caveat") or "").split(";")
    return Cell(
        value=value,
        metric=line.get("metric") or "",
        ci95=float(half) / 100 if half else None,
        caveats=tuple(caveat.strip() for caveat in caveats if caveat.strip()),
        digits=len(printed.partition(".")[2]),
    )
