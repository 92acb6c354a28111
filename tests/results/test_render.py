"""Tables as text: nothing that a name holds is taken for a formula, a tag or a command."""

import csv
import io
import math
from pathlib import Path

import pytest

import evar
from evar.results import escape, render, table
from evar.results.record import from_json
from evar.results.table import Cell, Column, Row
from helpers.records import record


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (None, ""),
        (Cell(0.5), "50.0"),
        (Cell(0.963, ci95=0.003, runs=3, interval=(0.9, 0.99)), "96.3 ± 0.3"),
        (Cell(0.5, runs=0, interval=(0.4, 0.65)), "50.0 [40.0, 65.0]"),
        (Cell(0.7545, digits=2, caveats=("oracle", "partial")), "75.45 (oracle) (partial)"),
        (Cell(3.5, unit="plain"), "3.5"),
    ],
)
def test_a_cell(cell, expected):
    assert render.cell_text(cell) == expected


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (Column("esc50"), "esc50"),
        (Column("mine", "3f9a01", 0.5), "mine [3f9a01] (0.5 s)"),
        (Column("mine", seconds=math.inf), "mine (whole clips)"),
        (Column("clotho", direction="text_to_audio", metric="R@1"), "clotho t→a R@1"),
    ],
)
def test_a_column(column, expected):
    assert render.column_text(column) == expected


def test_a_row():
    variant = {"lr": 0.001, "hidden": [512], "seeds": [1, 2], "weights": "random"}
    row = Row("linear", "m", {}, variant=variant, reduced=True, version=1, mark="abcdef")
    assert render.row_text(row) == (
        "m (lr=0.001, hidden=[512], seeds=1,2, weights=random, reduced set, protocol version 1) "
        "[abcdef]"
    )


NASTY = [
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    " =1",
    "<img src=x onerror=alert(1)>",
    "a|b",
    "two\nlines",
    "\x1b[2J\x1b]0;title\x07",
    "[click](http://elsewhere)",
    "`code` *bold*",
    "\u202egnp.exe",
    "\x9b31m",
    "\u2028next",
]


@pytest.mark.parametrize("name", NASTY)
def test_names_are_text_in_every_medium(name):
    made = from_json(record(name, f"t{name}", variant={"weights": name}))
    rows = table.rows_of_runs([made])
    for content in (render.csv_table(rows), render.scores_csv([made])):
        lines = list(csv.reader(io.StringIO(content)))
        assert len(lines) == 2
        for cell in (cell for line in lines for cell in line):
            assert not cell.lstrip().startswith(("=", "+", "-", "@")), cell
            assert cell.isprintable(), cell
    page = render.markdown(rows)
    assert "<" not in page
    assert "](" not in page
    assert "*bold*" not in page
    bars = {line.replace("\\|", "").count("|") for line in page.splitlines() if line[:1] == "|"}
    assert len(bars) == 1
    assert all(line.isprintable() for line in page.splitlines())


def test_numbers_stay_numbers():
    assert escape.csv(-1.5) == -1.5
    assert escape.csv("1.5") == "1.5"


def test_text_of_any_script_stays_readable():
    assert escape.terminal("Hund – 犬 – کلب é") == "Hund – 犬 – کلب é"
    assert escape.terminal("a\tb") == "a\\tb"
    assert escape.html("<b>&\n") == "&lt;b&gt;&amp;\\n"


def test_figures_of_other_benchmarks_stand_in_columns_of_the_same_clips_only(tmp_path):
    rows = table.rows_published(tmp_path / "none.csv")
    own = {"esc50", "us8k", "nsynth"}  # their own folds or splits there, too
    counts = {}
    for protocol, prefix in (("hear", "hear_"), ("xares", "xares_"), ("knn", "xares_")):
        cells = [c for row in rows if row.protocol == protocol for c in row.cells]
        counts[protocol] = len(cells)
        assert {c.task for c in cells if not c.task.startswith(prefix)} <= own
    assert counts == {"hear": 388, "xares": 88, "knn": 68}
    page = render.markdown(rows)
    assert "| OpenL3 *published* |" in page
    assert "75.05" in page


def test_the_published_figures_are_shown_as_they_were_printed(tmp_path):
    rows = table.rows_published(tmp_path / "none.csv")
    shown = {
        (row.protocol, row.model, column.task): render.cell_text(cell)
        for row in rows
        for column, cell in [
            *row.cells.items(),
            *([(Column("average"), row.average)] * bool(row.average)),
        ]
    }
    published = Path(evar.__file__).parent.parent / "results/published.csv"
    with published.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            text = line["score_percent"] + (f" ± {line['ci95']}" if line["ci95"] else "")
            text += f" ({line['caveat']})" if line["caveat"] else ""
            assert shown.pop((line["protocol"], line["model"], line["task"])) == text
    assert not shown
