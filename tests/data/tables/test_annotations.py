"""Annotations as Raven, Audacity and Praat write them, and in JSON."""

import json

import pandas as pd
import pytest

from evar.data.tables import annotations, textgrid
from evar.data.tables.annotations import Wishes, read_annotations
from evar.data.tables.recordings import Recordings
from evar.errors import UserError
from helpers.annotation_files import AUDACITY, LONG, NAMES, RAVEN, SHORT


@pytest.fixture
def recordings(tmp_path):
    return Recordings(tmp_path / "sounds", NAMES)


@pytest.fixture
def read(tmp_path, recordings):
    def call(content, name, encoding="utf-8", **wishes):
        path = tmp_path / "notes" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode(encoding))
        return read_annotations(path, recordings, Wishes(**wishes))

    return call


def rows(found):
    return [tuple(row) for row in found.frame[["file", "start", "end", "label"]].to_numpy()]


# --- Raven


def test_a_selection_table_has_each_selection_once(read):
    found = read(RAVEN, "night.Table.1.selections.txt")
    assert rows(found) == [
        ("night.wav", 0.5, 1.25, "owl"),
        ("night.wav", 3.0, 4.0, '"odd" call'),
    ]
    assert found.unlabelled == 1
    assert found.notes[0] == "a selection table of Raven"
    without = RAVEN.replace("\tBegin File", "").replace("\tnight.wav", "")
    assert rows(read(without, "night.Table.2.selections.txt")) == rows(found)


def test_several_files_opened_as_one_have_times_of_their_own(read):
    """Begin Time counts from the first file: File Offset is the place in the selection's own."""
    head = "Selection\tView\tBegin Time (s)\tEnd Time (s)\tBegin Path\tBegin File\tFile Offset (s)"
    text = f"{head}\tAnnotation\n1\tS\t3600.5\t3602.0\tD:\\x\\site2\\a.wav\ta.wav\t0.5\towl\n"
    assert rows(read(text, "all.txt")) == [("site2/a.wav", 0.5, 2.0, "owl")]


def test_which_column_of_raven_has_the_labels_is_asked_for(read):
    more = RAVEN.replace("Species", "Call type\tObserver").replace("\towl", "\towl\tme")
    with pytest.raises(UserError, match="which column.*Call type or Observer.*--column=Call type"):
        read(more, "night.txt")
    found = read(more, "night.txt", columns={"label": "Call type"})
    assert rows(found)[0] == ("night.wav", 0.5, 1.25, "owl")
    with pytest.raises(UserError, match="none but measurements"):
        read(RAVEN.replace("\tSpecies", "").replace("\towl", ""), "night.txt")


# --- Audacity


def test_labels_of_audacity(read):
    found = read(AUDACITY, "night.txt")
    assert rows(found) == [("night.wav", 0.5, 1.25, "owl"), ("night.wav", 3.0, 4.0, "fox")]
    assert (found.unlabelled, found.points) == (1, 1)
    comma = AUDACITY.replace(".", ",")  # as Audacity writes them where the comma is decimal
    assert rows(read(comma, "night.txt")) == rows(found)


def test_a_line_that_is_no_label_is_named(read):
    with pytest.raises(UserError, match=r"night\.txt: line 2 is no label of Audacity"):
        read("0.5\t1\towl\nowl\n", "night.txt")
    with pytest.raises(UserError, match="begins at 0 s or later"):
        read("2.5\t1\towl\n", "night.txt")


# --- Praat


