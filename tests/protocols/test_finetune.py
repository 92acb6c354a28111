"""Fine-tuning from end to end: the same score however often it is interrupted, and by how many."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import filelock
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import evar
from evar import models
from evar.data import manifests, own_sounds
from evar.errors import BadAudio, UserError
from evar.finetuning import optim
from evar.finetuning.settings import resolve
from evar.protocols import finetune
from evar.runtime import Runtime, Training

ROOT = Path(evar.__file__).resolve().parent.parent
NET = f"{Path(__file__).parent.parent / 'helpers' / 'finetune_net.py'}:Net"
SHORT = {"epochs": 3, "batch_size": 5, "lr": 0.01, "warmup": 1, "layer_decay": 0.9}


@pytest.fixture
def tune(clips, tmp_path):
    """A function that fine-tunes the small network on the tones of `clips`, in this process."""

    def call(folder="tuned", *, select="auto", seeds=(43,), net=None, rows=None, on=(), **more):
        given = SHORT | {k: v for k, v in more.items() if k in SHORT or k in _SETTINGS}
        more = {k: v for k, v in more.items() if k not in given}
        if rows is not None:
            clips.rows = rows
        task = own_sounds.task_from_csv(clips.csv)
        manifest = manifests.open_task(task, tmp_path / "data", source=clips.root, name="sounds")
        loaded = models.load(net or NET)
        settings = resolve({**given, "select": select}, loaded, manifest)
        skip_bad = more.pop("skip_bad", False)
        training = Training(folder=tmp_path / folder, **more)
        runtime = Runtime(skip_bad=skip_bad, training=training)
        return finetune.evaluate(loaded, manifest, settings, seeds, runtime)

    return call


_SETTINGS = (
    "optimizer", "mixup", "freeze", "balanced", "epoch_clips", "ema", "early_stop", "rrc",
    "clip_grad", "accumulate", "precision",
)  # fmt: skip


def same(first, second):
    """Whether two evaluations have equal scores, curves and predictions, to the bit."""
    pd.testing.assert_frame_equal(first.predictions, second.predictions, check_exact=True)
    curves = [[f["curve"] for r in e.runs for f in r["folds"]] for e in (first, second)]
    assert curves[0] == curves[1]
    assert first.score == second.score


def fold_of(evaluation, run=0, fold=0):
    return evaluation.runs[run]["folds"][fold]


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(("at", "net"), [(2, "Net"), (4, "Net"), (8, "Net"), (11, "Moody")])
def test_a_run_interrupted_anywhere_goes_on_to_the_same_result(tune, at, net):
    """The 4th and 8th report come between an epoch's last step and its checkpoint."""
    more = {"ema": 0.9, "optimizer": "sgd", "rrc": True, "net": NET.replace("Net", net)}
    whole = tune("whole", **more)
    reports = []

    def stop(report):
        reports.append(report)
        if len(reports) == at:
            raise Interrupted

    with pytest.raises(Interrupted):
        tune("cut", on_step=stop, **more)
    after = []
    same(tune("cut", on_step=after.append, **more), whole)
    assert after[0].epoch == 1 + (at - 1) // 4  # the epochs before it were not trained again


def test_a_killed_process_goes_on_to_the_same_result(clips, command, tmp_path):
    arguments = [NET, clips.csv, "--seeds=1", *(f"--{k}={v}" for k, v in SHORT.items())]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "EVAR_TEST_DIE": "7"}
    line = [sys.executable, ROOT / "finetune.py", *arguments, "--quiet", "--results=killed"]
    done = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done
    assert list(tmp_path.glob("killed/finetune/*/*/state.pt"))
    assert not list(tmp_path.glob("killed/runs/*"))
    found = []
    for results in ("killed", "whole"):
        ran = command("finetune", *arguments, "--quiet", f"--results={results}")
        assert ran.code == 0, ran.err
        record = json.loads(next(Path(results).glob("runs/*.json")).read_text())
        table = pd.read_csv(f"{results}/runs/{record['id']}.predictions.csv.gz")
        found.append((record["id"], record["score"], record["runs"][0]["folds"][0]["curve"], table))
    assert found[0][:3] == found[1][:3]
    pd.testing.assert_frame_equal(found[0][3], found[1][3], check_exact=True)
    assert "finetune" in (tmp_path / "whole/leaderboard.md").read_text()


