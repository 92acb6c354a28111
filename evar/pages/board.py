"""The leaderboard page: one tab per protocol, every number in static HTML, ties shown."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from evar import files
from evar import protocol as protocols
from evar.pages import charts, latex, outcomes, page, ranking
from evar.pages.outcomes import PerClip
from evar.results import record, render, table
from evar.results.record import RunRecord
from evar.results.table import Cell, Column, Row
from evar.scoring.metrics import format_value

NAME = "leaderboard.html"


@dataclass(frozen=True)
class Shown:
    """A cell as the page shows it; detail: lines that appear on hover and focus."""

    text: str
    interval: str
    order: float
    rank: int
    tied: bool
    marks: str
    detail: tuple[str, ...]
    link: str = ""


def write(results) -> Path:
    """Writes leaderboard.html into a results folder, from its runs and the published figures."""
    path = Path(results) / NAME
    runs, _ = record.load_runs(results)
    panels = [panel(results, protocol, runs) for protocol in _protocols(_rows(results, runs))]
    data = {
        "charts": {
            f"{name}-{i}": spec
            for i, panel in enumerate(panels)
            for name, spec in panel["charts"].items()
        },
        "panels": [panel["data"] for panel in panels],
    }
    content = page.render(
        "board.html",
        scripts=["export.js", "board.js"],
        data=data,
        sortable=True,
        panels=panels,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        own=len(runs),
    )
    files.write_atomic(path, content)
    return path


def _title(protocol: str) -> str:
    """The title of a protocol; "" for one that is not installed."""
    return protocols.get(protocol).title if protocol in protocols.names() else ""


def _protocols(rows: Sequence[Row]) -> list[str]:
    """All protocols, those with most own runs first."""
    own = Counter(row.protocol for row in rows if row.origin == "run")
    return sorted({row.protocol for row in rows}, key=lambda name: (-own[name], name))


def _rows(results, runs: Sequence[RunRecord]) -> list[Row]:
    return [*table.rows_of_runs(runs), *table.rows_published(Path(results) / "published.csv")]


def panel(results, protocol: str, runs: Sequence[RunRecord]) -> dict:
    """Returns what the template shows of one protocol: columns, rows, cells with their ranks."""
    rows = [row for row in _rows(results, runs) if row.protocol == protocol]
    known = {run.id: run for run in runs}
    reports = {report.stem for report in (Path(results) / "reports").glob("*.html")}
    shown_columns = table.columns(rows)
    averaged = _averaged(protocol, shown_columns)
    columns = [
        _column(column, rows, results, known, reports, average=column in averaged)
        for column in shown_columns
    ]
    lines = [_line(row, i, columns, known) for i, row in enumerate(rows)]
    means = [average(row, [c for c in shown_columns if c in averaged]) for row in rows]
    for line, mean in zip(lines, means, strict=True):
        line["average"] = "" if mean is None else format_value(mean, "fraction")
        line["average_order"] = -1 if mean is None else round(mean, 6)
    return {
        "name": protocol,
        "title": _title(protocol),
        "columns": columns,
        "rows": lines,
        "families": sorted({line["family"] for line in lines}),
        "seen": any(any(map(_is_seen, c.caveats)) for row in rows for c in row.cells.values()),
        "sized": any(line["parameters"] for line in lines),
        "timed": any(line["speed"] for line in lines),
        "wide": any(line["bytes"] for line in lines),
        "paired": sum(column["paired"] for column in columns),
        "charts": _charts(lines, means),
        "data": _data(protocol, rows, columns, lines),
    }


def _averaged(protocol: str, columns: Sequence[Column]) -> set[Column]:
    """The columns of the average at first: the protocol's own tasks, else all of one direction."""
    own = [Column(task) for task in table.averaged_tasks(protocol)]
    if any(column in columns for column in own):
        return {column for column in own if column in columns}
    plain = [c for c in columns if not c.data and c.seconds is None]
    headline = ("", *((outcomes.DIRECTION,) if any(c.direction for c in plain) else ()))
    return {c for c in plain if c.direction in headline and c.metric in ("", outcomes.RETRIEVED[0])}


def average(row: Row, columns: Sequence[Column]) -> float | None:
    """Returns the mean of a row over columns; None unless it has all, each on its whole set."""
    cells = [row.cells[column] for column in columns if column in row.cells]
    if not columns or len(cells) < len(columns) or not all(map(_counts, cells)):
        return None
    return sum(cell.value for cell in cells) / len(cells)


def _counts(cell: Cell) -> bool:
    partial = any(c.startswith("partial") or "skipped" in c for c in cell.caveats)
    return cell.unit == "fraction" and cell.higher_is_better and not partial


def _column(column: Column, rows, results, known, reports, *, average: bool) -> dict:
    places = [i for i, row in enumerate(rows) if column in row.cells]
    cells = [rows[i].cells[column] for i in places]
    found = _outcomes(cells, column, results, known)
    ranked = ranking.rank(cells, found)
    shown = {
        place: _shown(cell, rank, ranked.ranks.count(rank) > 1, reports, rows[place].origin)
        for place, cell, rank in zip(places, cells, ranked.ranks, strict=True)
    }
    beaten = {
        place: [places[i] for i in by]
        for place, by in zip(places, ranked.beaten_by, strict=True)
        if by
    }
    return {
        "name": render.column_text(column),
        "task": column.task,
        "average": average,
        "cells": shown,
        "beaten": beaten,
        "paired": ranked.paired,
        "places": places,
        "values": cells,
    }


