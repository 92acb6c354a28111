"""One JSON a run, named by what the run was."""

import copy
import csv
import dataclasses
import gzip
import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest

import evar
from evar.errors import UserError
from evar.results import record, render, table, text
from evar.scoring.evaluation import Score
from helpers import records


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
    assert record["schema"] == 2
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
    assert record["task"]["kind"] == "classification"
    assert record["model"]["width"] == 3
    assert record["model"]["parameters"] is None
    assert record["variant"]["seeds"] == [42, 43]


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
    assert record.load_runs(tmp_path / "results")[0][0].id == first["id"], "oldest first"


@pytest.mark.parametrize("seeds", ["99999999999", "99999999999999999999,", "-1,"])
def test_seeds_that_no_generator_takes_are_refused(seeds, simple, clips, lineareval, refused):
    refused(lineareval(simple, clips.csv, f"--seeds={seeds}"), "--seeds")


BROKEN = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'{"schema": 0}',
    b'{"schema": 1}',
    b'{"schema": 3}',
    b'{"schema": 2, "finished": "x"}',
    b"\xe9",
    b'{"a": ' * 100_000,
    b'{"schema": ' + b"1" * 5000 + b"}",
]


@pytest.mark.parametrize("content", BROKEN, ids=range(len(BROKEN)))
def test_a_file_that_is_no_result_is_skipped_and_named_once(content, command, tmp_path):
    folder = tmp_path / "results"
    (good,) = records.write(folder, records.record())
    broken = folder / "runs/0123456789abcdef.json"
    broken.write_bytes(content)
    runs, problems = record.load_runs(folder)
    assert [run.id for run in runs] == [good.stem]
    assert len(problems) == 1
    assert problems[0].startswith(f"{broken}: not a run's result (")
    assert problems[0].endswith("Move it away.")
    ran = command("leaderboard", f"--results={folder}")
    assert ran.code == 0
    assert ran.err == f"skipped: {problems[0]}\n"


def test_what_is_no_regular_file_is_skipped(tmp_path):
    import os

    records.write(tmp_path, records.record())
    (tmp_path / "runs/folder.json").mkdir()
    os.mkfifo(tmp_path / "runs/pipe.json")
    runs, problems = record.load_runs(tmp_path)
    assert (len(runs), len(problems)) == (1, 2)


def test_a_broken_file_does_not_stop_the_next_run(lineareval, simple, clips, tmp_path):
    broken = tmp_path / "results/runs/0123456789abcdef.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{}")
    ran = lineareval(simple, clips.csv, "--seeds=1")
    assert ran.code == 0
    assert f"{broken.name}: not a run's result" in ran.out + ran.err
    assert len(rows(tmp_path / "results/scores.csv")) == 1


def rows(path):
    return list(csv.DictReader(path.open(encoding="utf-8")))


def test_a_run_under_two_file_names_counts_once(tmp_path):
    (path,) = records.write(tmp_path, records.record())
    path.with_name("0copy.json").write_bytes(path.read_bytes())
    path.with_name("zcopy.json").write_bytes(path.read_bytes())
    runs, problems = record.load_runs(tmp_path)
    assert (len(runs), problems) == (1, [])


def test_a_record_is_the_same_after_reading(tmp_path):
    made = records.record(select="valid", captions={"dog": ["a dog"]})
    read = record.from_json(made)
    assert read.to_json() == made
    assert record.from_json(read.to_json()) == read
    assert read.model.identity == {"adapter": "Net"}
    assert read.extra == {"captions": {"dog": ["a dog"]}}
    assert read.clips.sides == {"train": 8, "test": 4}


IMPOSSIBLE = [
    ({"score": {"mean": float("nan")}}, "NaN is not a JSON number"),
    ({"score": {"mean": 1.5}}, "score.mean: 1.5 is not between 0 and 1"),
    ({"score": {"mean": None}}, "score.mean: not a number"),
    ({"score": {"mean": "0.5"}}, "score.mean: not a number"),
    ({"score": {"mean": True}}, "score.mean: not a number"),
    ({"score": {"ci95": -0.1}}, "score.ci95: -0.1 is below 0"),
    ({"score": {"runs": 0}}, "score.runs: not a whole number of 1 or more"),
    ({"score": {"test95": [0.6, 0.4]}}, "score.test95: not a low and a high end"),
    ({"score": {"unit": "percent"}}, "score.unit: not one of fraction, plain"),
    ({"seeds": [42, "x"]}, "seeds[1]: not a whole number"),
    ({"task": {"seconds": 0}}, "task.seconds: 0 is not positive"),
    ({"task": 3}, "task: not an object"),
    ({"model": {"name": " "}}, "model.name: empty"),
    ({"model": {"name": "\ud800"}}, "model.name: not valid Unicode"),
    ({"manifest": "no hash"}, "manifest: not a hash"),
    ({"finished": "yesterday"}, "finished: not a date"),
    ({"clips": {"skipped": [1]}}, "clips.skipped[0]: not an object"),
    ({"clips": {"test": -1}}, "clips.test: not a whole number"),
    ({"per_class": {"dog": "x"}}, "per_class.dog: not a number"),
    ({"metrics": {"a": {"b": []}}}, "metrics.a.b: not a number"),
    ({"libraries": []}, "libraries: not an object"),
]


