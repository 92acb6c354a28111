"""Renders the leaderboard as CSV and Markdown: only here do names and numbers become text."""

import csv
import io
import math
from collections.abc import Iterable, Sequence

from evar.results import escape
from evar.results import text as words
from evar.results.record import RunRecord
from evar.results.table import Cell, Column, Row, averaged_tasks, columns

_HEAD = (
    "Scores in percent, ± half width of the 95 % interval over runs (Student t), or with the 95 % "
    "interval over test clips in brackets where nothing is random (those of retrieval are in the "
    "runs' JSONs). medR is a rank. Sets with several labels per clip have macro mAP, others "
    "accuracy (scores.csv names it). A row's brackets name what differs from the published weights "
    "and the protocol's defaults; digits in square brackets begin the hashes (weights, source, "
    "manifest) that scores.csv and the JSONs have in full. Fine-tuned scores name how the epoch "
    "was selected; an oracle looked at the test set. Rows marked *published* are quoted: from the "
    "M2D-CLAP paper (Interspeech 2024), Tables 3 to 5; under `hear` from HEAR's leaderboard "
    "(2023-09-26), under `xares` and `knn` from X-ARES' README (2025-09-02). Columns that begin "
    "with hear_ or xares_ are clips or splits of those benchmarks' own. Rebuild with `python "
    "leaderboard.py`."
)


def cell_text(cell: Cell | None) -> str:
    """Returns a cell as text, "96.3 ± 0.3 (oracle)"; "" for an empty one."""
    if cell is None:
        return ""
    value = words.value_text(
        cell.value,
        cell.unit,
        ci95=cell.ci95,
        interval=cell.interval if cell.runs == 0 else None,
        digits=cell.digits,
    )
    return " ".join([value, *(f"({caveat})" for caveat in cell.caveats)])


def column_text(column: Column) -> str:
    """Returns a column's name, "esc50", "sounds [3f9a01] (2 s)" or "clotho t→a R@1"."""
    parts = [column.task]
    if column.data:
        parts.append(f"[{column.data}]")
    if column.seconds is not None:
        whole = math.isinf(column.seconds)
        parts.append("(whole clips)" if whole else f"({column.seconds:g} s)")
    if column.direction:  # text_to_audio: t→a
        parts.append("→".join(word[:1] for word in column.direction.split("_to_")))
    return " ".join([*parts, column.metric] if column.metric else parts)


def row_text(row: Row) -> str:
    """Returns a row's name, "m2d (weights=random, protocol version 1) [1f0a9c]"."""
    differs = variant_text(row.variant, reduced=row.reduced)
    if row.version is not None:
        differs = ", ".join(filter(None, [differs, f"protocol version {row.version}"]))
    name = row.model + (f" ({differs})" if differs else "")
    return name + (f" [{row.mark}]" if row.mark else "")


def variant_text(variant, *, reduced: bool) -> str:
    """Returns what differs from the defaults, "lr=0.001, seeds=42,43, reduced set"."""
    named = [f"{name}={_setting(name, value)}" for name, value in variant.items()]
    return ", ".join(named + ["reduced set"] * reduced)


def _setting(name: str, value: object) -> str:
    if name == "seeds" and isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def csv_table(rows: Sequence[Row]) -> str:
    """Returns all rows as CSV: one column per task, cells as text."""
    shown = columns(rows)
    head = ["protocol", "model", "source", *map(column_text, shown), "average"]
    lines = [
        [
            row.protocol,
            row_text(row),
            row.origin,
            *(cell_text(row.cells.get(column)) for column in shown),
            cell_text(row.average),
        ]
        for row in rows
    ]
    return _csv([head, *lines] if lines else [])


def scores_csv(runs: Iterable[RunRecord]) -> str:
    """Returns one line per run: what it was, its score with both intervals, its caveats."""
    lines = [_score_line(run) for run in runs]
    return _csv([list(lines[0]), *(list(line.values()) for line in lines)] if lines else [])


def _score_line(run: RunRecord) -> dict[str, object]:
    score = run.score
    factor = 100 if score.unit == "fraction" else 1
    low, high = score.test95 or (None, None)
    return {
        "id": run.id,
        "protocol": run.protocol,
        "model": run.model.name,
        "variant": variant_text(run.variant, reduced=run.reduced),
        "weights": run.model.weights,
        "source": run.model.source,
        "task": run.task.name,
        "task_version": run.task.version,
        "seconds": run.task.seconds,
        "protocol_version": run.protocol_version,
        "metric": score.metric,
        "score_percent": round(factor * score.mean, 4),
        "ci95": "" if score.ci95 is None else round(factor * score.ci95, 4),
        "runs": score.runs,
        "test_low": "" if low is None else round(factor * low, 4),
        "test_high": "" if high is None else round(factor * high, 4),
        "test_clips_by": score.test_unit,
        "test_groups": score.test_groups,
        "caveats": "; ".join(words.caveats(run)),
        "finished": run.finished,
    }


def _csv(lines: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([escape.csv(value) for value in line] for line in lines)
    return text.getvalue()


def markdown(rows: Sequence[Row]) -> str:
    """Returns a page with one table per protocol."""
    parts = ["# Leaderboard", "", _HEAD]
    for protocol in sorted({row.protocol for row in rows}):
        own = [row for row in rows if row.protocol == protocol]
        parts += ["", f"## {escape.markdown(protocol)}", "", *_table(protocol, own)]
    return "\n".join(parts) + "\n"


def _table(protocol: str, rows: Sequence[Row]) -> list[str]:
    shown = columns(rows)
    averaged = bool(averaged_tasks(protocol)) or any(row.average for row in rows)
    head = ["model", *map(column_text, shown), *["average"] * averaged]
    lines = [_line(map(escape.markdown, head)), "|" + " --- |" * len(head)]
    for row in rows:
        name = escape.markdown(row_text(row))
        name += " *published*" if row.origin == "published" else ""
        cells = [cell_text(row.cells.get(column)) for column in shown]
        cells += [cell_text(row.average)] * averaged
        lines.append(_line([name, *map(escape.markdown, cells)]))
    return lines


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