def _outcomes(
    cells: Iterable[Cell], column: Column, results, known: Mapping[str, RunRecord]
) -> dict[str, PerClip]:
    """Values per clip of the runs in a column; of one run alone they are not needed."""
    runs = [known[cell.run] for cell in cells if cell.run is not None and cell.run in known]
    if len(runs) < 2 or column.direction not in ("", outcomes.DIRECTION):
        return {}
    found = {}
    for run in runs:
        if run.score.metric != "accuracy" and not column.metric:
            continue  # of tagging: average precision is no mean over clips
        values = outcomes.values_of(results, run, column.metric)
        if values is not None:
            found[run.id] = values
    return found


def _shown(cell: Cell, rank: int, tied: bool, reports: set[str], origin: str) -> Shown:
    def text(value: float) -> str:
        return format_value(value, cell.unit, cell.digits)

    over_clips = "" if cell.interval is None else " to ".join(map(text, cell.interval))
    detail = [f"{cell.metric or 'score'} {text(cell.value)}"]
    if cell.ci95 is not None:
        detail.append(f"± {text(cell.ci95)}, 95 % interval over runs")
    if over_clips:
        detail.append(f"{over_clips}, 95 % interval over test clips")
    detail.append(f"rank {rank}, {'shared' if tied else 'alone'}")
    detail += cell.caveats
    if origin == "published":
        detail.append("published figure")
    link = ""
    if cell.run is not None:
        link = f"reports/{cell.run}.html" if cell.run in reports else ""
        detail.append(f"run {cell.run}" + ("" if link else f": python report.py {cell.run[:8]}"))
    short = "" if cell.ci95 is None else f"± {text(cell.ci95)}"
    return Shown(
        text=text(cell.value),
        interval=short,
        order=cell.value,
        rank=rank,
        tied=tied,
        marks=marks(cell.caveats),
        detail=tuple(detail),
        link=link,
    )


def marks(caveats: Sequence[str]) -> str:
    """Returns a sign for each kind of caveat.

    † partial or bad clips, ‡ oracle, § the model has seen the task's data in training, * any other.
    """
    found = []
    for caveat in caveats:
        if _is_seen(caveat):
            found.append("§")
        elif caveat.startswith("partial") or "skipped" in caveat:
            found.append("†")
        elif caveat == "oracle":
            found.append("‡")
        elif caveat not in ("valid", "holdout", "last"):
            found.append("*")
    return "".join(dict.fromkeys(found))


def _is_seen(caveat: str) -> bool:
    return caveat.startswith("seen in training")


def _line(row: Row, number: int, columns: Sequence[dict], known) -> dict:
    runs = [known[cell.run] for cell in row.cells.values() if cell.run in known]
    parameters = next((r.model.parameters for r in reversed(runs) if r.model.parameters), None)
    width = next((r.model.width for r in reversed(runs) if r.model.width), None)
    speeds = [r.clips_per_second for r in runs if r.clips_per_second]
    return {
        "number": number,
        "name": render.row_text(row),
        "model": row.model,
        "origin": row.origin,
        "family": family(row.model),
        "parameters": parameters,
        "millions": "" if parameters is None else f"{parameters / 1e6:.1f}",
        "bytes": None if width is None else 4 * width,
        "speed": None if not speeds else round(max(speeds), 1),
        "cells": [column["cells"].get(number) for column in columns],
    }


def family(model: str) -> str:
    """Returns the first word of a model's name, which its relatives share: "m2d", "cnn14".

    >>> family("M2D-CLAP"), family("beats_iter3"), family("hf:org/name")
    ('m2d', 'beats', 'hf')
    """
    return re.split(r"[\s_\-/:.(\[]", model.strip().lower())[0] or model


def _charts(lines: Sequence[dict], means: Sequence[float | None]) -> dict:
    rows = [
        {
            "row": line["number"],
            "model": line["name"],
            "family": line["family"],
            "value": None if mean is None else round(100 * mean, 3),
            "parameters": line["parameters"],
            "speed": line["speed"],
        }
        for line, mean in zip(lines, means, strict=True)
    ]
    found = {}
    for x, title in (("parameters", "parameters"), ("speed", "clips per second")):
        of_x = [row for row in rows if row[x]]
        if of_x:
            found[x] = charts.scatter(of_x, x=x, title=title, y="average in percent")
    return found


def _data(protocol: str, rows: Sequence[Row], columns: Sequence[dict], lines: Sequence[dict]):
    """What the scripts need: values and texts of the cells, and which rows beat a cell."""
    return {
        "name": protocol,
        "columns": [{"name": c["name"], "average": c["average"]} for c in columns],
        "rows": [
            {"name": line["name"], "published": line["origin"] == "published"} for line in lines
        ],
        "tex": {
            "rows": [latex.escape(line["name"]) for line in lines],
            "columns": [latex.escape(c["name"]) for c in columns],
        },
        "cells": [
            {
                str(place): [
                    round(cell.value, 6),
                    c["cells"][place].text,
                    c["cells"][place].interval,
                    c["beaten"].get(place, []),
                    int(_counts(cell)),
                    c["cells"][place].marks,
                    int(cell.higher_is_better),
                    int(any(map(_is_seen, cell.caveats))),
                ]
                for place, cell in zip(c["places"], c["values"], strict=True)
            }
            for c in columns
        ],
    }
