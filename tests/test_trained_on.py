"""What checkpoints were trained on, and what that means for a task."""

from dataclasses import replace

import pytest

from evar import models, registry, trained_on
from evar.errors import UserError
from evar.trained_on import LEVELS, UNKNOWN, USES, TaskOverlap, TrainingData, read_entries


def seen(model, task, **changes):
    return models.seen_in_training(replace(models.config(model), **changes), task)


@pytest.mark.parametrize(
    ("model", "task", "level"),
    [
        ("ast", "as", "train set"),  # trained with AudioSet's labels
        ("m2d", "as20k", "train audio"),  # heard the same clips without them
        ("m2d_clap", "as", "train set"),  # its paper says so itself
        ("m2d_clap", "audiocaps", "test audio"),  # all of AudioCaps is in AudioSet's train
        ("wavcaps", "audiocaps", "train set"),  # said of this model in particular
        ("laion_clap", "esc50", "same source"),
        ("wavcaps_zs", "esc50", "possible"),
        ("wavcaps_zs", "fsd50k", "same source"),  # its list of exclusions has no FSD50K
        ("clap_2023", "fsd50k", "train set"),
        ("clap_2023", "cremad", "possible"),
        ("hubert", "librispeech_mf", "train audio"),
        ("wav2vec2", "librispeech_mf", "train audio"),  # transcriptions are no labels of it
        ("dasheng_base", "mtg_jamendo_top50", "test audio"),
        ("ced", "esc50", None),
        ("hubert", "spcv2", None),
        ("logmel", "as", None),
    ],
)
def test_overlaps_are_those_that_are_known(model, task, level):
    assert seen(model, task) == level


def test_of_several_overlaps_the_most_serious_counts():
    heard = (TrainingData("audioset"), TrainingData("audiocaps", "captions"))
    assert seen("m2d", "audiocaps", trained_on=heard) == "test audio"
    assert seen("m2d", "audiocaps", trained_on=heard[1:]) == "train set"
    assert seen("m2d", "as", trained_on=heard) == "train set"


def test_what_is_said_of_a_task_counts_before_what_the_sets_imply():
    entries = (TrainingData("audioset", "labels"), TaskOverlap("as", "possible"))
    assert seen("m2d", "as", trained_on=entries) == "possible"
    assert seen("m2d", "as20k", trained_on=entries) == "train set"


def test_not_known_is_not_unseen():
    assert seen("m2d", "esc50", trained_on=None) == UNKNOWN
    assert seen("m2d", "my_own_recordings") == UNKNOWN
    assert models.seen_in_training(models.config("hf:ORG/NAME"), "esc50") == UNKNOWN


def test_a_fixed_formula_and_an_untrained_model_have_seen_nothing():
    assert seen("logmel", "my_own_recordings") is None
    assert seen("ast", "as", checkpoint="random") is None


def test_other_weights_than_the_published_are_unknown():
    assert seen("ast", "as", checkpoint="runs/fine_tuned.pth") == UNKNOWN
    assert seen("ast", "as", checkpoint="/disk/audioset_0.4593.pth") == "train set"
    assert seen("ced", "as", checkpoint="ced/model.safetensors") == "train set"
    assert seen("ast", "as", checkpoint="published") == "train set"


@pytest.mark.parametrize("name", models.names())
def test_what_a_model_says_is_read(name):
    entries = models.config(name).trained_on
    assert entries is None or all(isinstance(e, (TrainingData, TaskOverlap)) for e in entries)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"data": "audioset2"}, "unknown data of trained_on in x.yaml: 'audioset2'; did you mean"),
        ({"data": "audioset", "use": "label"}, "unknown use .* did you mean labels"),
        ({"data": "audioset", "uses": "labels"}, "unknown key .* 'uses'; did you mean use"),
        ({"use": "labels"}, "unknown data of trained_on in x.yaml: 'None'"),
        ({"task": "as", "level": "train"}, "unknown level .* did you mean train set"),
        ({"task": "as"}, "unknown level of trained_on in x.yaml: 'None'"),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused(entry, problem):
    with pytest.raises(UserError, match=problem):
        read_entries([entry], "x.yaml")


@pytest.mark.parametrize("entries", ["audioset", {"data": "audioset"}, ["audioset"]])
def test_entries_are_a_list(entries):
    with pytest.raises(UserError, match="x.yaml: trained_on is a list of {data, use}"):
        read_entries(entries, "x.yaml")


def test_table_of_overlaps_is_consistent():
    table = trained_on._table()
    assert table.keys() == {"sets", "overlap", "no_known_overlap"}
    for shared in table["overlap"].values():
        assert shared.keys() <= table["sets"].keys()
        assert set(shared.values()) <= set(LEVELS)
    assert not table["overlap"].keys() & set(table["no_known_overlap"])
    assert USES[0] == "audio"  # what an entry says where it says nothing


def test_table_lies_where_tasks_do():
    assert (registry.folder("tasks") / "data" / "training_sets.yaml").is_file()
