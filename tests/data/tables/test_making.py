"""`evar table`: from a folder of recordings to a CSV that can be evaluated."""

import sys

import numpy as np
import pandas as pd
import pytest
import soundfile

from evar.data import opening


@pytest.fixture
def folder(sound, tmp_path):
    """Owls and foxes: 12 recordings each, of two names, and what else lies in such folders."""
    root = tmp_path / "my sounds"
    for i in range(12):
        for label, hertz in (("owl", 300), ("fox", 3000)):
            name = f"{label}/{'anna' if i < 6 else 'ben'}_{label}_{i:02}.wav"
            sound(root / name, hertz=hertz + 10 * i, seconds=0.2 + 0.05 * i, seed=i)
    (root / ".DS_Store").write_bytes(b"x")
    (root / "owl/notes.txt").write_text("x")
    return root


def table(path):
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def test_a_folder_of_classes(folder, command, simple, tmp_path):
    ran = command("table", folder, "--quiet")
    assert ran.code == 0
    for line in (
        "24 clips of 2 classes, 0.2 min",
        "rates: 16,000 Hz 24",
        "lengths: 0.20 to 0.75 s, median 0.47 s",
        "left out: hidden files or folders: 1",
        "left out: other files: 1 (.txt 1)",
        "split: 5 folds (24 clips, fewer than 200: folds test every clip once)",
        "advice: 24 test clips: expect about ±15 points",
        f"written: {tmp_path}/my sounds.csv",
    ):
        assert line in ran.out
    made = table(tmp_path / "my sounds.csv")
    assert list(made) == ["file", "label", "fold"]
    assert made.file[0] == "my sounds/fox/anna_fox_00.wav"
    scored = command("lineareval", simple, tmp_path / "my sounds.csv", "--seeds=1")
    assert scored.code == 0
    assert "24 test clips: expect about ±15 points" in scored.err


def test_the_split_is_fixed_from_then_on(folder, command, tmp_path):
    command("table", folder, "--quiet")
    before = (tmp_path / "my sounds.csv").read_bytes()
    ran = command("table", folder, "--quiet", "--seed=1")
    assert (ran.code, "its split is fixed" in ran.err) == (2, True)
    assert (tmp_path / "my sounds.csv").read_bytes() == before
    assert command("table", folder, "--quiet", "--seed=1", "--overwrite").code == 0
    assert (tmp_path / "my sounds.csv").read_bytes() != before
    command("table", folder, "--quiet", "--overwrite")
    assert (tmp_path / "my sounds.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("started", "how"), [("/x/evar/__main__.py", "python -m evar"), ("/bin/evar", "evar")]
)
def test_what_comes_next_is_said_as_the_command_was_started(
    started, how, folder, command, monkeypatch
):
    monkeypatch.setattr(sys, "argv", [started])
    ran = command("table", folder, "--quiet")
    line = f"next: {how} lineareval logmel '{folder.parent}/my sounds.csv'"
    assert ran.out.splitlines()[-1] == line


def test_where_the_csv_goes(folder, command, tmp_path):
    assert command("table", folder, "--quiet", f"--out={folder}/inside.csv").code == 0
    assert table(folder / "inside.csv").file[0] == "fox/anna_fox_00.wav"
    for place in (tmp_path / "other/x.csv", folder / "x.txt"):
        assert command("table", folder, "--quiet", f"--out={place}").code == 2


def test_groups_are_guessed_only_when_asked(folder, command, tmp_path):
    out = tmp_path / "my sounds.csv"
    ran = command("table", folder, "--quiet")
    assert "groups: none. 6 names begin with 'anna_fox'" in ran.out
    assert "group" not in table(out)
    ran = command("table", folder, "--quiet", "--overwrite", "--groups=guess")
    assert "groups: 4 (guessed from names: please check): anna_fox 6" in ran.out
    made = table(out)
    assert made.groupby("group").fold.nunique().max() == 1
    assert "24 test clips of 4 groups" in ran.out
    ran = command("table", folder, "--quiet", "--overwrite", "--pattern={group}_*")
    assert ran.code == 2  # anna_fox_00: anna, or anna_fox?
    assert "in two ways" in ran.err
    ran = command("table", folder, "--quiet", "--overwrite", "--pattern={group}_{label}_*.wav")
    assert table(out).group.unique().tolist() == ["anna", "ben"]
    assert "groups: 2 (as given): anna 12, ben 12" in ran.out
    assert "2 folds" in ran.out


def test_a_split_in_the_names_is_kept(sound, command, tmp_path):
    for i, side in enumerate(("Training", "val", "test")):
        for j, label in enumerate("ab"):
            sound(tmp_path / f"x/{side}/{label}/{i}{j}.wav", seed=10 * i + j)
    ran = command("table", tmp_path / "x", "--quiet", "--pattern={split}/{label}/*")
    assert table(tmp_path / "x.csv").split.value_counts().to_dict() == dict.fromkeys(
        ("train", "valid", "test"), 2
    )
    assert "that of the annotations or names" in ran.out


