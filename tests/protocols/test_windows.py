"""Recordings scored by windows: trained on windows, scored and counted by recordings."""

import re

import numpy as np
import pandas as pd
import pytest
import soundfile
from sklearn.linear_model import LogisticRegression

import evar
from evar.data import opening
from evar.embedding import embeddings
from evar.errors import UserError
from evar.probing import prepared
from evar.runtime import Runtime
from evar.task import Windows
from helpers import memory

RATE = 16_000


def recording(path, label, *, seconds, seed):
    """Writes noise in which a tone sounds in the last quarter only."""
    draws = np.random.default_rng(seed)
    samples = 0.05 * draws.standard_normal(round(seconds * RATE))
    last = len(samples) // 4
    time = np.arange(last) / RATE
    samples[-last:] += 0.3 * np.sin(2 * np.pi * (300 if label == "low" else 3000) * time)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE)


@pytest.fixture
def csv(tmp_path):
    rows, folder = ["file,label,split"], tmp_path / "sounds"
    for split, count in (("train", 6), ("test", 4)):
        for i in range(count):
            for label in ("low", "high"):
                name = f"{split}-{label}{i}.wav"
                recording(folder / name, label, seconds=4 + 0.3 * i, seed=len(rows))
                rows.append(f"{name},{label},{split}")
    path = folder / "mine.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_windows_hear_what_the_first_unit_misses(csv, tmp_path):
    how = {"device": "cpu", "seeds": 2, "cache": tmp_path / "cache", "data": None}
    first = evar.evaluate("logmel", csv, seconds=1, **how)
    whole = evar.evaluate("logmel", csv, windows=Windows(1, 0.5, "max"), **how)
    assert whole.score > first.score + 0.2
    assert first.record.unheard
    assert not whole.record.unheard
    assert whole.record.id != first.record.id
    assert whole.record.request != first.record.request


@pytest.mark.parametrize("protocol", ["linear", "knn"])
def test_predictions_and_statistics_count_recordings(protocol, csv, tmp_path):
    how = {"device": "cpu", "cache": None, "data": None, "windows": Windows(1, 0.5)}
    seeds = {} if protocol == "knn" else {"seeds": 2}
    run = evar.evaluate("logmel", csv, protocol, **how, **seeds)
    assert len(run.predictions) == 8 * (1 if protocol == "knn" else 2)
    assert run.record.score.test_clips == 8
    assert run.record.clips.sides == {"train": 12, "test": 8}
    assert run.record.settings["windows"] == {"seconds": 1.0, "hop": 0.5, "pool": "mean"}
    assert run.record.variant == {
        "windows": 1.0,
        "hop": 0.5,
        "pool": "mean",
        **({"seeds": [42, 43]} if seeds else {}),
    }


def test_every_choice_is_another_run(csv, tmp_path):
    how = {"device": "cpu", "seeds": 1, "cache": tmp_path / "cache", "data": None}
    chosen = [Windows(1), Windows(1, 0.5), Windows(1, 0.5, "max"), Windows(2)]
    runs = [evar.evaluate("logmel", csv, windows=each, **how).record for each in chosen]
    assert len({run.id for run in runs}) == len({run.request for run in runs}) == len(chosen)


def test_a_window_is_embedded_as_the_same_audio_in_a_file(csv, tmp_path, simple):
    from evar import models

    manifest = opening.open_task(csv, windows=Windows(1, 0.5))
    model, runtime = models.load(simple), Runtime()
    embedded = embeddings.embed_task(model, manifest, runtime)
    samples, _ = soundfile.read(csv.parent / manifest.table.file[3], dtype="int16")
    cut = tmp_path / "cut"
    cut.mkdir()
    rows = []
    for number in range(5):
        first = number * RATE // 2
        soundfile.write(cut / f"{number}.wav", samples[first : first + RATE], RATE)
        rows.append({"file": str(cut / f"{number}.wav"), "label": "x", "split": "test"})
    plain = opening.open_task(pd.DataFrame(rows), seconds=1)
    of_files = embeddings.embed_task(model, plain, runtime)
    mine = np.flatnonzero(embedded.owner == 3)[:5]
    np.testing.assert_array_equal(embedded.values[mine], of_files.values[of_files.first])


