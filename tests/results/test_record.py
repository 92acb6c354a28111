"""One JSON a run, named by what the run was."""

import gzip
import io
import json
import re

import pandas as pd
import pytest

from evar.errors import UserError
from evar.results import record


@pytest.fixture
def run(clips, simple, lineareval, tmp_path):
    """A function that evaluates the two tones; returns the record of its run."""

    def once(*options, model=simple):
        before = set(tmp_path.glob("results/runs/*.json"))
        ran = lineareval(model, clips.csv, *options)
        assert ran.code == 0, ran.err
        path = re.search(r"results: (\S+\.json)", ran.out)[1]
        once.new = set(tmp_path.glob("results/runs/*.json")) - before
        return json.loads((tmp_path / path).read_text(encoding="utf-8"))

    return once


def test_the_record_says_what_the_run_was(run, clips):
    record = run("--seeds=2")
    assert record["schema"] == 1
    assert record["protocol"] == "linear"
    assert record["model"]["name"] == "Simple"
    assert {"source", "weights", "options", "libraries"} <= set(record["model"])
    assert record["task"]["name"].startswith("sounds")
    assert len(record["manifest"]) == 64
    assert record["seeds"] == [42, 43]
    assert record["settings"]["hidden"] == []
    assert record["settings"]["epochs"] == 200
    assert {k: record["clips"][k] for k in ("train", "valid", "test", "total")} == {
        "train": 12,
        "valid": 4,
        "test": 8,
        "total": 24,
    }
    assert record["clips"]["skipped"] == []
    assert record["clips"]["partial"] == ""
    assert set(record["per_class"]) == {"low", "high"}
    assert [run["seed"] for run in record["runs"]] == [42, 43]
    assert record["runs"][0]["folds"][0]["score"] == 1.0
    assert record["score"]["runs"] == 2
    assert record["score"]["ci95"] == 0
    assert {"embed", "probe"} <= set(record["seconds"])
    assert {"torch", "numpy", "soxr"} <= set(record["libraries"])
    assert record["device"] == "cpu"
    assert "git" in record


def test_the_same_run_has_the_same_id_and_score(run):
    first, second = run(), run()
    assert run.new == set()
    for key in ("id", "score", "runs", "per_class", "metrics", "manifest"):
        assert first[key] == second[key], key


@pytest.mark.parametrize(
    "option",
    ["--seeds=2", "--lr=0.02", "--hidden=(8,)", "--epochs=7", "--seconds=0.1", "--precision=bf16"],
)
def test_another_setting_is_another_run(option, run):
    assert run()["id"] != run(option)["id"]


@pytest.mark.parametrize("option", ["--batch_size=3", "--no_cache", "--cache=elsewhere"])
def test_what_does_not_matter_is_no_other_run(option, run):
    first, second = run(), run(option)
    assert first["id"] == second["id"]
    assert first["score"] == second["score"]


def test_clips_left_out_make_another_run(run, clips, sound):
    first = run()
    clips.add("silent.wav", "low", "test", samples=[0.0] * 3200)
    second = run("--skip_bad")
    assert first["id"] != second["id"]
    assert second["clips"]["skipped"][0]["clip"] == "silent.wav"


def test_predictions_are_one_row_a_clip_and_seed(run, clips, tmp_path):
    record = run()
    path = tmp_path / f"results/runs/{record['id']}.predictions.csv.gz"
    table = pd.read_csv(io.BytesIO(gzip.decompress(path.read_bytes())))
    assert list(table.columns) == ["clip", "fold", "seed", "true", "predicted", "score"]
    assert len(table) == 8 * 3
    assert set(table.seed) == {42, 43, 44}
    truth = {file: label for file, label, side in clips.rows if side == "test"}
    assert dict(zip(table["clip"], table["true"], strict=True)) == truth
    accuracy = (table["true"] == table["predicted"]).groupby(table.seed).mean()
    assert accuracy.tolist() == [r["folds"][0]["score"] for r in record["runs"]]
    before = path.read_bytes()
    run()
    assert path.read_bytes() == before


