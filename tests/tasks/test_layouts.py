"""Copies of data sets as people have them: both layouts of an archive, old names, odd files."""

import hashlib
import json

import pytest

from evar import task as tasks
from evar.data import clip_table, indexing
from evar.errors import UserError
from evar.tasks import gtzan as gtzan_file
from evar.tasks import surge as surge_file
from helpers import miniatures
from helpers.miniatures import sound, table


def read(name, root):
    """The checked table of a copy, by file."""
    task = tasks.get(name)
    return clip_table.check_table(task, task.read(root)).set_index("file")


@pytest.mark.parametrize("layout", ["wav", "dev/wav test/wav", "vox1_dev/wav vox1_test/wav"])
def test_voxceleb_in_one_folder_or_two(layout, tmp_path):
    dev, test = (layout.split() * 2)[:2]
    places = {"id10001": dev, "id10270": test}
    lines = []
    for speaker, place in places.items():
        for i, side in enumerate((1, 2, 3)):
            sound(tmp_path / place / speaker / f"x/{i:05d}.wav", 16000)
            lines.append(f"{side} {speaker}/x/{i:05d}.wav")
    lines.append("1 id10002/x/00001.wav")  # a speaker who is missing altogether
    (tmp_path / "iden_split.txt").write_text("\n".join(lines) + "\n")
    found = indexing.build(tasks.get("vc1"), tmp_path)
    assert found.missing.file.tolist() == ["wav/id10002/x/00001.wav"]
    assert found.counts() == {"train": 2, "valid": 2, "test": 2}
    assert set(found.good.label) == set(places)


@pytest.mark.parametrize("endings", [("au",), ("wav",), ("au", "wav")])
def test_gtzan_as_au_or_wav(endings, tmp_path):
    for names in gtzan_file.lists().values():
        for i, name in enumerate(names):
            genre = name.partition(".")[0]
            (tmp_path / genre).mkdir(exist_ok=True)
            (tmp_path / genre / f"{name}.{endings[i % len(endings)]}").touch()
    (tmp_path / "jazz" / f"jazz.00054.{endings[0]}").unlink(missing_ok=True)
    (tmp_path / "jazz" / "jazz.00054.wav").unlink(missing_ok=True)
    found = read("gtzan", tmp_path)
    assert found.split.value_counts().to_dict() == {"train": 443, "test": 290, "valid": 197}
    absent = [file for file in found.index if not (tmp_path / file).exists()]
    assert absent == [f"jazz/jazz.00054.{endings[0]}"]  # named, not dropped


def test_gtzan_lists_must_be_the_published_ones(monkeypatch):
    from torchaudio.datasets import gtzan

    monkeypatch.setattr(gtzan, "filtered_test", gtzan.filtered_test[1:])
    with pytest.raises(UserError, match="test list is not the published one"):
        gtzan_file.lists()


def test_cremad_of_before_october_2022(tmp_path):
    """One of the four excluded recordings then had another name."""
    for name in ("1040_ITH_SAD_X", "1040_ITH_SAD_XX", "1040_ITH_ANG_XX", "1001_IEO_ANG_HI"):
        sound(tmp_path / f"AudioWAV/{name}.wav", 16000)
    assert set(read("cremad", tmp_path).index) == {
        "AudioWAV/1040_ITH_ANG_XX.wav",
        "AudioWAV/1001_IEO_ANG_HI.wav",
    }


def test_cremad_clips_that_are_listed_but_missing_are_named(tmp_path):
    names = [f"{a}_DFA_{e}_XX" for a in (1002, 1009, 1001) for e in ("ANG", "SAD")]
    for name in names[:-1]:
        sound(tmp_path / f"AudioWAV/{name}.wav", 16000)
    rows = list(enumerate([*names, "1006_TIE_NEU_XX"], 1))
    table(tmp_path / "SentenceFilenames.csv", ["Stimulus_Number", "Filename"], rows)
    found = indexing.build(tasks.get("cremad"), tmp_path)
    assert found.missing.file.tolist() == ["AudioWAV/1001_DFA_SAD_XX.wav"]
    assert len(found.good) == 5


def test_surge_notes_that_are_missing_are_named(tmp_path, monkeypatch):
    tones = ["bass velocity64", "lead velocity64", "pad velocity64"]
    digest = hashlib.sha256("\n".join(tones).encode()).hexdigest()
    monkeypatch.setattr(surge_file, "NAMES", digest)
    monkeypatch.setattr(surge_file, "VALID", (1,))
    monkeypatch.setattr(surge_file, "TEST", (2,))
    for tone in tones:
        (tmp_path / "surge" / tone).mkdir(parents=True)
        for note in range(21, 109):
            (tmp_path / "surge" / tone / f"{note}.ogg").touch()
    (tmp_path / "surge" / tones[1] / "60.ogg").unlink()
    found = read("surge", tmp_path)
    assert found.split.value_counts().to_dict() == {"train": 88, "valid": 88, "test": 88}
    assert found.label.nunique() == 88
    assert found.loc["surge/lead velocity64/60.ogg", "group"] == "lead velocity64"


