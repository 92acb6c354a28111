"""A user's own CSV as a task."""

from dataclasses import replace
from unittest.mock import ANY

import pandas as pd
import pytest

from evar.data import clip_table, indexing, opening, own_sounds
from evar.errors import UserError


@pytest.fixture
def csv_file(tmp_path):
    def write(content, name="sounds.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(content.encode(encoding))
        return path

    return write


def rows(task):
    return task.read(task.bundled).to_dict("records")


def test_a_split(csv_file):
    task = own_sounds.task_from_csv(csv_file("file,label,split\na.wav,dog,train\nb.wav,cat,test\n"))
    assert (task.column, task.folds, task.metric, task.multi_label) == (
        "split",
        (),
        "accuracy",
        False,
    )
    assert rows(task) == [
        {"file": "a.wav", "label": "dog", "split": "train"},
        {"file": "b.wav", "label": "cat", "split": "test"},
    ]


def test_folds_and_groups(csv_file):
    content = "file,label,fold,group\na.wav,dog,2,g\nb.wav,cat,10,h\nc.wav,cat,one,i\n"
    task = own_sounds.task_from_csv(csv_file(content))
    assert task.column == "fold"
    assert set(task.folds) == {"2", "10", "one"}
    assert task.group


def test_a_comma_in_a_label_makes_it_multi_label(csv_file):
    content = 'file,label,split\na.wav,"dog,cat",train\nb.wav,cat,test\n'
    task = own_sounds.task_from_csv(csv_file(content))
    assert task.multi_label
    assert task.metric == "mAP"


@pytest.mark.parametrize("cell", ["dog,cat", "dog, cat", " dog ,cat ", "dog,cat,", "dog,,cat"])
def test_spaces_and_empty_parts_make_no_new_class(cell, csv_file):
    task = own_sounds.task_from_csv(csv_file(f'file,label,split\na.wav,"{cell}",train\n'))
    assert clip_table.label_set(task.read(task.bundled).label) == {"dog", "cat"}


@pytest.mark.parametrize("label", ["NA", "nan", "None", "null", "1", "01", "1.0", "True", "#x"])
def test_labels_are_words_as_written(label, csv_file):
    task = own_sounds.task_from_csv(csv_file(f"file,label,split\na.wav,{label},train\n"))
    assert rows(task)[0]["label"] == label


def test_what_spreadsheets_write(csv_file):
    """A byte-order mark, Windows line ends, quotes, columns in another order."""
    content = '\ufeffsplit,"label",file\r\ntrain,"dog","a b.wav"\r\n'
    task = own_sounds.task_from_csv(csv_file(content))
    assert rows(task) == [{"file": "a b.wav", "label": "dog", "split": "train"}]


BAD = {
    "no header": ("a.wav,dog,train\nb.wav,cat,test\n", "column"),
    "two separators": ("file;label,split\na.wav;dog,train\n", "sep="),
    "no label": ("file,split\na.wav,train\n", "file, label and split"),
    "neither": ("file,label\na.wav,dog\n", "split"),
    "split and fold": ("file,label,split,fold\na.wav,dog,train,1\n", "split"),
    "misspelt": ("file,lable,split\na.wav,dog,train\n", "did you mean label"),
    "twice": ("file,label,label,split\na.wav,dog,dog,train\n", "label"),
    "no rows": ("file,label,split\n", "no clips"),
    "nothing": ("", "not a CSV"),
    "a row too short": ("file,label,split\na.wav,dog,train\nb.wav,cat\n", "split"),
    "a row too long": ("file,label,split\na.wav,dog,train\nb.wav,cat,bird,test\n", "line"),
    "every row too long": ("file,label,split\na.wav,dog,cat,train\nb.wav,cat,bird,test\n", "line"),
    "open quote": ('file,label,split\na.wav,"dog,train\n', "not a CSV"),
    "another split": ("file,label,split\na.wav,dog,eval\n", "split other than train"),
    "no fold": ("file,label,fold\na.wav,dog,1\nb.wav,dog,2\nc.wav,dog,\n", "fold"),
    "no split": ("file,label,split\na.wav,dog,train\nc.wav,dog,\n", "split"),
    "one fold": ("file,label,fold\na.wav,dog,1\nb.wav,cat,1\n", "fold"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_wrong_table_is_named_with_its_reason(kind, csv_file, sound, tmp_path):
    content, reason = BAD[kind]
    for at, name in enumerate(("a.wav", "b.wav", "c.wav")):
        sound(tmp_path / name, seed=at)
    path = csv_file(content)
    with pytest.raises(UserError, match=reason) as error:
        indexing.build(own_sounds.task_from_csv(path), path.parent)
    assert "sounds" in str(error.value)


def test_a_sound_in_the_csvs_place(sound, tmp_path):
    path = sound(tmp_path / "sound.csv", format="WAV")
    with pytest.raises(UserError, match=r"sound\.csv"):
        own_sounds.task_from_csv(path)


def test_the_unit_is_the_longest_clip_at_most_ten_seconds(new_clips):
    made = new_clips()
    made.add("a.wav", "dog", "train", seconds=0.25)
    made.add("b.flac", "dog", "train", seconds=0.7, rate=44100)
    made.rows.append(["missing.wav", "dog", "train"])
    made.rows.append(["headerless.raw", "dog", "train"])
    (made.root / "headerless.raw").write_bytes(b"xx")
    for name, label, side in (("d.wav", "cat", "train"), ("e.wav", "dog", "test")):
        made.add(name, label, side, seconds=0.2)
    task = opening.open_task(made.csv).task
    assert task.seconds == pytest.approx(0.7, abs=0.002)
    assert task.unit_samples(44100) >= int(0.7 * 44100)
    assert opening.open_task(made.csv).task == replace(task, read=ANY)  # also from the saved one
    made.add("c.wav", "dog", "train", seconds=11, rate=8000)
    assert opening.open_task(made.csv).task.seconds == 10
    given = opening.open_task(made.csv, seconds=0.5)
    assert (given.task.seconds, given.usual_seconds()) == (0.5, 10)


def test_no_sound_file_is_opened_for_the_unit(new_clips, monkeypatch):
    made = new_clips()
    for i in range(4):
        made.add(f"{i}.wav", "ab"[i % 2], ("train", "test")[i // 2], seconds=0.1 * (i + 1))
    opening.open_task(made.csv)
    monkeypatch.setattr(indexing.audio, "read_header", None)
    assert opening.open_task(made.csv).task.seconds == pytest.approx(0.4, abs=0.002)


def test_a_csv_named_like_a_registered_task_is_not_that_task(csv_file):
    """Its scores must not appear in the leaderboard's column of the registered one."""
    path = csv_file("file,label,split\na.wav,dog,train\nb.wav,cat,test\n", name="esc50.csv")
    assert own_sounds.task_from_csv(path).name != "esc50"


def test_a_folders_name_may_be_no_utf_8():
    names = {own_sounds.manifest_name(f"{folder}/t.csv") for folder in ("d\udcff", "d\udcfe")}
    assert len(names) == 2


def test_manifests_of_csvs_of_one_name_do_not_meet(tmp_path):
    one, other = tmp_path / "a/x.csv", tmp_path / "b/x.csv"
    assert own_sounds.manifest_name(one) != own_sounds.manifest_name(other)
    assert own_sounds.manifest_name(one) == own_sounds.manifest_name(tmp_path / "b/../a/x.csv")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.csv", True), ("b/A.CSV", True), ("a.tsv", True), ("A.XLSX", True), ("esc50", False)]
    + [("csv", False), ("a.txt", False)],
)
def test_tasks_that_are_csvs(name, expected):
    assert own_sounds.is_csv(name) is expected


# --- names of files


@pytest.mark.parametrize(
    ("there", "cell"),
    [
        (" a.wav", " a.wav"),
        ("a.wav", " a.wav "),
        ("wav/a.wav", "wav\\a.wav"),
        ("caf\u00e9.wav", "cafe\u0301.wav"),
        ("cafe\u0301.wav", "caf\u00e9.wav"),
    ],
)
def test_names_that_are_hard_to_tell_apart_find_their_file(there, cell, csv_file, sound, tmp_path):
    sound(tmp_path / there)
    task = own_sounds.task_from_csv(csv_file(f"file,label,split\n{cell},dog,train\n"))
    assert rows(task)[0]["file"] == there
    captioned = own_sounds.captions_from_csv(csv_file(f"file,caption\n{cell},a dog\n", "c.csv"))
    assert captioned.read_captions(tmp_path).file.tolist() == [there]


def test_of_two_files_with_such_names_each_row_finds_its_own(csv_file, sound, tmp_path):
    content = "file,label,split\n"
    for name in ("a.wav", "caf\u00e9.wav", "cafe\u0301.wav"):
        sound(tmp_path / name)
        content += f"{name},dog,train\n"
    task = own_sounds.task_from_csv(csv_file(content))
    assert [row["file"] for row in rows(task)] == ["a.wav", "caf\u00e9.wav", "cafe\u0301.wav"]


@pytest.mark.parametrize("name", ["../x.wav", "/etc/passwd"])
def test_no_file_outside_the_folder_is_opened(name, csv_file):
    with pytest.raises(UserError, match="line 2: .* must lie inside"):
        own_sounds.task_from_csv(csv_file(f"file,label,split\n{name},dog,train\n"))


# --- recordings longer than the unit


def test_what_is_not_heard_of_long_recordings_is_counted(new_clips):
    made = new_clips()
    for i, seconds in enumerate([6.0, 6.0, 1.005, 0.5]):
        made.add(f"{i}.wav", ("a", "b")[i % 2], "train" if i < 2 else "test", seconds=seconds)
    manifest = indexing.build(own_sounds.task_from_csv(made.csv, seconds=1), made.root)
    unheard = manifest.unheard()
    assert (unheard.longer, unheard.clips, unheard.unit, unheard.longest) == (2, 4, 1, 6)
    assert unheard.share == pytest.approx((5 + 5 + 0.005) / 13.505, abs=1e-4)
    assert str(unheard) == (
        "2 of 4 clips are longer than the unit of 1 s: 74 % of the audio is not heard "
        "(--seconds=6 hears all; or cut them into clips)"
    )
    assert not indexing.build(own_sounds.task_from_csv(made.csv), made.root).unheard()


def test_prepare_says_what_is_not_heard(new_clips, command):
    made = new_clips()
    for i in range(4):
        made.add(f"{i}.wav", "ab"[i % 2], "train" if i < 2 else "test", seconds=20, rate=2000)
    ran = command("prepare", made.csv, "--quiet")
    assert (
        "4 of 4 clips are longer than the unit of 10 s: 50 % of the audio is not heard" in ran.out
    )


def test_a_table_in_the_folder_of_a_registered_task_is_not_that_task(sound, tmp_path):
    """Its scores would stand in that task's column."""
    path = str(sound("demo/a.wav"))
    table = pd.DataFrame({"file": [path], "label": ["x"], "split": ["test"]})
    assert own_sounds.task_from_table(table).name == "demo_table"


@pytest.mark.parametrize(
    "table", [3, None, ["a.wav"], pd.DataFrame(columns=["file", "label", "fold"])]
)
def test_what_is_no_table_of_clips_is_refused(table):
    with pytest.raises(UserError, match="no task|no clips"):
        own_sounds.task_from_table(table)


def test_no_folder_appears_among_the_recordings(clips, monkeypatch, tmp_path):
    monkeypatch.delenv("EVAR_DATA")
    monkeypatch.chdir(clips.root)
    path = clips.csv
    before = sorted(clips.root.rglob("*"))
    opening.open_task(path)
    assert sorted(clips.root.rglob("*")) == before
    assert len(list((tmp_path / "cache/manifests").glob("csv-sounds-*.json"))) == 1
    opening.open_task(path, data="here")
    assert (clips.root / "here/manifests").is_dir()


def test_hidden_files_of_a_folder_are_no_sounds(sound, tmp_path):
    for name in ("x/a.wav", "x/b/c.WAV"):
        sound(tmp_path / name, format="WAV")
    (tmp_path / "x/._a.wav").write_bytes(b"\0\5\x16\7")  # AppleDouble: macOS on other file systems
    assert opening.open_sounds(tmp_path / "x").table.file.tolist() == ["a.wav", "b/c.WAV"]
    assert opening.open_sounds(tmp_path / "x/b/c.WAV").table.file.tolist() == ["c.WAV"]
    (tmp_path / "y").mkdir()
    with pytest.raises(UserError, match="y: no sound files there"):
        opening.open_sounds(tmp_path / "y")
