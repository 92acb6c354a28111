"""The leaderboard is rebuilt from the runs' JSONs and the published figures, and nothing else."""

import csv
import hashlib
import json
import multiprocessing
from pathlib import Path

import pytest

from evar import protocol
from evar.errors import UserError
from evar.results import leaderboard


def record(name="m", of="esc50", mean=0.5, **more):
    """A run's record, as far as tables need it."""
    made = {
        "schema": 1,
        "id": hashlib.sha256(repr((name, of, mean, more)).encode()).hexdigest()[:16],
        "protocol": "linear",
        "protocol_version": 1,
        "model": {"name": name, "weights": "w" * 16, "source": "s" * 16, "options": {}},
        "task": {"name": of, "version": "1", "seconds": 5.0, "published": True},
        "manifest": "d" * 64,
        "settings": {"lr": 3e-4, "hidden": [], "epochs": 200, "precision": "fp32"},
        "config": {"lr": 3e-4, "options": {}},
        "seeds": [42, 43, 44],
        "clips": {"partial": "", "skipped": []},
        "score": {
            "metric": "accuracy",
            "mean": mean,
            "ci95": 0.012,
            "std": 0.01,
            "runs": 3,
            "bootstrap95": [0.4, 0.6],
            "bootstrap_unit": "clip",
        },
        "finished": "2025-01-01T00:00:00+00:00",
    }
    for key, value in more.items():
        made[key] = {**made[key], **value} if isinstance(value, dict) else value
    return made


@pytest.fixture
def board(tmp_path):
    """A function that writes records, rebuilds and returns leaderboard.csv as dictionaries."""

    def build(*records, published="protocol,model,task,score_percent,ci95\n"):
        folder = tmp_path / "results"
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        if published is not None:
            (folder / "published.csv").write_text(published, encoding="utf-8")
        for made in records:
            (folder / f"runs/{made['id']}.json").write_text(json.dumps(made))
        leaderboard.rebuild(folder)
        return rows(folder / "leaderboard.csv")

    return build


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_row_a_model_a_column_a_task(board, tmp_path):
    found = board(record("a"), record("a", "us8k", 0.625), record("b", "gtzan", 0.25))
    assert [row["model"] for row in found] == ["a", "b"]
    assert list(found[0])[:3] == ["protocol", "model", "source"]
    assert list(found[0])[3:] == ["esc50", "us8k", "gtzan", "average"]
    assert (found[0]["esc50"], found[0]["us8k"], found[0]["gtzan"]) == (
        "50.0 ± 1.2",
        "62.5 ± 1.2",
        "",
    )
    page = (tmp_path / "results/leaderboard.md").read_text(encoding="utf-8")
    assert "| a | 50.0 ± 1.2 | 62.5 ± 1.2 |  |  |" in page


@pytest.mark.parametrize("ids", ["0f", "f0"])
def test_the_newest_run_of_a_cell_counts(ids, board):
    old = record(mean=0.9, id=ids[0] * 16)
    new = record(mean=0.4, id=ids[1] * 16, finished="2025-06-01T00:00:00+00:00")
    assert [row["esc50"] for row in board(old, new)] == ["40.0 ± 1.2"]


NINE = protocol.get("linear").averaged


def tuned(of, *, chosen="holdout", valid=0, **more):
    settings = {"protocol": "finetune", "seeds": [43, 44, 45], "select": chosen}
    clips = {"valid": valid} if valid else {}
    return record("m2d", of, clips=clips, **settings, **more)


def test_a_fine_tuned_model_is_one_row_and_each_score_says_how_its_epoch_was_selected(board):
    """What a task's own settings ask of the model is no deviation, nor is its validation split."""
    options = {"flat": True, "chunk_frames": 501}
    of_task = {"model": {"options": options}, "config": {"options": options}}
    (row,) = board(tuned("esc50", **of_task), tuned("spcv2", chosen="valid", valid=9))
    assert row["model"] == "m2d"
    assert (row["esc50"], row["spcv2"]) == ("50.0 ± 1.2 (holdout)", "50.0 ± 1.2 (valid)")


@pytest.mark.parametrize(("chosen", "valid"), [("last", 0), ("last", 9), ("holdout", 9)])
def test_another_selection_than_usual_is_another_row(chosen, valid, board):
    rows = board(tuned("spcv2", chosen=chosen, valid=valid))
    assert rows[0]["model"] == f"m2d (select={chosen})"
    assert rows[0]["spcv2"].endswith(f"({chosen})")


def test_published_figures_that_an_oracle_chose_say_so(board):
    published = "protocol,model,task,score_percent,ci95,caveat\n"
    (row,) = board(published=published + "finetune,M2D/0.7,esc50,96.0,0.2,oracle\n")
    assert row["esc50"] == "96.0 ± 0.2 (oracle)"


OTHER_DATA = [{"manifest": 64 * "e"}, {"task": {"version": "2"}, "manifest": 64 * "e"}]