def test_what_cannot_be_heard_is_left_out(folder, sound, command, tmp_path):
    (folder / "owl/bad.wav").write_bytes(b"RIFF")
    sound(folder / "owl/mute.wav", samples=np.zeros(1600))
    samples, rate = soundfile.read(folder / "owl/anna_owl_00.wav")
    soundfile.write(folder / "owl/copy.flac", samples, rate)
    loud = np.clip(3 * np.sin(np.arange(3200) / 5), -1, 1)
    sound(folder / "fox/loud.wav", samples=loud)
    sound(folder / "loose.wav", seed=99)
    ran = command("table", folder, "--quiet")
    assert "left out: unreadable: 1 (owl/bad.wav: " in ran.out
    assert "left out: silent, every sample is zero: 1 (owl/mute.wav)" in ran.out
    assert "copies: the same sound as another file: 1 (owl/copy.flac is owl/anna_owl_00" in ran.out
    assert "left out: sounds in no subfolder: 1 (loose.wav)" in ran.out
    assert "clipping: 1 files have cut-off peaks (fox/loud.wav)" in ran.out
    assert len(opening.open_task(tmp_path / "my sounds.csv").good) == 25
    soundfile.write(folder / "fox/copy.flac", samples, rate)
    ran = command("table", folder, "--quiet", "--overwrite")
    assert ran.code == 2
    assert "are the same sound with different labels" in ran.err


def test_a_class_of_one_clip_can_be_left_out(folder, sound, command, tmp_path):
    sound(folder / "elk/a.wav", seed=50)
    assert "--without=elk" in command("table", folder, "--quiet").err
    ran = command("table", folder, "--quiet", "--without=elk")
    assert "left out: clips of classes that you left out: 1 (elk)" in ran.out
    assert set(table(tmp_path / "my sounds.csv").label) == {"owl", "fox"}


def test_annotations_of_long_recordings(sound, command, tmp_path):
    for i in range(4):
        sound(tmp_path / f"field/rec{i}.wav", seconds=6, seed=i)
        rows = ["0\t1.5\towl", "2\t3\tfox", "3.5\t4\t", "5\t6.05\towl", "5.5\t9\tfox"]
        (tmp_path / f"field/rec{i}.txt").write_text("\n".join(rows))
    sound(tmp_path / "field/nothing.wav", seed=9)
    field = tmp_path / "field"
    ran = command("table", field, "--quiet", f"--labels={field}")
    assert ran.code == 0
    assert "left out: intervals without a label: 4" in ran.out
    assert "left out: recordings without annotations: 1 (nothing.wav)" in ran.out
    assert "segments that end after their recording: 4 (rec0.wav at 5.5 s)" in ran.out
    assert "groups: 4 (one a recording)" in ran.out
    assert "other files" not in ran.out  # they were read
    made = table(tmp_path / "field.csv")
    assert list(made) == ["file", "start", "end", "label", "group", "fold"]
    assert made.iloc[:3, :4].to_numpy().tolist() == [
        ["field/rec0.wav", "0", "1.5", "owl"],
        ["field/rec0.wav", "2", "3", "fox"],
        ["field/rec0.wav", "5", "6", "owl"],
    ]
    assert made.groupby("group").fold.nunique().tolist() == [1] * 4
    good = opening.open_task(tmp_path / "field.csv").good
    assert (good.frames / good.sample_rate).tolist() == [1.5, 1, 1] * 4


def test_a_spreadsheet_of_labels(folder, command, tmp_path):
    rows = ["Datei;Art;Ort"] + [
        f"{path.name};{'Eule' if 'owl' in path.name else 'Füchsin'};Wald"
        for path in sorted(folder.rglob("*.wav"))
    ]
    (tmp_path / "labels.csv").write_bytes("\r\n".join(rows).encode("cp1252"))
    how = (f"--labels={tmp_path / 'labels.csv'}", "--quiet")
    assert "no column of labels" in command("table", folder, *how).err
    ran = command("table", folder, *how, "--column=label=Art,file=Datei")
    assert "understood: its encoding is read as Windows-1252" in ran.out
    assert "left aside: Ort" in ran.out
    content = (tmp_path / "my sounds.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbf")  # Excel needs it for the umlaut
    assert set(opening.open_task(tmp_path / "my sounds.csv").good.label) == {"Eule", "Füchsin"}


def test_tables_with_a_split_or_with_both(folder, command, tmp_path):
    rows = [
        (path.name, path.parent.name, "val" if i % 3 else "Training", i % 2)
        for i, path in enumerate(sorted(folder.rglob("*.wav")))
    ]
    frame = pd.DataFrame(rows, columns=["filename", "event_label", "subset", "fold"])
    frame.to_csv(tmp_path / "l.tsv", sep="\t", index=False)
    how = ("table", folder, "--quiet", f"--labels={tmp_path / 'l.tsv'}")
    assert "both splits and folds" in command(*how).err
    assert command(*how, "--folds=3").code == 0
    assert set(table(tmp_path / "my sounds.csv").fold) == {"1", "2", "3"}
    frame.drop(columns="fold").to_csv(tmp_path / "l.tsv", sep="\t", index=False)
    assert command(*how, "--overwrite").code == 0
    assert set(table(tmp_path / "my sounds.csv").split) == {"train", "valid"}


@pytest.mark.parametrize(
    ("more", "says"),
    [(["--groups=x"], "guess or folder"), (["--seed=-1"], "--seed"), (["--folds=0"], "--folds")]
    + [
        (["--groups=guess", "--pattern={label}_x*"], "fits no file"),
        (["--without=x"], "no clip has"),
    ]
    + [(["--labels=nowhere"], "no such file or folder"), (["--folds=13"], "--folds=12")],
)
def test_wrong_options_are_named(more, says, folder, command):
    ran = command("table", folder, "--quiet", *more)
    assert (ran.code, says in ran.err) == (2, True), ran.err


def test_a_folder_that_is_not_there(command, tmp_path):
    assert "no such folder" in command("table", tmp_path / "x").err
    (tmp_path / "x").mkdir()
    assert "no sound files there" in command("table", tmp_path / "x").err