def test_a_recording_is_held_out_with_all_of_its_windows(csv, tmp_path):
    from evar.probing import draws, probe

    recordings = np.repeat(np.arange(20), 7)
    y = np.repeat(np.arange(20) % 2, 7)
    job = probe.Job(np.arange(140), None, np.arange(2), 42, recordings=recordings)
    drawn = draws.Draws(job, y, 200)
    held = set(recordings[drawn.valid])
    assert len(held) == 2
    assert not held & set(recordings[drawn.train.numpy()])
    assert len(drawn.valid) == 14
    assert drawn.held_out == "random tenth of the recordings"


def test_scores_are_those_of_the_windows_averaged(csv, tmp_path):
    """Against logistic regression and averaging by hand: the same top labels."""
    from evar import models

    manifest = opening.open_task(csv, windows=Windows(1, 0.5))
    task = prepared.prepare(
        manifest, lambda: embeddings.embed_task(models.load("logmel"), manifest, Runtime())
    )
    sides, x, owner = task.sides[0], task.embedded.values, task.embedded.owner
    fitted = LogisticRegression(max_iter=2000).fit(x[sides.train], task.of_views[sides.train])
    of_windows = fitted.predict_proba(x[sides.test]).astype(float)
    by_hand = [of_windows[owner[sides.test] == clip].mean(axis=0) for clip in task.folds[0].test]
    np.testing.assert_allclose(task.pooled(0, of_windows), by_hand)


@pytest.mark.parametrize("protocol", ["fewshot", "hear", "attentive", "layers", "finetune"])
def test_other_protocols_refuse_windows_in_one_line(protocol, csv):
    with pytest.raises(UserError, match=rf"{protocol} does not score recordings by windows"):
        evar.evaluate("logmel", csv, protocol, windows=1)


def test_their_command_lines_say_so(csv, command):
    done = command("fewshot", "logmel", str(csv), "--windows=1")
    assert done.code == 2
    assert "fewshot does not score recordings by windows" in done.err
    assert len(done.err.splitlines()) == 1


def test_registered_tasks_have_a_published_unit():
    with pytest.raises(UserError, match="--windows is for CSV tasks"):
        evar.evaluate("logmel", "demo", windows=1)


def test_the_command_line(csv, lineareval):
    ran = lineareval("logmel", str(csv), "--windows=1", "--hop=0.5", "--pool=max", "--seeds=2")
    assert ran.code == 0, ran.err
    assert "[max over windows of 1 s, every 0.5 s]" in ran.out.splitlines()[-1]
    assert "is not heard" not in ran.out
    alone = lineareval("logmel", str(csv), "--hop=0.5")
    assert (alone.code, alone.err) == (
        2,
        "error: --hop is of --windows=SECONDS, which is not given\n",
    )
    both = lineareval("logmel", str(csv), "--windows=1", "--seconds=2")
    assert re.search("leave --seconds out", both.err)


_LONG = """
import sys
import evar

run = evar.evaluate(
    sys.argv[1] + ":Simple", sys.argv[2], windows=10, seeds=1, device="cpu",
    cache=None,
)
print(run.score, len(run.predictions), peak())
"""


@memory.linux
def test_three_hours_are_scored_in_flat_memory(tmp_path, new_adapter):
    """Peak memory of three hours against that of three minutes, each in a process of its own."""
    adapter = new_adapter().rpartition(":")[0]
    peaks = []
    for minutes in (3, 180):
        folder = tmp_path / f"{minutes}"
        folder.mkdir()
        rows = ["file,label,split"]
        for split, take in (("train", 1), ("train", 2), ("test", 3)):
            for label, hertz in (("low", 200), ("high", 1500)):
                name = f"{label}{take}.wav"
                long = minutes if name == "low3.wav" else 3
                minute = 0.3 * np.sin(2 * np.pi * hertz * np.arange(60 * 4000) / 4000)
                with soundfile.SoundFile(folder / name, "w", 4000, 1, "PCM_16") as file:
                    for number in range(long):
                        file.write(minute * (0.5 + 0.1 * (number % 3) + 0.01 * take))
                rows.append(f"{name},{label},{split}")
        (folder / "mine.csv").write_text("\n".join(rows) + "\n")
        score, count, peak = memory.said(_LONG, adapter, folder / "mine.csv")
        assert (float(score), int(count)) == (1.0, 2)
        peaks.append(int(peak) / 1024)  # MiB
    whole = 180 * 60 * 16_000 * 4 / 2**20  # MiB of the decoded samples
    assert peaks[1] - peaks[0] < 0.25 * whole, (peaks, whole)