@pytest.mark.parametrize("other", OTHER_DATA, ids=["manifest", "version"])
def test_scores_on_other_clips_stand_in_another_column(other, board):
    """The newest data has the plain name."""
    old = record("a", mean=0.2, finished="2024-01-01T00:00:00+00:00", **other)
    rows = board(old, record("a", mean=0.1), record("b", mean=0.3))
    names = {"a": "20.0 ± 1.2", "b": ""}
    assert {row["model"]: row["esc50 [eeeeee]"] for row in rows} == names
    assert {row["model"]: row["esc50"] for row in rows} == {"a": "10.0 ± 1.2", "b": "30.0 ± 1.2"}


def test_scores_of_another_unit_length_stand_in_another_column(board):
    old = record(task={"seconds": 0.5}, mean=0.2, finished="2024-01-01T00:00:00+00:00")
    (row,) = board(old, record())
    assert (row["esc50"], row["esc50 (0.5 s)"]) == ("50.0 ± 1.2", "20.0 ± 1.2")


@pytest.mark.parametrize("usual", [5.0, 0.5])
def test_the_usual_unit_length_has_the_plain_name_even_where_another_is_newer(usual, board):
    old = record(task={"seconds": 0.5, "usual_seconds": usual}, mean=0.2)
    new = record(task={"usual_seconds": usual}, finished="2025-06-01T00:00:00+00:00")
    (row,) = board(old, new)
    plain, other = ("50.0 ± 1.2", "20.0 ± 1.2") if usual == 5.0 else ("20.0 ± 1.2", "50.0 ± 1.2")
    assert row["esc50"] == plain
    assert row["esc50 (0.5 s)" if usual == 5.0 else "esc50 (5 s)"] == other


def test_a_protocol_that_is_not_installed_has_a_table_without_an_average(board, tmp_path):
    found = board(record(protocol="elsewhere"))
    assert [(row["protocol"], row["esc50"]) for row in found] == [("elsewhere", "50.0 ± 1.2")]
    assert "## elsewhere" in (tmp_path / "results/leaderboard.md").read_text()


def test_scores_of_an_older_protocol_stand_in_another_row(board):
    rows = board(record(), record(of="us8k", mean=0.2, protocol_version=0))
    assert [(r["model"], r["esc50"], r["us8k"]) for r in rows] == [
        ("m", "50.0 ± 1.2", ""),
        ("m (protocol version 0)", "", "20.0 ± 1.2"),
    ]


def test_a_part_of_somebodys_own_set_is_other_data(board):
    """Of two CSVs of one name, neither hides the other, partial or not."""
    own = {"of": "sounds", "task": {"published": False}}
    part = {"clips": {"partial": "3 of 4 clips"}, "manifest": 64 * "e", "mean": 0.2}
    rows = board(record(**own), record(**own, **part, finished="2024-01-01T00:00:00+00:00"))
    shown = {row["model"]: (row["sounds"], row["sounds [eeeeee]"]) for row in rows}
    assert shown == {
        "m": ("50.0 ± 1.2", ""),
        "m (reduced set)": ("", "20.0 ± 1.2 (partial: 3 of 4 clips)"),
    }


def test_a_part_of_a_set_stays_in_its_column_and_says_so(board):
    rows = board(
        record("a", manifest=64 * "e", clips={"partial": "3 of 4 clips"}),
        record("b", mean=0.3, finished="2024-01-01T00:00:00+00:00"),
    )
    assert [row["esc50"] for row in rows] == ["50.0 ± 1.2 (partial: 3 of 4 clips)", "30.0 ± 1.2"]


def test_the_average_needs_all_nine_tasks(board):
    assert " ".join(NINE) == "esc50 us8k spcv2 vc1 voxforge cremad gtzan nsynth surge"
    scores = {task: (i + 1) / 10 for i, task in enumerate(NINE)}
    whole = [record("whole", task, mean) for task, mean in scores.items()]
    lacking = [record("lacking", task, mean) for task, mean in scores.items()][:-1]
    found = {row["model"]: row for row in board(*whole, *lacking, record("lacking", "demo"))}
    assert found["whole"]["average"] == "50.0"
    assert found["lacking"]["average"] == ""


@pytest.mark.parametrize(
    "clips", [{"partial": "3 of 4 clips"}, {"skipped": [{"clip": "a", "why": "b"}]}]
)
def test_an_average_over_a_reduced_set_says_so_or_is_not_shown(clips, board):
    reduced = [record(of=task, clips=clips if task == "vc1" else {}) for task in NINE]
    average = board(*reduced)[0]["average"]
    assert average == "" or "partial" in average or "skipped" in average


def test_the_average_of_other_protocols_is_left_open(board):
    found = board(*[record(of=task, protocol="other") for task in NINE])
    assert found[0]["average"] == ""


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({"settings": {"lr": 0.001}}, "m (lr=0.001)"),
        ({"settings": {"hidden": [512]}}, "m (hidden=[512])"),
        ({"settings": {"precision": "bf16"}}, "m (precision=bf16)"),
        ({"model": {"options": {"layer": 3}}}, "m (layer=3)"),
    ],
)
def test_other_settings_are_another_row(change, label, board):
    found = {row["model"]: row["esc50"] for row in board(record(), record(mean=0.9, **change))}
    assert found["m"] == "50.0 ± 1.2"
    assert found[label] == "90.0 ± 1.2"


