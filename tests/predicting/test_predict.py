"""From a run to scores of new recordings, as the command line does it."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

import evar
from evar import models
from evar.data.tables import annotations
from evar.data.tables.annotations import Wishes
from evar.data.tables.recordings import Recordings
from evar.errors import UserError
from evar.predicting import labels, scoring
from evar.predicting import model as of_run
from evar.probing import kept
from evar.results import record
from evar.runtime import Runtime
from evar.task import Windows

RATE = 16_000


@pytest.fixture
def folded(new_clips):
    made = new_clips(columns=("file", "label", "fold"))
    for fold in "123":
        for i in range(4):
            for label, hertz in (("low", 300), ("high", 3000)):
                made.add(f"{fold}{label}{i}.wav", label, fold, hertz=hertz + 40 * i)
    return made


def ran(csv, folder, model="logmel", **how):
    """Evaluates and saves; returns the run."""
    made = evar.evaluate(model, str(csv), device="cpu", cache=None, **how)
    made.save(folder / "results")
    return made


def predicted(run, sounds, results, by=None, **how):
    loaded, _ = of_run.load(run.record, **how)
    probes = of_run.probes_of(run.record, results)
    runtime = Runtime()
    return scoring.predict(
        loaded, scoring.open_sounds(sounds, by, run.record, runtime), probes, runtime
    )


def test_scores_of_a_runs_own_test_clips_are_its_predictions_bit_for_bit(clips, tmp_path):
    run = ran(clips.csv, tmp_path, seeds=3)
    found = predicted(run, clips.root / "test", tmp_path / "results")
    assert set(found.of_probes) == {(seed, "test") for seed in (42, 43, 44)}
    for (seed, _), scores in found.of_probes.items():
        expected = run.predictions[run.predictions.seed == seed]
        assert expected["clip"].tolist() == [f"test/{c}" for c in found.manifest.clips]
        assert scores.max(axis=1).tobytes() == expected.score.to_numpy(np.float32).tobytes()
        names = np.array(found.classes)[scores.argmax(axis=1)]
        assert names.tolist() == expected.predicted.tolist()
    np.testing.assert_allclose(found.scores, sum(found.of_probes.values()) / 3, rtol=1e-6)


def test_scores_of_folds_are_those_of_the_fold_that_tested_a_clip(folded, tmp_path):
    run = ran(folded.csv, tmp_path, seeds=2)
    for fold in "123":
        part = tmp_path / fold
        part.mkdir()
        for path in folded.root.glob(f"{fold}*.wav"):
            shutil.copy(path, part)
        found = predicted(run, part, tmp_path / "results")
        assert len(found.of_probes) == 6
        for seed in (42, 43):
            chosen = (run.predictions.fold == fold) & (run.predictions.seed == seed)
            # logmel is fitted to all clips in cross-validation, so nothing but the probe differs
            expected = run.predictions[chosen].score.to_numpy(np.float32)
            assert found.of_probes[seed, fold].max(axis=1).tobytes() == expected.tobytes()


def test_scores_of_several_labels(several_labels, tmp_path):
    run = ran(several_labels.csv, tmp_path, seeds=1)
    part = tmp_path / "part"
    part.mkdir()
    for name in run.predictions["clip"]:
        shutil.copy(several_labels.root / name, part)
    found = predicted(run, part, tmp_path / "results")
    table = run.tables["scores-42"]
    expected = table[list(found.classes)].to_numpy(np.float32)
    assert found.of_probes[42, "test"].tobytes() == expected.tobytes()
    assert found.multi_label


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_a_run_by_windows_hears_new_recordings_by_windows(pool, clips, tmp_path):
    run = ran(clips.csv, tmp_path, seeds=1, windows=Windows(0.1, 0.05, pool))
    found = predicted(run, clips.root / "test", tmp_path / "results")
    expected = run.predictions.score.to_numpy(np.float32)
    assert found.of_probes[42, "test"].max(axis=1).tobytes() == expected.tobytes()
    assert len(found.rows) == len(expected)


def long_recording(path, *, tones=(300, 3000, 300, 3000)):
    time = np.arange(RATE) / RATE
    parts = [0.3 * np.sin(2 * np.pi * hertz * time) for hertz in tones]
    noise = 0.01 * np.random.default_rng(0).standard_normal(len(tones) * RATE)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.concatenate(parts) + noise, RATE)
    return path


def test_a_stream_of_windows_has_a_row_for_each(clips, tmp_path):
    run = ran(clips.csv, tmp_path, seeds=2)
    path = long_recording(tmp_path / "field" / "night.flac")
    found = predicted(run, path.parent, tmp_path / "results", Windows(0.5))
    table = found.table()
    assert table.file.tolist() == ["night.flac"] * 8
    assert table.start.tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5]
    assert table.end.tolist() == [0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]
    assert table.predicted.tolist() == ["low", "low", "high", "high"] * 2
    one = predicted(run, path, tmp_path / "results")
    assert one.table().columns.tolist() == ["file", "predicted", "score", "high", "low"]


def test_a_window_scores_as_the_same_audio_in_a_file(clips, tmp_path, simple):
    run = ran(clips.csv, tmp_path, simple, seeds=1, seconds=0.2)
    path = long_recording(tmp_path / "field" / "night.wav")
    found = predicted(run, path, tmp_path / "results", Windows(0.2, 0.1))
    samples, _ = soundfile.read(path, dtype="int16")
    cut = tmp_path / "cut"
    cut.mkdir()
    for number in range(len(found.rows)):
        first = number * RATE // 10
        soundfile.write(cut / f"{number:02}.wav", samples[first : first + RATE // 5], RATE)
    of_files = predicted(run, cut, tmp_path / "results")
    np.testing.assert_array_equal(found.scores, of_files.scores)


def test_another_models_weights_are_refused(clips, tmp_path, new_adapter):
    source = """