def test_audioset_folders_of_all_shapes(tmp_path):
    """Flat or nested, with a start time or without; only clips of the folder's own list count."""
    head = "# a\n# b\n# YTID, start_seconds, end_seconds, positive_labels\n"
    lists = {
        "balanced_train_segments": ["-aaaaaaaaa_", "bbbbbbbbbbb", "ccccccccccc", "ddddddddddd"],
        "eval_segments": ["eeeeeeeeeee"],
    }
    for name, ids in lists.items():
        lines = [f'{ytid}, 30.000, 40.000, "/m/b,/m/a"\n' for ytid in ids]
        (tmp_path / f"{name}.csv").write_text(head + "".join(lines))
    here = tmp_path / "balanced_train_segments"
    sound(here / "-aaaaaaaaa__30.000.wav", 48000)
    sound(here / "00/1/bbbbbbbbbbb.flac", 44100)
    sound(here / "00/1/bbbbbbbbbbb.wav", 44100)  # a second file of one clip
    sound(here / "eeeeeeeeeee.wav", 44100)  # a clip of another list
    (here / "ddddddddddd.WAV").touch()  # what a failed download leaves
    (here / "notes on ccccccccccc.txt").touch()
    sound(tmp_path / "eval_segments/eeeeeeeeeee_30.000.wav", 44100)
    task = tasks.get("as20k")
    found = indexing.build(task, tmp_path)
    assert found.table.file.tolist() == [
        "balanced_train_segments/-aaaaaaaaa__30.000.wav",
        "balanced_train_segments/00/1/bbbbbbbbbbb.flac",
        "balanced_train_segments/ddddddddddd.WAV",
        "eval_segments/eeeeeeeeeee_30.000.wav",
    ]
    assert found.bad.file.tolist() == ["balanced_train_segments/ddddddddddd.WAV"]
    assert set(found.table.label) == {"/m/b,/m/a"}
    assert found.partial.startswith("4 of 42,531 clips")


def test_as_takes_both_training_lists_and_as20k_one(tmp_path):
    miniatures.as_(tmp_path)
    root = tmp_path / "AudioSet"
    assert read("as", root).split.value_counts().to_dict() == {"train": 7, "test": 3}
    assert read("as20k", root).split.value_counts().to_dict() == {"train": 3, "test": 3}


def test_audioset_without_a_clip_of_some_list(tmp_path):
    miniatures.as_(tmp_path)
    root = tmp_path / "AudioSet"
    (root / "unbalanced_train_segments").rename(root / "elsewhere")
    assert read("as", root).split.value_counts().to_dict() == {"train": 3, "test": 3}


@pytest.mark.parametrize("folder", ["audio_16k", "data_44k"])
def test_both_releases_of_vocalsound(folder, tmp_path):
    for i, name in enumerate(("tr", "val", "te")):
        entries = [
            {"wav": f"/somewhere/else/m{i:04d}_0_{kind}.wav", "labels": "/m/01"}
            for kind in ("cough", "sniff")
        ]
        for entry in entries:
            sound(tmp_path / folder / entry["wav"].rpartition("/")[2], 16000)
        (tmp_path / "datafiles").mkdir(exist_ok=True)
        (tmp_path / f"datafiles/{name}_rev.json").write_text(json.dumps({"data": entries}))
    found = indexing.build(tasks.get("vocalsound"), tmp_path)
    assert len(found.good) == 6
    assert set(found.good.label) == {"Cough", "Sniff"}


def test_voxforge_contributors(tmp_path):
    """A name may hold "-"; everybody who gave none is "anonymous", which is not one person."""
    folders = {
        "jean-luc-20120101-abc": "jean-luc",
        "jean-20120101-abd": "jean",
        "anonymous-20090102-xyz": "anonymous-20090102-xyz",
        "anonymous-20090103-xyz": "anonymous-20090103-xyz",
        "Anonymous-20090103-abc": "Anonymous-20090103-abc",
        "k2-20100101": "k2",
    }
    rows = [(f"{folder}/wav/a0001.wav", "fr", "train") for folder in folders]
    rows.append(("jean-20120102-zzz/wav/a0001.wav", "fr", "test"))  # on both sides, as published
    table(tmp_path / "voxforge.csv", ["file_name", "label", "split"], rows)
    found = read("voxforge", tmp_path)
    for folder, contributor in folders.items():
        assert found.loc[f"{folder}/wav/a0001.wav", "group"] == contributor
    assert found.loc["jean-20120102-zzz/wav/a0001.wav", "group"] == "jean"


def test_background_noise_and_foreign_files_are_no_words(tmp_path):
    miniatures.spcv1(tmp_path)
    root = tmp_path / "speech_commands_v0.01"
    (root / "README.md").touch()
    sound(root / "_background_noise_/pink_noise.wav", 16000)
    assert set(read("spcv1", root).label) == {"yes", "no"}


def test_a_listed_clip_that_is_not_there_is_missing(tmp_path):
    miniatures.spcv1(tmp_path)
    root = tmp_path / "speech_commands_v0.01"
    name = (root / "testing_list.txt").read_text().split()[0]
    (root / name).unlink()
    assert indexing.build(tasks.get("spcv1"), root).missing.file.tolist() == [name]