def test_two_processes_have_the_loss_curve_of_one(clips, command, tmp_path):
    options = [clips.csv, "--dropout=0", "--seeds=1", "--rrc=True", "--mixup=0.3", "--quiet"]
    options += [f"--{k}={v}" for k, v in SHORT.items()]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in ("0", "1"):  # what torchrun does
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2", "RANK": rank}
        environment |= {"LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        line = [sys.executable, ROOT / "finetune.py", NET, *options, "--results=two"]
        started.append(subprocess.Popen(line, env=environment, cwd=tmp_path))
    assert command("finetune", NET, *options, "--results=one").code == 0
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    found = [next(tmp_path.glob(f"{name}/runs/*.json")) for name in ("one", "two")]
    records = [json.loads(path.read_text()) for path in found]
    one, two = ([e["loss"] for e in r["runs"][0]["folds"][0]["curve"]] for r in records)
    assert len(set(one)) == 3
    np.testing.assert_allclose(two, one, rtol=1e-5)
    assert records[0]["score"] == records[1]["score"]


def test_what_has_ended_is_not_trained_again_unless_asked_for(tune):
    first = tune()
    reports = []
    same(tune(on_step=reports.append), first)
    assert not reports
    same(tune(on_step=reports.append, resume=False), first)
    assert len(reports) == 3 * 4


def test_another_seed_or_setting_is_another_run(tune):
    curves = [fold_of(tune(**more))["curve"] for more in ({}, {"seeds": (44,)}, {"mixup": 0.0})]
    assert curves[0] != curves[1]
    assert curves[0] != curves[2]
    both = tune(seeds=(43, 44))
    assert [fold_of(both, run)["curve"] for run in (0, 1)] == curves[:2]


def test_another_unit_length_is_another_run(clips, command, tmp_path):
    options = [clips.csv, "--quiet", "--seeds=1", "--epochs=1"]
    for seconds in ("0.2", "0.05"):
        assert command("finetune", NET, *options, f"--seconds={seconds}").code == 0
    assert len(list(tmp_path.glob("results/finetune/*/seed-43-fold-1/done.json"))) == 2


def test_a_run_that_was_cut_short_is_not_scored(tune):
    def stop(report):
        if report.epoch == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        tune(on_step=stop)
    with pytest.raises(UserError, match="no run that has ended"):
        tune(eval_only=True)


def test_one_training_clip_is_too_few(tune, clips):
    rows = [clips.listed(name) for name in ("train/low0.wav", "train/high0.wav", "test/low0.wav")]
    with pytest.raises(UserError, match="no class has a training clip to spare.*--select=last"):
        tune(rows=rows)


def test_an_outcome_is_kept_though_another_process_forgets_it(tune, tmp_path):
    def forget(report):
        if report.job.seed == 44:
            for path in tmp_path.glob("tuned/*/seed-43-fold-1/done.json"):
                path.unlink()

    assert len(tune(seeds=(43, 44), on_step=forget).runs) == 2


def test_the_rate_rises_and_falls_by_step_and_begins_with_two_steps_at_zero(tune):
    rates = []
    tune(on_step=lambda r: rates.append(r.lr) if r.valid is None else None)
    steps = 3
    times = [0, *(i / steps for i in range(3 * steps - 1))]  # set after each step
    expected = [optim.learning_rate(t, lr=0.01, warmup=1, epochs=3) for t in times]
    assert rates == expected
    assert rates[:2] == [0, 0]
    assert rates[2] == pytest.approx(0.01 / 3)


def test_the_adapter_itself_stays_as_it_was(clips, tmp_path):
    loaded = models.load(NET)
    adapter = loaded.adapter
    before = {k: v.clone() for k, v in adapter.state_dict().items()}
    task = own_sounds.task_from_csv(clips.csv)
    manifest = manifests.open_task(task, tmp_path / "data", source=clips.root)
    settings = resolve(SHORT, loaded, manifest)
    random = torch.get_rng_state()
    runtime = Runtime(training=Training(folder=tmp_path))
    finetune.evaluate(loaded, manifest, settings, (43,), runtime)
    assert all(v.equal(before[k]) for k, v in adapter.state_dict().items())
    assert not any(p.requires_grad for p in adapter.parameters())
    assert torch.get_rng_state().equal(random)


def test_easy_tones_are_learnt(tune):
    evaluation = tune(epochs=15, seeds=(43, 44))
    assert evaluation.score.mean == 1
    assert evaluation.score.runs == 2
    assert set(evaluation.predictions.columns) >= {"clip", "seed", "true", "predicted", "score"}
    assert evaluation.predictions.score.between(0.5, 1).all()


@pytest.mark.parametrize(
    ("select", "how"),
    [
        ("auto", "valid split"),
        ("holdout", "stratified tenth"),
        ("last", "none"),
        ("oracle", "test set"),
    ],
)
def test_the_epoch_is_chosen_as_the_record_says(tune, select, how):
    evaluation = tune(select=select)
    fold = fold_of(evaluation)
    chosen = select.replace("auto", "valid")
    assert evaluation.extra["select"] == evaluation.settings["select"] == chosen
    assert fold["held_out"] == how
    scores = [epoch["valid"] for epoch in fold["curve"]]
    if select == "last":
        assert scores == [None] * 3
        assert fold["best_epoch"] == 3
    else:
        assert fold["best_epoch"] == 1 + int(np.argmax(scores))  # the first of equal ones
        assert fold["valid_score"] == max(scores)
    if select == "oracle":
        assert fold["score"] == max(scores)


def test_an_oracle_is_called_one_wherever_its_score_appears(clips, command, tmp_path):
    ran = command(
        "finetune", NET, clips.csv, "--quiet", "--select=oracle", "--epochs=1", "--seeds=1"
    )
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[-1].endswith("[oracle]")
    board = (tmp_path / "results/leaderboard.md").read_text()
    assert "(oracle)" in board
    ran = command("finetune", NET, clips.csv, "--select=oracle", "--epochs=1", "--seeds=44")
    assert "oracle_test=" in ran.err
    assert "valid=" not in ran.err
    assert "reduced set" not in board


def test_what_a_setting_asks_of_the_model_is_no_deviation_of_its_own(clips, command, tmp_path):
    tiny = ["--weights=random", "--width=24", "--depth=1", "--heads=2"]
    options = ["--patchout=0.5", "--epochs=1", "--seeds=1", "--batch_size=12", "--quiet", *tiny]
    ran = command("finetune", "m2d", clips.csv, *options)
    assert ran.code == 0, ran.err
    record = json.loads(next(tmp_path.glob("results/runs/*.json")).read_text())
    assert record["model"]["options"]["flat"]
    board = (tmp_path / "results/leaderboard.md").read_text()
    assert "patchout=0.5" in board
    assert "flat=" not in board


def test_held_out_groups_are_not_trained_on(tune, clips):
    clips.columns.append("group")
    rows = [[*row, f"{row[2]} {row[0][-5]}"] for row in clips.rows if row[2] != "valid"]
    assert fold_of(tune(rows=rows))["held_out"] == "tenth of the groups"


def test_each_fold_is_the_test_set_once(tune, clips):
    clips.columns[2] = "fold"
    rows = [[*row[:2], str(1 + i // 2 % 3)] for i, row in enumerate(clips.rows)]
    evaluation = tune(rows=rows)
    assert [f["fold"] for f in evaluation.runs[0]["folds"]] == ["1", "2", "3"]
    assert evaluation.predictions["clip"].nunique() == len(evaluation.predictions) == 24
    means = np.mean([f["score"] for f in evaluation.runs[0]["folds"]])
    assert evaluation.score.mean == pytest.approx(means)


def test_a_fold_that_another_process_trains_is_left_to_it(tune, clips, tmp_path):
    clips.columns[2] = "fold"
    rows = [[*row[:2], str(1 + i // 2 % 2)] for i, row in enumerate(clips.rows)]
    tune(rows=rows)
    folder = next(tmp_path.glob("tuned/*/seed-43-fold-1"))
    for path in [*folder.parent.glob("*/done.json"), *folder.parent.glob("*/state.pt")]:
        path.unlink()
    lock, order = filelock.FileLock(folder / ".train.lock", thread_local=False), []
    lock.acquire()

    def watch(report):
        order.append(report.job.fold.name)
        if order.count("2") == 1:
            threading.Timer(0.2, lock.release).start()

    tune(rows=rows, on_step=watch)
    assert sorted(order, reverse=True) == order
    assert set(order) == {"1", "2"}


def test_several_labels_a_clip_give_map(tune, clips, several_labels):
    clips.rows = several_labels.rows[:36]
    evaluation = tune(epochs=30, balanced=True, epoch_clips=20)
    assert evaluation.score.metric == "mAP"
    assert evaluation.score.mean > 0.8
    assert {"mAP", "d_prime"} <= set(evaluation.metrics)
    assert [len(table) for table in evaluation.tables.values()] == [12] * len(evaluation.runs)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_epoch(tune, tmp_path):
    more = {"optimizer": "sgd", "lr": 1e6, "epochs": 8, "mixup": 0.0}
    with pytest.raises(UserError, match=r"not finite.*epoch \d+.*--lr"):
        tune(**more)
    (path,) = tmp_path.glob("tuned/*/*/state.pt")
    state = torch.load(path, weights_only=True)
    assert all(torch.isfinite(v).all() for v in state["model"].values())


def test_training_stops_early_after_epochs_without_a_better_one(tune):
    fold = fold_of(tune(epochs=40, early_stop=3))
    assert fold["epochs"] == min(40, fold["best_epoch"] + 3) < 40


def test_kept_weights_give_the_score_again_without_training(clips, command, tmp_path):
    options = ["--quiet", "--epochs=2", "--seeds=1"]
    refused = command("finetune", NET, clips.csv, *options, "--eval_only")
    assert refused.code == 2
    assert "Train first" in refused.err
    records = []
    for more in ([], ["--eval_only"]):
        ran = command("finetune", NET, clips.csv, *options, *more)
        assert ran.code == 0, ran.err
        records.append(json.loads(Path(re.search(r"results: (\S+json)", ran.out)[1]).read_text()))
    assert records[0]["score"] == records[1]["score"]
    assert records[0]["id"] == records[1]["id"]
    place = next((tmp_path / "results/finetune").glob("*/seed-43-fold-1"))
    assert sorted(p.name for p in place.iterdir() if not p.name.startswith(".")) == [
        "best.safetensors",
        "done.json",
        "logits.npy",
    ]


def test_weights_are_exported_by_the_adapters_names(tune, tmp_path):
    tune()
    with safe_open(next(tmp_path.glob("tuned/*/*/best.safetensors")), "pt") as file:
        assert {"stem.weight", "blocks.0.0.bias", "evar_head.linear.weight"} <= set(file.keys())
        about = json.loads(file.metadata()["evar"])
    assert about["classes"] == ["high", "low"]
    assert about["settings"]["epochs"] == 3


def test_a_moving_average_is_what_is_scored(tune):
    slow, plain = tune(ema=0.999999, epochs=5), tune(epochs=5)
    assert fold_of(slow)["curve"][-1]["loss"] == fold_of(plain)["curve"][-1]["loss"]
    assert slow.predictions.score.max() < plain.predictions.score.max()  # hardly moved


def test_a_batch_in_parts_trains_as_well(tune):
    parts, whole = tune(accumulate=2, epochs=15), tune(epochs=15)
    assert parts.score.mean == 1
    assert fold_of(parts)["curve"] != fold_of(whole)["curve"]  # the head normalises over a part


def test_only_the_head_moves_where_the_encoder_is_frozen(tune, tmp_path):
    tune(freeze="encoder")
    kept = load_file(next(tmp_path.glob("tuned/*/*/best.safetensors")))
    adapter = models.load(NET).adapter
    for name, tensor in adapter.state_dict().items():
        assert name.startswith("unused") or kept[name].equal(tensor)
    assert kept["evar_head.linear.weight"].abs().max() > 0


FITTED = """
import torch
from evar import Adapter

class Fitted(Adapter):
    sample_rate, embed_dim, fit_clips = 16000, 2, 6

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 2)

    def fit(self, batches):
        levels = torch.cat([b.square().mean(dim=1) for b in batches])
        assert len(levels) == 6
        return {"level": float(levels.mean())}

    def fitted(self, statistics):
        self.level = statistics["level"]

    def embed(self, audio):
        return self.linear(audio.square().mean(dim=1, keepdim=True) / self.level)
"""


def test_adapters_that_learn_statistics_are_fitted_to_training_clips(
    clips, new_adapter, command, tmp_path
):
    for name, label in (("loud", "low"), ("other", "high")):
        clips.add(f"{name}.wav", label, "test", samples=np.full(3200, 0.9))
    model = new_adapter(FITTED, "Fitted")
    ran = command("finetune", model, clips.csv, "--quiet", "--epochs=2", "--seeds=1")
    assert ran.code == 0, ran.err
    with safe_open(next(tmp_path.glob("results/finetune/*/*/best.safetensors")), "pt") as file:
        level = json.loads(file.metadata()["fit"])["level"]
    assert level == pytest.approx(0.045, rel=0.1)  # tones of 0.3, without the loud clips


def test_a_clip_that_does_not_decode_stops_the_run_before_it_is_trained(tune, clips):
    path = clips.root / clips.rows[0][0]
    tune(epochs=2)
    content = bytearray(path.read_bytes())
    content[44:] = b"\0" * (len(content) - 44)
    path.write_bytes(content)
    reports = []
    with pytest.raises(BadAudio, match=f"{path.name}.*silent"):
        tune(on_step=reports.append)
    assert not reports
    evaluation = tune(skip_bad=True)
    assert [c["clip"] for c in evaluation.clips["skipped"]] == [clips.rows[0][0]]


def test_a_clip_that_was_mended_is_in_again(tune, tmp_path):
    tune(epochs=2)
    (path,) = tmp_path.glob("tuned/bad-clips-*.json")
    assert json.loads(path.read_text()) == {}
    path.write_text('{"0": "an error of an earlier day"}')
    assert tune(epochs=2, skip_bad=True).clips["skipped"] == []
    assert json.loads(path.read_text()) == {}


def test_settings_are_in_the_result(tune):
    evaluation = tune()
    assert evaluation.settings["optimizer"] == "adamw"
    assert evaluation.seeds == (43,)


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ("--mixupp=1", "--mixup"),
        ("--lr=0", "--lr"),
        ("--select=best", "select"),
        ("--freeze=99", "4 layers"),
        ("--freeze=None", "did you mean none"),
        ("--batch_size=0", "--batch_size"),
        ("--seeds=0", "--seeds"),
        ("--optimizer=adam", "adamw"),
    ],
)
def test_mistakes_are_one_line(option, word, clips, command, refused):
    refused(command("finetune", NET, clips.csv, "--quiet", option), word)


def test_scalars_are_written_for_tensorboard(clips, command, tmp_path):
    pytest.importorskip("tensorboard")
    ran = command("finetune", NET, clips.csv, "--quiet", "--epochs=1", "--seeds=1", "--tensorboard")
    assert ran.code == 0, ran.err
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = next(tmp_path.glob("results/finetune/*/seed-43-fold-1/tensorboard"))
    events = EventAccumulator(str(folder)).Reload()
    assert set(events.Tags()["scalars"]) == {"loss", "lr", "valid"}
    assert len(events.Scalars("valid")) == 1


def test_progress_tells_loss_rate_and_score(clips, command):
    ran = command("finetune", NET, clips.csv, "--epochs=1", "--seeds=1")
    assert ran.code == 0
    for word in ("loss=", "lr=", "valid=", "seed 43"):
        assert word in ran.err


def test_settings_have_no_field_that_help_does_not_explain(command):
    ran = command("finetune", "--help")
    from evar.finetuning.settings import NAMES

    for name in NAMES:
        assert f"--{name}" in ran.out
