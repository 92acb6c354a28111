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
    rows = [
        {"task": "t", "model": m, "probe": "knn", "mean": v} for m, v in (("a", 0.5), ("b", 0.4))
    ]
    assert make_probes.table(rows).splitlines() == [
        "| probe | t, a | t, b |",
        "| --- | --- | --- |",
        "| knn | **50.0** | 40.0 |",
    ]
