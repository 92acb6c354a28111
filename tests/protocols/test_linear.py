"""The main job from end to end: sounds and a model in, a line and a leaderboard out."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

LINE = (
    r"{model}  {task}  linear  {metric} (\d+\.\d) ± (\d+\.\d) % \(± over 3 seeds; [^()]*\)"
    r"(?:  \[.*\])?"  # caveats
)


def last_line(ran, **names):
    """(score, half width) of a run's summary, in percent."""
    assert ran.code == 0, ran.err
    found = re.fullmatch(LINE.format(**names), ran.out.splitlines()[-1])
    assert found, ran.out
    return float(found[1]), float(found[2])


def record_of(ran):
    path = re.search(r"results: (\S+\.json)", ran.out)[1]
    return json.loads(Path(path).read_text(encoding="utf-8"))


def test_the_demo_ends_with_a_score_above_chance(lineareval, tmp_path):
    ran = lineareval("logmel", "demo")
    score, half = last_line(ran, model="logmel", task="demo", metric="accuracy")
    assert score > 25  # the commonest of its classes is not
    assert half > 0
    record = record_of(ran)
    assert (record["clips"]["train"], record["clips"]["valid"], record["clips"]["test"]) == (
        171,
        42,
        73,
    )
    assert record["score"]["test_unit"] == "recording"
    low, high = record["score"]["test95"]
    assert low < record["score"]["mean"] < high
    for name in ("scores.csv", "leaderboard.csv", "leaderboard.md"):
        assert "logmel" in (tmp_path / "results" / name).read_text()


def test_progress_goes_to_standard_error_and_can_be_silenced(command, clips, simple):
    loud, quiet = (command("lineareval", simple, clips.csv, *q) for q in ([], ["--quiet"]))
    assert loud.out == quiet.out
    assert quiet.err == ""


@pytest.mark.parametrize("model", ["logmel", "mine"])
def test_two_classes_that_are_easy_score_a_hundred(model, clips, simple, lineareval):
    ran = lineareval(simple if model == "mine" else model, clips.csv, "--lr=0.05")
    score, half = last_line(
        ran, model="Simple" if model == "mine" else model, task=r"sounds\S*", metric="accuracy"
    )
    assert (score, half) == (100, 0)
    assert record_of(ran)["per_class"] == {"high": 1.0, "low": 1.0}


def test_several_labels_a_clip_give_map(several_labels, lineareval):
    ran = lineareval("logmel", several_labels.csv, "--lr=0.05")
    score, _ = last_line(ran, model="logmel", task=r"sounds\S*", metric="mAP")
    assert score > 95
    record = record_of(ran)
    assert set(record["per_class"]) == {"low", "middle", "high"}
    assert {"mAP", "roc_auc", "d_prime"} <= set(record["metrics"])
    assert record["undefined_classes"] == 0


def test_map_can_be_computed_again_from_what_is_written(
    several_labels, simple, lineareval, tmp_path
):
    from sklearn.metrics import average_precision_score

    record = record_of(lineareval(simple, several_labels.csv, "--epochs=2"))
    labels = {file: label.split(",") for file, label, _ in several_labels.rows}
    again = []
    for run in record["runs"]:
        path = tmp_path / f"results/runs/{record['id']}.scores-{run['seed']}.csv.gz"
        table = pd.read_csv(path).set_index("clip")
        assert list(table.columns) == ["fold", "high", "low", "middle"]
        scores = table.drop(columns="fold")
        truth = np.array([[name in labels[file] for name in scores] for file in table.index])
        again.append(average_precision_score(truth, scores, average="macro"))
        assert run["folds"][0]["score"] == pytest.approx(again[-1], abs=1e-12)
    assert 0.5 < np.mean(again) < 0.99
    assert record["score"]["mean"] == pytest.approx(np.mean(again), abs=1e-12)


WITH_WEIGHTS = """
import torch
from evar import Adapter
from evar.weights import load_checkpoint, load_strict


class Net(Adapter):
    sample_rate, embed_dim = 16000, 4

    def __init__(self, weights=None, bands: int = 4):
        super().__init__(weights)
        self.embed_dim = bands
        self.net = torch.nn.Linear(100, bands + 0)
        if weights is not None:
            load_strict(self.net, load_checkpoint(weights), weights)

    def embed(self, audio):
        if self.embed_dim == 7:
            raise RuntimeError("seven bands are too many")
        return self.net(audio[:, :100])
"""


def test_a_row_says_which_weights_it_had(clips, new_adapter, lineareval, tmp_path):
    import torch

    torch.save(torch.nn.Linear(100, 4).state_dict(), tmp_path / "mine.pt")
    model = new_adapter(WITH_WEIGHTS, "Net")
    assert "note: no --weights given" in lineareval(model, clips.csv).out
    for given in ("random", tmp_path / "mine.pt"):
        assert "no --weights given" not in lineareval(model, clips.csv, f"--weights={given}").out
    board = (tmp_path / "results/leaderboard.md").read_text()
    assert "| Net (weights=random)" in board
    assert "| Net (weights=mine.pt)" in board


def test_what_goes_wrong_in_an_adapter_is_one_line_that_names_the_place(
    clips, new_adapter, lineareval, refused
):
    model = new_adapter(WITH_WEIGHTS, "Net")
    refused(
        lineareval(model, clips.csv, "--bands=-1"),
        "Net cannot be built",
        "RuntimeError",
        "mine.py:13",
    )
    refused(lineareval(model, clips.csv, "--bands=abc"), "--bands=abc: must be a whole number")
    refused(lineareval(model, clips.csv, "--bands=7"), "Net.embed()", "seven bands", "mine.py:19")
    source = "import evar\n\n\nclass Empty(evar.Adapter):\n    sample_rate = embed_dim = 99"
    empty = new_adapter(source, "Empty")
    refused(lineareval(empty, clips.csv), "no features()")