import torch
from evar import Adapter

class Heavy(Adapter):
    sample_rate = 16000
    embed_dim = 2
    lr = 0.05

    def __init__(self, weights=None):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        if weights:
            self.gain.data.copy_(torch.load(weights, weights_only=True))

    def embed(self, audio):
        crossings = (audio[:, 1:].sign() != audio[:, :-1].sign()).float().mean(dim=1)
        return crossings[:, None] * self.gain
"""
    import torch

    name = new_adapter(source, "Heavy", "heavy.py")
    for number in (1, 2):
        torch.save(torch.tensor([1.0, 1.0 + number]), tmp_path / f"{number}.pt")
    run = ran(clips.csv, tmp_path, name, weights=str(tmp_path / "1.pt"), seeds=1)
    of_run.load(run.record)  # from where the run had them
    copy = shutil.copy(tmp_path / "1.pt", tmp_path / "copy.pt")
    of_run.load(run.record, weights=str(copy))
    with pytest.raises(UserError, match=r"not the model of run \w{8}: its weights differ"):
        of_run.load(run.record, weights=str(tmp_path / "2.pt"))


def test_another_model_is_refused_and_another_version_of_its_code_noted(
    clips, tmp_path, new_adapter, simple
):
    run = ran(clips.csv, tmp_path, simple, seeds=1)
    with pytest.raises(UserError, match="not the model of run"):
        of_run.load(run.record, model="logmel")
    file = Path(simple.rpartition(":")[0])
    file.write_text(file.read_text() + "\n\ndef unused():\n    return 1\n")
    _, notes = of_run.load(run.record, model=simple)
    assert notes == [] or "source of Simple changed" in notes[0]


def test_other_options_are_refused_and_the_runs_own_are_taken(clips, tmp_path, new_adapter):
    source = """
from evar import Adapter

class Loud(Adapter):
    sample_rate = 16000
    embed_dim = 1
    lr = 0.05

    def __init__(self, gain=1.0):
        super().__init__()
        self.gain = gain

    def embed(self, audio):
        audio = self.gain * audio  # changes no sign, and so no embedding
        return (audio[:, 1:].sign() != audio[:, :-1].sign()).float().mean(dim=1)[:, None]
