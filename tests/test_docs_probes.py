"""The page of probes has the table and the picture of what was measured."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "docs"))

import make_probes


def test_the_page_has_the_table_of_the_measurements():
    written = make_probes.PAGE.read_text(encoding="utf-8")
    assert written == make_probes.page(written), "run python docs/make_probes.py"
    expected = make_probes.picture(make_probes.read("layers.csv"))
    assert make_probes.PICTURE.read_text(encoding="utf-8") == expected


def test_the_better_model_is_bold():
    scores = (("t", "a", 0.5), ("t", "b", 0.4), ("u", "a", 0.5), ("u", "b", 0.5), ("v", "b", 0.1))
    rows = [{"task": t, "model": m, "probe": "knn", "mean": v} for t, m, v in scores]
    assert make_probes.table(rows).splitlines() == [
        "| probe (a / b) | t | u | v |",
        "| --- | --- | --- | --- |",
        "| knn | **50.0** / 40.0 | 50.0 / 50.0 | – / 10.0 |",
    ]
