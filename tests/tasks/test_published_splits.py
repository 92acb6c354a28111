"""Published splits at full size, without audio: exact names, counts, and who is on which side."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from evar import task as tasks
from evar.data import clip_table
from evar.tasks import _cremad
from evar.tasks import gtzan as gtzan_file
from evar.tasks import surge as surge_file

SENTENCES = ["DFA", "IEO", "IOM", "ITH", "ITS", "IWL", "IWW", "MTI", "TAI", "TIE", "TSI", "WSI"]
EMOTIONS = ["ANG", "DIS", "FEA", "HAP", "NEU", "SAD"]
# What the scheme of names has and the published set lacks.
CREMAD_GAPS = {"1002_TIE_NEU_XX", "1076_ITS_NEU_XX"} | {
    f"{take}_{emotion}_XX" for take in ("1008_WSI", "1009_MTI", "1019_ITH") for emotion in EMOTIONS
}


@pytest.fixture(scope="module")
def cremad_names():
    """The stems of all 7,442 published recordings."""
    names = {
        f"{actor}_{sentence}_{emotion}_{level}"
        for actor in range(1001, 1092)
        for sentence in SENTENCES
        for emotion in EMOTIONS
        for level in (("LO", "MD", "HI") if sentence == "IEO" and emotion != "NEU" else ("XX",))
    }
    return sorted(names - CREMAD_GAPS)


def sides(table: pd.DataFrame) -> dict:
    return table.split.value_counts().to_dict()


def test_cremad_counts_by_side_and_emotion(cremad_names):
    assert len(cremad_names) == 7442
    table = _cremad.clips(cremad_names)
    assert sides(table) == dict(tasks.get("cremad").counts)
    found = table.groupby(["split", "label"]).size().unstack()[EMOTIONS]
    assert found.loc["train"].tolist() == [881, 880, 881, 881, 752, 880]
    assert found.loc["valid"].tolist() == [125, 125, 125, 125, 107, 125]
    assert found.loc["test"].tolist() == [265, 265, 264, 265, 227, 265]


def test_cremad_with_the_four_excluded_recordings(cremad_names, monkeypatch):
    excluded = set(cremad_names) - {f[9:-4] for f in _cremad.clips(cremad_names).file}
    assert excluded == {
        "1006_TIE_NEU_XX",
        "1013_WSI_DIS_XX",
        "1017_IWW_FEA_XX",
        "1040_ITH_SAD_XX",
    }
    monkeypatch.setattr(_cremad, "EXCLUDED", set())
    assert sides(_cremad.clips(cremad_names)) == {"train": 5158, "valid": 732, "test": 1552}


def test_cremad_actors(cremad_names):
    task = tasks.get("cremad")
    table = clip_table.check_table(task, _cremad.clips(cremad_names))  # refuses actors on two sides
    actors = table.groupby("split").group.nunique().to_dict()
    assert actors == {"train": 63, "valid": 9, "test": 19}


def test_cremad_gender_has_the_same_clips(cremad_names, tmp_path):
    """Every second actor a woman: only that both tasks agree on files, sides and groups."""
    pd.DataFrame({"Stimulus_Number": range(7442), "Filename": cremad_names}).to_csv(
        tmp_path / "SentenceFilenames.csv", index=False
    )
    pd.DataFrame(
        {"ActorID": range(1001, 1092), "Sex": [("Female", "Male")[i % 2] for i in range(91)]}
    ).to_csv(tmp_path / "VideoDemographics.csv", index=False)
    emotion, gender = (tasks.get(n).read(tmp_path) for n in ("cremad", "cremad_gender"))
    shared = ["file", "split", "group"]
    pd.testing.assert_frame_equal(emotion[shared], gender[shared])
    assert set(gender.label) == {"female", "male"}
    assert set(tasks.get("cremad_gender").captions) == set(gender.label)


def test_gtzan_has_no_track_twice():
    lists = gtzan_file.lists()
    names = [name for side in lists.values() for name in side]
    assert len(names) == len(set(names)) == 930
    genres = {name.partition(".")[0] for name in names}
    assert len(genres) == tasks.get("gtzan").classes
    assert all({n.partition(".")[0] for n in side} == genres for side in lists.values())
    assert {side: len(names) for side, names in lists.items()} == dict(tasks.get("gtzan").counts)


def test_surge_tones():
    """The published indices: their number, order and checksum."""
    valid, test = surge_file.VALID, surge_file.TEST
    assert (len(valid), len(test)) == (195, 197)
    assert not set(valid) & set(test)
    assert list(valid) == sorted(set(valid))
    assert list(test) == sorted(set(test))
    assert min(valid + test) >= 0
    assert max(valid + test) < surge_file.TONES == 2084
    digest = hashlib.sha256(np.array(valid + test, dtype="<u2").tobytes()).hexdigest()
    assert digest == "03ebc8d3e5a966930c8e56582536cb4406baec838b69ed3b1fed49ccdc5ed749"
    counts = dict(tasks.get("surge").counts)
    assert counts == {"train": 1692 * 88, "valid": 195 * 88, "test": 197 * 88}


def test_fsdnoisy18k_holds_out_a_tenth_at_full_size(tmp_path):
    """The same clips whatever the order of the table's rows."""
    task = tasks.get("fsdnoisy18k")
    meta = tmp_path / "FSDnoisy18k.meta"
    meta.mkdir()
    train = pd.DataFrame({"fname": [f"{i}.wav" for i in range(17585)]})
    train["label"] = [f"label {i % 20}" for i in range(len(train))]
    test = pd.DataFrame({"fname": [f"t{i}.wav" for i in range(947)], "label": "label 1"})
    test.to_csv(meta / "test.csv", index=False)
    found = []
    for order in (train, train.sample(frac=1, random_state=0)):
        order.to_csv(meta / "train.csv", index=False)
        found.append(clip_table.check_table(task, task.read(tmp_path)))
    assert sides(found[0]) == dict(task.counts)
    pd.testing.assert_frame_equal(*found)


RETRIEVAL = ("audiocaps", "clotho")


@pytest.mark.parametrize("name", [n for n in tasks.names() if n not in RETRIEVAL])
def test_captions_cover_the_published_classes(name):
    """A rule for every label, or one caption for each of the classes; none the same as another."""
    task = tasks.get(name)
    if isinstance(task.captions, str):
        assert task.captions.count("{label}") == 1
    else:
        assert len(task.captions) == task.classes
        assert len(set(task.captions.values())) == task.classes


PAPER_RULES = {
    "gtzan": "{label} music can be heard",
    "nsynth": "the musical instrument sound of {label} can be heard",
    **dict.fromkeys(("esc50", "us8k", "fsd50k", "as", "as20k"), "{label} can be heard"),
}


@pytest.mark.parametrize("name", PAPER_RULES)
def test_captions_of_the_paper(name):
    assert tasks.get(name).captions == PAPER_RULES[name]


def test_instructions_are_given_once():
    """What a person must do is one line a task, not one a file (VoxCeleb1's files differ)."""
    for name in tasks.names():
        lines = [s.how for s in tasks.get(name).sources if s.how]
        assert len(lines) == len(set(lines)) or name == "vc1"