"""
    run = ran(clips.csv, tmp_path, new_adapter(source, "Loud", "loud.py"), seeds=1, gain=3.0)
    loaded, notes = of_run.load(run.record)
    assert loaded.adapter.gain == 3.0
    assert notes == []
    of_default = replace(run.record, model=replace(run.record.model, options={}))
    with pytest.raises(UserError, match=r"not the model of run \w{8}: its \w+ differ"):
        of_run.load(of_default)


def test_runs_without_probes_are_named_in_one_line(clips, tmp_path):
    run = ran(clips.csv, tmp_path, seeds=1)
    path = tmp_path / "results" / "runs" / f"{run.record.id}.{kept.SUFFIX}"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="not the probes of a run"):
        of_run.probes_of(run.record, tmp_path / "results")
    path.unlink()
    with pytest.raises(UserError, match=r"was made before probes were kept.*again\.$"):
        of_run.probes_of(run.record, tmp_path / "results")
    other = ran(clips.csv, tmp_path, protocol="knn")
    with pytest.raises(UserError, match="only linear evaluation keeps what it trained"):
        of_run.probes_of(other.record, tmp_path / "results")


def test_probes_are_small_written_once_and_no_part_of_the_identity(clips, tmp_path):
    run = ran(clips.csv, tmp_path, seeds=2)
    path = tmp_path / "results" / "runs" / f"{run.record.id}.{kept.SUFFIX}"
    before = path.read_bytes()
    assert len(before) < 20_000
    again = ran(clips.csv, tmp_path, seeds=2)
    assert again.record.id == run.record.id
    assert path.read_bytes() == before
    assert "files" not in json.loads((path.parent / f"{run.record.id}.json").read_text())
    assert record.load_runs(tmp_path / "results")[1] == []


def test_labels_for_raven_and_audacity_come_back_as_tables(clips, tmp_path):
    run = ran(clips.csv, tmp_path, seeds=1)
    long_recording(tmp_path / "field" / "far" / "night.wav")
    found = predicted(run, tmp_path / "field", tmp_path / "results", Windows(1))
    of_files = labels.found(found, 0.0)
    [raven] = labels.write_raven(of_files, tmp_path / "raven")
    [audacity] = labels.write_audacity(of_files, tmp_path / "audacity")
    assert raven == tmp_path / "raven/far/night.wav.selections.txt"
    lines = [line.split("\t") for line in raven.read_text().splitlines()]
    assert lines[0][3:5] == ["Begin Time (s)", "End Time (s)"]
    assert [line[3:5] + line[7:9] for line in lines[1:3]] == [
        ["0.000000", "1.000000", "night.wav", "low"],
        ["1.000000", "2.000000", "night.wav", "high"],
    ]
    assert lines[1][6] == "8000.0"
    assert audacity.read_text().splitlines()[0] == "0.000000\t1.000000\tlow"
    assert labels.found(found, 1.1) == {"far/night.wav": []}
    recordings = Recordings(tmp_path / "field", ["far/night.wav"])
    for folder in ("raven", "audacity"):
        read = annotations.read_annotations(
            tmp_path / folder,
            recordings,
            Wishes({"label": "Annotation"} if folder == "raven" else {}),
        )
        assert read.frame.file.tolist() == ["far/night.wav"] * 4
        assert read.frame.start.tolist() == [0, 1, 2, 3]
        assert read.frame.end.tolist() == [1, 2, 3, 4]
        assert read.frame.label.tolist() == ["low", "high"] * 2


def test_labels_of_recordings_that_differ_only_in_their_ending(clips, tmp_path):
    run = ran(clips.csv, tmp_path, seeds=1)
    field = tmp_path / "field"
    long_recording(field / "night.wav")
    long_recording(field / "night.flac", tones=(3000,))
    found = labels.found(predicted(run, field, tmp_path / "results", Windows(1)), 0.0)
    labels.write_audacity(found, tmp_path / "audacity")
    recordings = Recordings(field, ["night.wav", "night.flac"])
    read = annotations.read_annotations(tmp_path / "audacity", recordings).frame
    assert read[read.file == "night.wav"].label.tolist() == ["low", "high"] * 2
    assert read[read.file == "night.flac"].label.tolist() == ["high"]


def test_labels_that_are_there_are_replaced_only_on_demand(clips, tmp_path, command, simple):
    run = ran(clips.csv, tmp_path, simple, seeds=1)
    long_recording(tmp_path / "field" / "night.wav")
    words = ("predict", run.record.id, "field", "--windows=1", "--audio=none", "--quiet")
    corrected = tmp_path / "found" / "night.txt"
    corrected.parent.mkdir()
    corrected.write_text("by hand")
    refused = command(*words, "--audacity=found")
    assert refused.code == 2
    assert "--overwrite" in refused.err
    assert corrected.read_text() == "by hand"
    of_csv = command(*words, f"--out={clips.csv}")
    assert of_csv.code == 2
    assert Path(clips.csv).read_text().startswith("file,label")
    done = command(*words, "--audacity=found", "--threshold=0", "--overwrite")
    assert done.code == 0, done.err
    assert corrected.read_text().count("\n") == 4


def test_the_current_folder_has_a_name(clips, tmp_path, command, simple, monkeypatch):
    run = ran(clips.csv, tmp_path, simple, seeds=1)
    long_recording(tmp_path / "field" / "night.wav")
    monkeypatch.chdir(tmp_path / "field")
    done = command(
        "predict", run.record.id, ".", f"--results={tmp_path}/results", "--audio=none", "--quiet"
    )
    assert done.code == 0, done.err
    [out] = (tmp_path / "results/predictions").glob("*.csv")
    assert re.fullmatch(rf"{run.record.id[:8]}-field-\w{{6}}.csv", out.name)


def test_recordings_of_one_name_do_not_replace_each_others_scores(clips, tmp_path, command, simple):
    run = ran(clips.csv, tmp_path, seeds=1)
    low = long_recording(tmp_path / "north" / "night.wav", tones=(300,))
    high = long_recording(tmp_path / "south" / "night.wav", tones=(3000,))
    for sounds in (low, high, low, "north/night.wav"):
        done = command("predict", run.record.id, sounds, "--audio=none", "--quiet")
        assert done.code == 0, done.err
    done = command("predict", run.record.id, low, "--windows=0.5", "--audio=none", "--quiet")
    assert done.code == 0, done.err
    tables = [pd.read_csv(p) for p in (tmp_path / "results/predictions").glob("*.csv")]
    heard = sorted((len(table), table.predicted[0]) for table in tables)
    assert heard == [(1, "high"), (1, "low"), (2, "low")]
    assert len(list((tmp_path / "results/predictions").glob("*.html"))) == 3


def test_a_page_that_is_there_is_replaced_only_when_asked(clips, tmp_path, command, simple):
    run = ran(clips.csv, tmp_path, simple, seeds=1)
    (tmp_path / "mine.html").write_text("mine")
    words = ("predict", run.record.id, clips.root / "test", "--out=mine.csv", "--quiet")
    assert "mine.html is there" in command(*words).err
    assert (tmp_path / "mine.html").read_text() == "mine"


def test_the_command_line(clips, tmp_path, command, lineareval):
    done = lineareval("logmel", clips.csv, "--seeds=2", "--quiet")
    assert done.code == 0, done.err
    run_id = re.search(r"runs/(\w{16})\.json", done.out)[1]
    long_recording(tmp_path / "field" / "night.wav")
    (tmp_path / "field" / "<b>&.wav").write_bytes((tmp_path / "field/night.wav").read_bytes())
    told = command(
        "predict", run_id[:8], "field", "--windows=1", "--hop=0.5", "--raven=labels", "--quiet"
    )
    assert told.code == 0, told.err
    out = tmp_path / "results" / "predictions"
    [path] = out.glob("*.csv")
    table = pd.read_csv(path)
    assert len(table) == 2 * 7
    assert "scores are the mean of 2 probes (2 seeds)" in told.out
    page = path.with_suffix(".html").read_text()
    assert "<b>&.wav" not in page
    assert "&lt;b&gt;&amp;.wav#t=0,1" in page
    assert "default-src &#39;none&#39;" in page
    assert (tmp_path / "labels" / "night.wav.selections.txt").is_file()
    assert sorted(p.name for p in (tmp_path / "field").iterdir()) == ["<b>&.wav", "night.wav"]
    by_name = command("predict", "logmel", Path(clips.csv).stem, "field", "--quiet")
    assert by_name.code == 0, by_name.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--hop=1",), "--hop is of --windows=SECONDS, which is not given"),
        (("--audio=loud",), "--audio=loud: not one of embed, link, none"),
        (("--threshold=x",), "--threshold must be a number"),
        (("--out=page.html",), "the name of a CSV ends in .csv"),
    ],
)
def test_wrong_options_are_named(options, said, clips, tmp_path, command, simple):
    run = ran(clips.csv, tmp_path, simple, seeds=1)
    done = command("predict", run.record.id, str(clips.root), *options)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 1


def test_recordings_that_cannot_be_decoded_are_named_or_left_out(clips, tmp_path, command, simple):
    run = ran(clips.csv, tmp_path, simple, seeds=1)
    long_recording(tmp_path / "field" / "night.wav")
    (tmp_path / "field" / "bad.wav").write_bytes(b"RIFF" + bytes(100))
    refused = command("predict", run.record.id, "field", "--windows=1", "--quiet")
    assert refused.code == 2
    assert "bad.wav" in refused.err
    done = command("predict", run.record.id, "field", "--windows=1", "--quiet", "--skip_bad")
    assert done.code == 0, done.err
    assert "left out: bad.wav" in done.out


def test_models_that_learn_from_training_clips_keep_what_they_learnt(clips, tmp_path):
    run = ran(clips.csv, tmp_path, seeds=1)
    probes = of_run.probes_of(run.record, tmp_path / "results")
    assert probes.statistics
    loaded = models.load("logmel")
    before = loaded.adapter.fit_clips
    assert before
    predicted(run, clips.root / "test" / "low0.wav", tmp_path / "results")
    assert models.load("logmel").adapter.fit_clips == before