def test_a_later_run_leaves_earlier_ones_alone(run, tmp_path):
    first = run()
    path = tmp_path / f"results/runs/{first['id']}.json"
    content = path.read_bytes()
    run("--lr=0.02")
    assert path.read_bytes() == content
    assert record.load_runs(tmp_path / "results")[0]["id"] == first["id"], "oldest first"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"schema": 0}',
        '{"schema": 1}',
        '{"schema": 1, "finished": "x"}',
        "é",
    ],
)
def test_a_file_that_is_no_result_is_named(content, command, refused, tmp_path):
    path = tmp_path / "broken/runs/0123456789abcdef.json"
    path.parent.mkdir(parents=True)
    path.write_text(content, encoding="latin-1")
    refused(command("leaderboard", f"--results={tmp_path / 'broken'}"), str(path), "Move it away")
    with pytest.raises(UserError, match=str(path)):
        record.load_runs(tmp_path / "broken")


@pytest.mark.parametrize(
    ("key", "value"),
    [("seeds", None), ("manifest", None), ("clips", {}), ("score", {"mean": None}), ("task", 3)],
)
def test_a_record_that_lacks_what_tables_need_is_named_and_the_next_run_not_lost(
    key, value, run, lineareval, simple, clips, tmp_path
):
    record = run()
    path = tmp_path / f"results/runs/{record['id']}.json"
    broken = path.with_name("0123456789abcdef.json")
    if value is None:
        del record[key]
    else:
        record[key] = value
    broken.write_text(json.dumps(record))
    ran = lineareval(simple, clips.csv, "--lr=0.02")
    assert ran.code == 2
    assert f"{broken.name}: not a run's result" in ran.err
    assert "accuracy" in ran.out.splitlines()[-1], "the score is told all the same"
    assert len(list(tmp_path.glob("results/runs/*.json"))) == 3


@pytest.mark.parametrize("seeds", ["99999999999", "99999999999999999999,", "-1,"])
def test_seeds_that_no_generator_takes_are_refused(seeds, simple, clips, lineareval, refused):
    refused(lineareval(simple, clips.csv, f"--seeds={seeds}"), "--seeds")


@pytest.mark.parametrize(
    ("seeds", "score", "expected"),
    [
        ([42, 43], {"mean": 0.7126, "ci95": 0.0081}, "71.3 ± 0.8"),
        ([42, 43], {"mean": 1.0, "ci95": 0.0}, "100.0 ± 0.0"),
        ([42], {"mean": 0.5, "ci95": None}, "50.0"),
        ([], {"mean": 0.5, "ci95": None, "bootstrap95": [0.4, 0.55]}, "50.0 [40.0, 55.0]"),
    ],
)
def test_percent(seeds, score, expected):
    assert record.percent({"seeds": seeds, "score": score}) == expected


@pytest.mark.parametrize(
    ("clips", "expected"),
    [
        ({"partial": "", "skipped": []}, []),
        ({"partial": "3 of 4 clips", "skipped": []}, ["partial: 3 of 4 clips"]),
        ({"partial": "", "skipped": [1]}, ["1 bad clip skipped"]),
        ({"partial": "a", "skipped": [1, 2]}, ["partial: a", "2 bad clips skipped"]),
    ],
)
def test_caveats(clips, expected):
    assert record.caveats({"clips": clips}) == expected
    assert record.caveats({"clips": clips, "select": "oracle"}) == ["oracle", *expected]
    assert record.caveats({"clips": clips, "select": "last"}) == expected


def test_one_run_says_that_it_has_no_interval(run, lineareval, clips, simple):
    ran = lineareval(simple, clips.csv, "--seeds=1")
    assert ran.out.splitlines()[-1].endswith("accuracy 100.0 % (1 run, no interval over runs)")