def test_weights_of_one_name_are_told_apart(board):
    other = record(of="us8k", model={"weights": "abcdef0123456789"})
    found = board(record(), other)
    assert sorted(row["model"] for row in found) == ["m [abcdef]", "m [wwwwww]"]


def test_models_whose_captions_are_read_differently_are_told_apart(board):
    read_by = [{"protocol": "zeroshot", "settings": {"text": {"text_encoder": t}}} for t in "xy"]
    rows = board(record("a", mean=0.1, **read_by[0]), record("a", "us8k", **read_by[1]))
    assert len(rows) == 2
    assert all(row["model"].endswith("]") for row in rows)
    assert rows[0]["model"] != rows[1]["model"]


def test_adapters_of_one_name_are_told_apart(board):
    """Two users' files may hold a class of the same name."""
    other = record(of="us8k", model={"source": "abcdef0123456789"})
    assert len(board(record(), other)) == 2


def test_published_rows_stand_beside_ones_own_and_are_marked(board, tmp_path):
    published = "protocol,model,task,score_percent,ci95\nlinear,CED,esc50,89.0,0.3\n" + (
        "linear,CED,average,80.25,\nzeroshot,CLAP,esc50,75.45,\n"
    )
    found = board(record(), published=published)
    assert [(r["model"], r["source"], r["esc50"], r["average"]) for r in found] == [
        ("m", "run", "50.0 ± 1.2", ""),
        ("CED", "published", "89.0 ± 0.3", "80.25"),
        ("CLAP", "published", "75.45", ""),
    ]
    page = (tmp_path / "results/leaderboard.md").read_text(encoding="utf-8")
    assert "| CED *published* | 89.0 ± 0.3 | 80.25 |" in page
    assert "| m | 50.0 ± 1.2 |" in page
    assert page.index("## linear") < page.index("## zeroshot") < page.index("| CLAP")


def test_any_results_folder_has_the_published_rows(board):
    found = board(record(), published=None)
    ours = {r["model"]: r for r in found if r["protocol"] == "linear" and r["source"] != "run"}
    assert ours["M2D-CLAP/0.7"]["esc50"].startswith("96.3")
    assert ours["M2D-CLAP/0.7"]["average"].startswith("80.8")


@pytest.mark.parametrize(
    "content", ["a,b\n1,2\n", "protocol,model,task,score_percent,ci95\nlinear,x,esc50,much,\n"]
)
def test_a_wrong_table_of_published_figures_is_named(content, board):
    with pytest.raises(UserError, match=r"published\.csv"):
        board(published=content)


def test_tables_come_from_the_runs_alone(board, tmp_path):
    first, second = record("a"), record("b", "us8k")
    board(first, second)
    folder = tmp_path / "results"
    before = {p.name: p.read_bytes() for p in folder.glob("*.*") if p.is_file()}
    (folder / "scores.csv").write_text("nonsense")
    (folder / "leaderboard.csv").write_text("nonsense")
    (folder / "leaderboard.md").unlink()
    leaderboard.rebuild(folder)
    assert {p.name: p.read_bytes() for p in folder.glob("*.*") if p.is_file()} == before
    (folder / f"runs/{first['id']}.json").unlink()
    leaderboard.rebuild(folder)
    assert [row["model"] for row in rows(folder / "leaderboard.csv")] == ["b"]
    assert len(rows(folder / "scores.csv")) == 1


def test_scores_hold_every_run_with_both_intervals(board, tmp_path):
    single = record("a", mean=0.25, score={"ci95": None, "runs": 1})
    board(record("a"), single)
    found = {row["id"]: row for row in rows(tmp_path / "results/scores.csv")}
    row = found[single["id"]]
    assert (row["score_percent"], row["ci95"], row["runs"]) == ("25.0", "", "1")
    assert (row["test_low"], row["test_high"]) == ("40.0", "60.0")
    assert len(found) == 2


def test_an_empty_folder_has_empty_tables(command, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results/published.csv").write_text("protocol,model,task,score_percent,ci95\n")
    ran = command("leaderboard", f"--results={tmp_path / 'results'}")
    assert ran.code == 0
    assert "leaderboard.md" in ran.out


def test_bars_in_names_do_not_break_the_page(board, tmp_path):
    board(record("a|b", "c|d"))
    page = (tmp_path / "results/leaderboard.md").read_text()
    widths = {line.replace("\\|", "").count("|") for line in page.splitlines() if line[:1] == "|"}
    assert len(widths) == 1


def add_and_rebuild(folder, number):
    for i in range(10):
        made = record(f"model{number}-{i}")
        (Path(folder) / f"runs/{made['id']}.json").write_text(json.dumps(made))
        leaderboard.rebuild(folder)


def test_two_processes_rebuild_without_losing_a_row(board, tmp_path):
    board()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torchaudio", "pandas"])
    folder = tmp_path / "results"
    both = [context.Process(target=add_and_rebuild, args=(folder, number)) for number in (1, 2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert len(rows(folder / "leaderboard.csv")) == 20
    assert len(rows(folder / "scores.csv")) == 20
