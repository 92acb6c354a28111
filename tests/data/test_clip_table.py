"""Sets of clips on which no honest score is possible."""

import os
import unicodedata

import numpy as np
import pytest
import soundfile

from evar.data import indexing, own_sounds, targets
from evar.data.clip_table import label_set
from evar.errors import UserError


def test_classes_that_are_never_trained_are_refused_on_either_side(
    new_clips, simple, lineareval, refused
):
    """Of several labels a clip too: the score would be that of another question."""
    for side in ("valid", "test"):
        for more in (["dog"], ["dog", "cat,dog"]):
            made = new_clips(f"{side}{len(more)}")
            for i, label in enumerate(["rain", "siren", *more]):
                made.add(f"{i}.wav", label, "train" if i < 2 else side, hertz=300 + i)
            made.add("9.wav", "rain", "test")
            what = "'cat', 'dog'" if len(more) > 1 else "'dog'"
            refused(lineareval(simple, made.csv), f"split '{side}' has clips of {what}")


def test_a_single_class_to_train_is_refused(new_clips, simple, lineareval, refused):
    made = new_clips()
    for i, side in enumerate(["train", "train", "test"]):
        made.add(f"{i}.wav", "rain", side, hertz=300 + i)
    refused(lineareval(simple, made.csv), "a single class to train, 'rain'")


# --- labels and names that look alike


def built(made):
    return indexing.build(own_sounds.task_from_csv(made.csv), made.root)


def test_a_label_in_two_unicode_forms_is_one_class(clips):
    for number, row in enumerate(clips.rows):
        row[1] = unicodedata.normalize(("NFC", "NFD")[number // 2 % 2], f"é-{row[1]}")
    assert label_set(built(clips).table.label) == {"é-low", "é-high"}


@pytest.mark.parametrize("other", ["lo\u200bw", "low\ufeff", "\u00adlow"])
def test_labels_that_differ_in_invisible_characters_are_refused(other, clips):
    clips.listed("train/low0.wav")[1] = other
    with pytest.raises(UserError, match="invisible characters alone"):
        built(clips)


@pytest.mark.parametrize("other", ["low;noise", "low | high", "a;b"])
def test_other_separators_of_labels_are_refused(other, clips):
    clips.listed("train/low0.wav")[1] = other
    if other == "a;b":  # a name like any other
        assert "a;b" in label_set(built(clips).table.label)
        return
    with pytest.raises(UserError, match="is read as one class, .* Separate several labels"):
        built(clips)


def test_a_mark_stands_for_no_label_among_several(several_labels):
    row = several_labels.rows[0]
    row[1] = ""
    with pytest.raises(UserError, match="line 2 has no label .*written '-'"):
        built(several_labels)
    row[1] = "-"
    manifest = built(several_labels)
    assert label_set(manifest.table.label) == {"low", "middle", "high"}
    names = targets.class_names(manifest)
    y = targets.encode_labels(manifest, names)
    at = manifest.table.file.tolist().index(row[0])
    assert y[at].tolist() == [0, 0, 0]
    assert y.sum(axis=1).min() == 0
    assert (y.sum(axis=1) == 0).sum() == 1
    row[1] = "-,low"
    with pytest.raises(UserError, match="'-' means no label"):
        built(several_labels)


# --- equal sounds


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("copy.flac", {}),
        ("copy.aiff", {"subtype": "PCM_24"}),
        ("copy.wav", {"subtype": "FLOAT"}),
        ("copy.au", {"format": "AU", "subtype": "PCM_16"}),
    ],
)
def test_equal_sounds_in_other_containers_are_refused(name, how, clips):
    samples, _ = soundfile.read(clips.root / "train/low0.wav")
    clips.add(name, "low", "train", samples=samples, **how)
    built(clips)
    clips.rows[-1][2] = "test"
    with pytest.raises(UserError, match=f"{name} .*are the same sound on both sides"):
        built(clips)


def test_sounds_of_equal_beginning_are_not_equal(clips):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 16000)
    clips.add("a.wav", "low", "train", samples=samples)
    samples[-1] = -samples[-1]
    clips.add("b.wav", "low", "test", samples=samples)
    built(clips)


# --- paths


@pytest.mark.parametrize("name", ["../x.wav", "/x.wav", "c:\\x.wav", "a\0b.wav", "."])
def test_no_path_of_a_table_leaves_its_folder(name, clips):
    clips.rows.append([name, "low", "test"])
    with pytest.raises(UserError, match=r"sounds.csv: line 26"):
        built(clips)


def test_a_pipe_is_a_bad_clip_and_not_waited_for(clips):
    os.mkfifo(clips.root / "pipe.wav")
    clips.rows.append(["pipe.wav", "low", "test"])
    assert built(clips).bad.file.tolist() == ["pipe.wav"]
