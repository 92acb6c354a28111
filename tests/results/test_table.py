"""The leaderboard's cells are numbers; its rows and columns have typed names."""

from evar.results import table
from evar.results.record import from_json
from evar.results.table import Column
from helpers.records import record


def rows(*records):
    return table.rows_of_runs([from_json(made) for made in records])


def test_a_cell_is_a_number_with_its_intervals_and_its_run():
    made = record(select="valid", clips={"partial": "3 of 4 clips"})
    (row,) = rows(made)
    cell = row.cells[Column("esc50")]
    assert (cell.value, cell.ci95, cell.interval, cell.runs) == (0.5, 0.012, (0.4, 0.6), 3)
    assert (cell.metric, cell.unit, cell.higher_is_better) == ("accuracy", "fraction", True)
    assert cell.caveats == ("valid", "partial: 3 of 4 clips")
    assert cell.run == made["id"]
    assert (row.protocol, row.model, row.origin, row.reduced) == ("linear", "m", "run", True)
    assert (row.weights, row.source) == ("w" * 16, "s" * 16)


def test_a_row_names_what_differs_by_value():
    (row,) = rows(record(variant={"lr": 0.01, "seeds": [1, 2]}))
    assert row.variant == {"lr": 0.01, "seeds": [1, 2]}


def test_retrieval_has_a_column_for_each_direction_and_metric():
    metrics = {"text_to_audio": {"R@1": 0.25, "medR": 3.0}, "audio_to_text": {"R@1": 0.5}}
    (row,) = rows(record(of="clotho", protocol="retrieval", metrics=metrics, seeds=[]))
    assert {(c.direction, c.metric): cell.value for c, cell in row.cells.items()} == {
        ("text_to_audio", "R@1"): 0.25,
        ("text_to_audio", "medR"): 3.0,
        ("audio_to_text", "R@1"): 0.5,
    }
    rank = row.cells[Column("clotho", direction="text_to_audio", metric="medR")]
    assert (rank.unit, rank.higher_is_better) == ("plain", False)


def test_the_average_is_a_number(monkeypatch):
    monkeypatch.setattr(table, "averaged_tasks", lambda protocol: ("a", "b"))
    (row,) = rows(record(of="a", mean=0.25), record(of="b", mean=0.5))
    assert row.average.value == 0.375
    (row,) = rows(record(of="a", mean=0.25))
    assert row.average is None


def test_published_cells_keep_their_digits_and_caveats(tmp_path):
    path = tmp_path / "published.csv"
    path.write_text(
        "protocol,model,task,metric,score_percent,ci95,caveat\n"
        "zeroshot,CLAP,as,mAP,27.24,,not zero-shot; seen\n"
    )
    (row,) = table.rows_published(path)
    cell = row.cells[Column("as")]
    assert (cell.value, cell.digits, cell.metric) == (0.2724, 2, "mAP")
    assert cell.caveats == ("not zero-shot", "seen")
    assert (row.origin, cell.run) == ("published", None)
