"""A run's score in words."""

import pytest

from evar.results import text
from evar.results.record import from_json
from helpers.records import record


@pytest.mark.parametrize(
    ("seeds", "score", "expected"),
    [
        ([42, 43], {"mean": 0.7126, "ci95": 0.0081}, "71.3 ± 0.8"),
        ([42, 43], {"mean": 1.0, "ci95": 0.0}, "100.0 ± 0.0"),
        ([42], {"mean": 0.5, "ci95": None}, "50.0"),
        ([], {"mean": 0.5, "ci95": None, "test95": [0.4, 0.55]}, "50.0 [40.0, 55.0]"),
        ([], {"mean": 3.5, "ci95": None, "unit": "plain", "test95": [3, 4]}, "3.5 [3, 4]"),
    ],
)
def test_percent(seeds, score, expected):
    assert text.percent(from_json(record(seeds=seeds, score=score))) == expected


SKIPPED = {"clip": "a.wav", "why": "empty"}


@pytest.mark.parametrize(
    ("clips", "expected"),
    [
        ({"partial": "", "skipped": []}, []),
        ({"partial": "3 of 4 clips", "skipped": []}, ["partial: 3 of 4 clips"]),
        ({"partial": "", "skipped": [SKIPPED]}, ["1 bad clip skipped"]),
        ({"partial": "a", "skipped": [SKIPPED] * 2}, ["partial: a", "2 bad clips skipped"]),
    ],
)
def test_caveats(clips, expected):
    assert text.caveats(from_json(record(clips=clips))) == expected
    assert text.caveats(from_json(record(clips=clips, select="oracle"))) == ["oracle", *expected]
    assert text.caveats(from_json(record(clips=clips, select="last"))) == expected


def line(**more):
    return text.summary_line(from_json(record(**more)))


def test_the_last_line_says_both_intervals_in_words():
    assert line(mean=0.493, score={"ci95": 0.0, "test95": [0.375, 0.623]}) == (
        "m  esc50  linear  accuracy 49.3 ± 0.0 % (± over 3 seeds; 95 % interval over test clips "
        "37.5-62.3 %; chance level 25.0 %; 40 test clips)"
    )


def test_one_seed_has_no_interval_over_seeds():
    said = line(seeds=[42], score={"ci95": None, "runs": 1})
    assert "accuracy 50.0 % (1 seed, no interval over seeds; 95 % interval over test clips" in said


def test_where_nothing_is_random_seeds_are_not_spoken_of():
    said = line(seeds=[], score={"ci95": None, "runs": 1, "chance": None})
    assert said.endswith(
        "accuracy 50.0 % (95 % interval over test clips 40.0-60.0 %; 40 test clips)"
    )


def test_groups_are_counted():
    groups = {"test_unit": "speaker", "test_groups": 24, "test_clips": 1200}
    assert "1,200 test clips of 24 speakers)" in line(score=groups)
    few = {"test95": None, "test_unit": "speaker", "test_groups": 3}
    assert "no 95 % interval: 3 speakers are too few" in line(score=few)


def test_caveats_stand_at_the_end():
    assert line(select="oracle", clips={"partial": "3 of 4 clips"}).endswith(
        "40 test clips)  [oracle]  [partial: 3 of 4 clips]"
    )


def test_a_line_of_an_old_record_says_what_it_knows():
    old = {"test_groups": None, "test_clips": None, "chance": None}
    assert line(score=old).endswith("(± over 3 seeds; 95 % interval over test clips 40.0-60.0 %)")


def test_names_cannot_move_the_cursor():
    assert "\x1b" not in line(name="\x1b[2J")
    assert "<b>" not in text.html(from_json(record(name="<b>")))


def notes(**more):
    return " ".join(text.notes(from_json(record(**more))))


def test_audio_that_is_not_heard_is_said_with_the_score():
    note = "12 of 12 clips are longer than the unit of 10 s: 83 % of the audio is not heard (...)"
    unheard = {"longer": 12, "clips": 12, "share": 0.833, "note": note}
    made = record(unheard=unheard)
    made["task"]["published"] = False
    read = from_json(made)
    assert text.caveats(read) == ["83 % of the audio not heard"]
    assert f"note: {note}" in text.notes(read)
    assert text.summary_line(read).endswith("[83 % of the audio not heard]")
    made["task"]["published"] = True  # whose unit everybody has
    assert text.caveats(from_json(made)) == []


def test_classes_that_map_leaves_out_are_counted_in_words():
    score = {"metric": "mAP"}
    (said,) = text.notes(from_json(record(undefined_classes=3, score=score)))[:1]
    assert said == (
        "note: 3 classes have no positive test clip and no part in mAP (the reference harness "
        "counts 0)"
    )
    assert not any("mAP" in note for note in text.notes(from_json(record(undefined_classes=3))))


def test_notes_name_what_makes_a_score_uncertain():
    many = {"train": 1000, "test": 40}
    assert notes(clips=many) == ""
    assert "8 training clips are few for linear: the score depends on the seed" in notes()
    assert "training clips" not in notes(seeds=[])
    assert "12 speakers are few" in notes(score={"test_unit": "speaker", "test_groups": 12})
    said = notes(clips=many, score={"test95": None, "test_unit": "speaker", "test_groups": 3})
    assert "needs 10 or more independent speakers" in said
    assert "without any" in notes(clips=many, config={"checkpoint": "none given"})


@pytest.mark.parametrize(
    ("clips", "expected"),
    [
        ({"train": 8, "test": 4, "total": 12}, 8),
        ({"a": 30, "b": 30, "c": 30, "total": 90}, 60),
        ({"test": 40, "total": 40}, None),
    ],
)
def test_training_clips(clips, expected):
    made = record()
    made["clips"] = {**clips, "skipped": [], "partial": ""}
    made["score"]["test_clips"] = 90 if "a" in clips else clips["test"]
    assert text.training_clips(from_json(made)) == expected


def test_retrieval_has_a_line_for_each_direction():
    metrics = {"text_to_audio": {"R@1": 0.375, "medR": 3.0}, "audio_to_text": {"R@1": None}}
    said = text.notes(from_json(record(metrics=metrics, seeds=[])))
    assert said == ["text to audio: R@1 37.5 %, medR 3", "audio to text: R@1 undefined"]