@pytest.mark.parametrize("text", [LONG, SHORT], ids=["long", "short"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_textgrids_in_both_forms(text, encoding, read):
    found = read(text, "caf\u00e9.TextGrid", encoding)
    assert rows(found) == [
        ("caf\u00e9.flac", 0.7, 1.5, 'sch\u00f6n "so" 3'),
        ("caf\u00e9.flac", 1.5, 2.3, "ja"),
    ]
    assert found.unlabelled == 1


def test_praats_own_mark_of_utf_16(tmp_path):
    (tmp_path / "a.TextGrid").write_bytes(b"\xfe\xff" + LONG.encode("utf-16-be"))
    tiers, _ = textgrid.read_textgrid(tmp_path / "a.TextGrid")
    assert [(t.name, len(t.intervals), t.points) for t in tiers] == [
        ("word", 3, 0),
        ("bell", 0, 1),
        ("empty", 1, 0),
    ]


def test_which_tier_is_asked_for(read):
    two = SHORT.replace('1\n0\n2.3\n""', '1\n0\n2.3\n"all"')
    with pytest.raises(
        UserError, match="which tier has the labels: 'word' or 'empty'.*--tier=word"
    ):
        read(two, "night.TextGrid")
    assert rows(read(two, "night.TextGrid", tier="empty")) == [("night.wav", 0.0, 2.3, "all")]
    with pytest.raises(UserError, match="0 tiers are called 'words'.*'word', 'bell', 'empty'"):
        read(two, "night.TextGrid", tier="words")
    with pytest.raises(UserError, match="has points"):
        read(two, "night.TextGrid", tier="bell")


@pytest.mark.parametrize("content", [LONG[:200], SHORT[:-120], "x", LONG.replace("0.7", "'")])
def test_what_is_no_textgrid_is_refused(content, read):
    with pytest.raises(UserError, match="not a TextGrid"):
        read(content, "night.TextGrid")


# --- JSON and tables

ENTRIES = [{"file": "night.wav", "start": 0.5, "end": 1, "label": "owl"}]


@pytest.mark.parametrize(
    "content",
    [
        ENTRIES,
        {"annotations": ENTRIES},
        {"night.wav": [{"onset": 0.5, "offset": 1.0, "label": ["owl"]}]},
        {"night.wav": [{"start": 0.5, "end": 1.0, "label": "owl"}], "site1/a.wav": []},
    ],
)
def test_json(content, read):
    assert rows(read(json.dumps(content), "x.json")) == [("night.wav", 0.5, 1.0, "owl")]


@pytest.mark.parametrize("content", ["[", "3", "[]", "{}", "[3]", '{"a": {}, "b": []}'])
def test_json_that_is_no_list_of_segments(content, read):
    with pytest.raises(UserError, match=r"x\.json: "):
        read(content, "x.json")


def test_a_csv_of_whole_clips(read):
    found = read("filename;Art\nNIGHT.wav;owl\n", "x.csv", columns={"label": "Art"})
    assert found.frame.to_dict("records") == [{"file": "night.wav", "label": "owl"}]
    with pytest.raises(UserError, match="no column of labels among filename, Art"):
        read("filename;Art\nnight.wav;owl\n", "x.csv")


# --- which recording


def test_recordings_are_found_wherever_the_table_was_written(recordings):
    assert recordings.find("C:\\field\\SITE2\\a.wav") == "site2/a.wav"
    assert recordings.find("cafe\u0301.flac") == "caf\u00e9.flac"
    with pytest.raises(UserError, match=r"a\.wav may be site1/a\.wav or site2/a\.wav"):
        recordings.find("a.wav")
    with pytest.raises(UserError, match=r"no recording b\.wav"):
        recordings.find("b.wav")


def test_a_file_of_annotations_is_of_the_recording_with_its_name(recordings, tmp_path):
    of = recordings.of_file
    assert of(tmp_path / "Night.Table.1.selections.txt") == "night.wav"
    assert of(tmp_path / "night.wav.txt") == "night.wav"
    assert of(tmp_path / "sounds/site2/a.TextGrid") == "site2/a.wav"
    for name in ("a.txt", "day.txt"):
        with pytest.raises(UserError, match="which recording is it of"):
            of(tmp_path / name)
    assert Recordings(tmp_path, ["one.wav"]).of_file(tmp_path / "Label Track.txt") == "one.wav"


def test_a_folder_of_annotations(tmp_path, recordings):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "night.txt").write_text(AUDACITY)
    (folder / "caf\u00e9.TextGrid").write_text(SHORT)
    (folder / "README.txt").write_text("These are notes.\n")
    (folder / ".night.txt.swp").write_text("x")
    found = read_annotations(folder, recordings)
    assert found.frame.file.value_counts().to_dict() == {"night.wav": 2, "caf\u00e9.flac": 2}
    assert found.strange == ("README.txt",)
    (folder / "table.csv").write_text("file,label\nnight.wav,owl\n")
    with pytest.raises(UserError, match="some of its files have the column start"):
        read_annotations(folder, recordings)


def test_nothing_there(tmp_path, recordings):
    with pytest.raises(UserError, match="no such file or folder"):
        read_annotations(tmp_path / "x", recordings)
    (tmp_path / "x.txt").write_text("just a note\n")
    with pytest.raises(UserError, match="neither a table"):
        read_annotations(tmp_path / "x.txt", recordings)
    assert isinstance(annotations._frame("a", []), pd.DataFrame)
