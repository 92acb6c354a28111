"""The leaderboard of one protocol as a LaTeX table, as the page's own button makes it."""

from evar.errors import UserError
from evar.pages import board, latex
from evar.results import record


def table(results, *, model: str = "", protocol: str = "") -> str:
    """Returns the rows of own runs and published figures; `model`: those of one model alone.

    Raises UserError for an unknown protocol or model, and where there are several protocols.
    """
    runs, _ = record.load_runs(results)
    known = sorted({run.protocol for run in runs})
    if protocol == "" and len(known) == 1:
        protocol = known[0]
    if protocol not in known:
        raise UserError(f"--protocol must be one of {', '.join(known)}")
    panel = board.panel(results, protocol, runs)
    rows = [row for row in panel["rows"] if model in ("", row["model"])]
    if not rows:
        raise UserError(f"{model}: no results of {protocol}")
    shown = [c for c, column in enumerate(panel["columns"]) if any(r["cells"][c] for r in rows)]
    head = ["Model", "Average", *(latex.escape(panel["columns"][c]["name"]) for c in shown)]
    best = [_best(panel["columns"][c], rows) for c in shown]
    lines = []
    for row in sorted(rows, key=lambda r: (-r["average_order"], r["name"])):
        cells = [
            _cell(row["cells"][c], row["cells"][c] is not None and row["number"] in top)
            for c, top in zip(shown, best, strict=True)
        ]
        lines.append([latex.escape(row["name"]), row["average"], *cells])
    caption = (
        "Scores in percent, ± 95 % interval over runs. Best in bold; underlined what no test "
        "separates from it at the 5 % level."
    )
    return latex.table(head, lines, caption=caption)


def _best(column: dict, rows: list[dict]) -> set[int]:
    """Numbers of the rows with the best value of a column."""
    numbers = {row["number"] for row in rows}
    cells = [
        (place, cell)
        for place, cell in zip(column["places"], column["values"], strict=True)
        if place in numbers
    ]
    sign = 1 if all(cell.higher_is_better for _, cell in cells) else -1
    top = max(sign * cell.value for _, cell in cells)
    return {place for place, cell in cells if sign * cell.value == top}


def _cell(shown, best: bool) -> str:
    if shown is None:
        return ""
    return latex.cell(shown.text, shown.interval, rank=shown.rank, best=best, marks=shown.marks)