def test_a_comma_in_a_label_is_said(new_clips, simple, lineareval):
    made = new_clips()
    for side in ("train", "test"):
        for i, label in enumerate(("dog", "rain", "dog,rain")):
            made.add(f"{side}{i}.wav", label, side, hertz=300 * (i + 1))
    assert "several labels per clip" in lineareval(simple, made.csv).out


def test_folds_are_each_the_test_set_once(clips, lineareval, tmp_path):
    clips.columns[2] = "fold"
    for i, row in enumerate(clips.rows):
        row[2] = str(1 + i // 2 % 3)
    ran = lineareval("logmel", clips.csv, "--lr=0.05")
    assert last_line(ran, model="logmel", task=r"sounds\S*", metric="accuracy")[0] == 100
    record = record_of(ran)
    assert [fold["fold"] for fold in record["runs"][0]["folds"]] == ["1", "2", "3"]
    assert {k: record["clips"][k] for k in "123"} == {"1": 8, "2": 8, "3": 8}
    means = [np.mean([fold["score"] for fold in run["folds"]]) for run in record["runs"]]
    assert record["score"]["mean"] == pytest.approx(np.mean(means))
    table = pd.read_csv(tmp_path / f"results/runs/{record['id']}.predictions.csv.gz")
    assert len(table) == 24 * 3
    assert (table.groupby("seed").clip.nunique() == 24).all()


def test_clips_longer_than_the_unit_are_cropped_on_both_sides_of_folds(new_clips, lineareval):
    made = new_clips(columns=("file", "label", "fold"))
    for i in range(12):
        label = ("low", "high")[i % 2]
        hertz = {"low": 300, "high": 4000}[label] + i
        made.add(f"{i}.flac", label, str(i // 4), hertz=hertz, seconds=1.0, rate=22050)
    ran = lineareval("logmel", made.csv, "--seconds=0.25", "--lr=0.05")
    assert last_line(ran, model="logmel", task=r"sounds\S*", metric="accuracy")[0] == 100


def test_a_group_makes_the_interval_one_over_groups(clips, simple, lineareval):
    clips.columns.append("group")
    for row in clips.rows:
        row.append(f"{row[2]} {row[0][-5]}")
    ran = lineareval(simple, clips.csv)
    assert "groups" in ran.out
    assert record_of(ran)["score"]["test_unit"] == "group"


def test_without_a_validation_split_a_part_is_held_out(clips, simple, lineareval):
    for row in clips.rows:
        row[2] = "train" if row[2] == "valid" else row[2]
    fold = record_of(lineareval(simple, clips.csv))["runs"][0]["folds"][0]
    assert "tenth" in fold["held_out"]


def test_hidden_layers_make_a_multilayer_probe(clips, simple, lineareval, tmp_path):
    ran = lineareval(simple, clips.csv, "--hidden=(16,)")
    assert record_of(ran)["settings"]["hidden"] == [16]
    assert "Simple (hidden=[16])" in (tmp_path / "results/leaderboard.md").read_text()


def test_a_rate_that_diverges_is_no_score(clips, simple, lineareval, refused):
    refused(lineareval(simple, clips.csv, "--lr=1e38"), "--lr")


def test_a_class_in_no_test_clip_is_counted_as_undefined(clips, simple, lineareval):
    for i in range(3):
        clips.add(f"extra{i}.wav", "rare", "train", hertz=1000)
    record = record_of(lineareval(simple, clips.csv))
    assert record["per_class"]["rare"] is None
    assert record["undefined_classes"] == 1


def test_scores_are_the_same_from_any_folder(clips, simple, lineareval, tmp_path, monkeypatch):
    first = record_of(lineareval(simple, clips.csv))
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    monkeypatch.setenv("EVAR_CACHE", str(tmp_path / "other cache"))
    second = record_of(lineareval(simple, clips.csv))
    assert (first["id"], first["score"]) == (second["id"], second["score"])


def test_a_grid_of_rates_gives_the_bits_of_single_runs_and_validation_chooses(clips, simple):
    import evar
    from evar.probing import rates

    for row in clips.rows[::5]:
        row[1] = "low"
    options = {"device": "cpu", "seeds": 2, "epochs": 40}
    run = evar.evaluate(simple, clips.csv, lr="auto", **options)
    alone = {rate: evar.evaluate(simple, clips.csv, lr=rate, **options) for rate in rates.RATES}
    chosen = set()
    for number, of_run in enumerate(run.record.runs):
        (fold,) = of_run["folds"]
        single = {f"{r:g}": a.record.runs[number]["folds"][0] for r, a in alone.items()}
        assert fold["valid_by_lr"] == {name: one["valid_score"] for name, one in single.items()}
        best = max(fold["valid_by_lr"].values())
        assert fold["lr"] == min(float(n) for n, v in fold["valid_by_lr"].items() if v == best)
        seed = of_run["seed"]
        ours, theirs = (r.predictions[r.predictions.seed == seed] for r in (run, alone[fold["lr"]]))
        assert ours.score.to_list() == theirs.score.to_list()
        chosen.add(fold["lr"])
    assert "lr" not in alone[rates.RATES[0]].record.runs[0]["folds"][0]


def test_a_rate_that_is_none_is_refused(clips, simple, lineareval, refused):
    refused(lineareval(simple, clips.csv, "--lr=automatic"), "--lr", "auto")