@pytest.mark.parametrize(("change", "reason"), IMPOSSIBLE, ids=[str(c) for c, _ in IMPOSSIBLE])
def test_an_impossible_value_is_named(change, reason, tmp_path):
    records.write(tmp_path, records.record(**change))
    runs, problems = record.load_runs(tmp_path)
    assert runs == []
    assert reason in problems[0]


SCHEMA_1 = {
    "settings": {"lr": 1e-3, "hidden": [512], "epochs": 200, "precision": "fp32"},
    "config": {"lr": 3e-4, "options": {"layer": 1}, "checkpoint": "/elsewhere/mine.pt"},
    "model": {"options": {"layer": 2}},
    "seeds": [1],
    "skipped": [],
    "select": "holdout",
}


def as_schema_1(**more) -> dict:
    old = records.record(schema=1, **more)
    for key in ("variant", "undefined_classes", "clips_per_second"):
        del old[key]
    for key in ("unit", "higher_is_better", "test_groups", "test_clips", "chance"):
        del old["score"][key]
    for key in ("95", "_unit"):
        old["score"][f"bootstrap{key}"] = old["score"].pop(f"test{key}")
    for key in ("usual_seconds", "kind"):
        del old["task"][key]
    return old


def places(value, at=()):
    """The paths of all values in a JSON value."""
    yield at
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*at, key))


WRONG = [None, True, -1, 10**30, 1e300, float("inf"), "", "x", "=1+1\n", [], [[]], {}, {"": {}}]


@pytest.mark.parametrize("schema", [1, 2])
def test_no_change_of_one_field_ends_in_a_traceback(schema, tmp_path):
    """Every field of a record missing, or of every wrong kind: it is read, or skipped and named."""
    make = records.record if schema == 2 else as_schema_1
    original = make(captions={"dog": ["a dog"]}, select="last")
    changed = 0
    for place in list(places(original))[1:]:
        for value in ["(missing)", *WRONG]:
            made = copy.deepcopy(original)
            holder = made
            for key in place[:-1]:
                holder = holder[key]
            if value == "(missing)":
                del holder[place[-1]]
            else:
                holder[place[-1]] = value
            path = tmp_path / f"runs/{changed:05}.json"
            path.parent.mkdir(exist_ok=True)
            if place != ("id",):
                made["id"] = f"{changed:016x}"
            path.write_text(json.dumps(made))
            changed += 1
    runs, problems = record.load_runs(tmp_path)
    assert changed > 800
    assert len(problems) > 300
    assert all(problem.startswith(str(tmp_path / "runs")) for problem in problems)
    assert table.rows_of_runs(runs)
    render.markdown(table.rows_of_runs(runs)).encode()
    render.scores_csv(runs).encode()
    for run in runs:
        assert text.summary_line(run)
        assert text.html(run)


def test_schema_1_still_loads():
    read = record.from_json(as_schema_1(**SCHEMA_1))
    assert read.variant == {
        "lr": 1e-3,
        "hidden": [512],
        "weights": "mine.pt",
        "seeds": [1],
        "layer": 2,
    }
    assert (read.score.unit, read.task.usual_seconds) == ("fraction", None)
    assert (read.score.test95, read.score.test_unit) == ((0.4, 0.6), "clip")
    assert read.to_json()["schema"] == 2
    assert "skipped" not in read.to_json()


def test_one_run_says_that_it_has_no_interval(run, lineareval, clips, simple):
    ran = lineareval(simple, clips.csv, "--seeds=1")
    assert "accuracy 100.0 % (1 seed, no interval over seeds; " in ran.out.splitlines()[-1]


def test_every_field_is_documented():
    page = (Path(evar.__file__).parent.parent / "docs/results.md").read_text(encoding="utf-8")
    nested = {
        "model": record.ModelRecord,
        "task": record.TaskRecord,
        "score": Score,
    }
    for field in dataclasses.fields(record.RunRecord):
        inside = nested.get(field.name)
        names = [f"{field.name}.{f.name}" for f in dataclasses.fields(inside)] if inside else []
        for name in names or [field.name]:
            if name not in ("extra", "model.identity"):  # they hold fields of other names
                assert f"`{name}`" in page, name


@pytest.mark.parametrize("unit", ["fraction", "plain"])
def test_a_score_that_is_no_number_makes_no_record(unit):
    made = records.record(score={"mean": float("nan"), "unit": unit})
    with pytest.raises(UserError, match=r"score\.mean"):
        record.from_json(made)
