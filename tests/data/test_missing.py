"""Files that are not found: the message names what was looked for, what is there and why."""

import re
import unicodedata

import pytest

from evar.data import indexing, own_sounds
from evar.data.missing import explain
from evar.errors import UserError

CAFE = "café.wav"
CASES = {  # (files that are there, the file looked for, words of the explanation)
    "letter case": (["wav/A.WAV"], "wav/a.wav", "'wav/A.WAV' is there (the letter case differs)"),
    "letter case of a folder": (["WAV/a.wav"], "wav/a.wav", "'WAV' is there (the letter case"),
    "a blank": ([" a.wav"], "a.wav", "' a.wav' is there (a blank at its beginning or end)"),
    "backslashes": (["wav/a.wav"], "wav\\a.wav", "written with backslashes; write wav/a.wav"),
    "Unicode form": ([unicodedata.normalize("NFD", CAFE)], CAFE, "(its Unicode form (NFC or NFD)"),
    "ending": (["a.flac", "b.flac"], "a.wav", "'a.flac' is there (the ending differs)"),
    "another folder": (["audio/a.wav", "x"], "a.wav", "'audio/a.wav' is there (another folder)"),
    "a folder too many": (["a.wav", "wav/b"], "wav/a.wav", "'a.wav' is there (another folder)"),
    "added letters": (["clip_0001.wav", "z"], "clip_0001_v2.wav", "did you mean 'clip_0001.wav'?"),
    "nothing like it": (["1.au", "2.au", "3.au", "4.au"], "x.wav", "'3.au', ... (4 in all)"),
    "an empty folder": ([], "a.wav", "that folder is empty"),
    "no folder": (["readme"], "wav/a.wav", "that folder holds 'readme'"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_likely_cause_is_named(case, tmp_path):
    there, name, words = CASES[case]
    for each in there:
        (tmp_path / each).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / each).write_bytes(b"x")
    said = explain(tmp_path, [name])
    assert said.startswith("looked for ")
    assert words.replace("'", "") in said.replace("'", ""), said  # quoted where it must be
    assert "\n" not in said


def test_names_with_control_characters_are_escaped(tmp_path):
    (tmp_path / "\x1b[31m\n.wav").write_bytes(b"x")
    said = explain(tmp_path, ["a\x07.wav"])
    assert said.isprintable()


def refusal(made) -> str:
    with pytest.raises(UserError) as raised:
        indexing.build(own_sounds.task_from_csv(made.csv), made.root)
    return str(raised.value)


def test_a_side_without_files_says_why(clips):
    for row in clips.rows:
        if row[2] == "test":
            row[0] = row[0].replace("test/", "test/x-")
    said = refusal(clips)
    assert "no readable clip in split 'test': none of its 8 files is there" in said
    assert "looked for test/x-" in said
    assert re.search(r"did you mean test/(low|high)\d.wav\?", said)


def test_a_side_without_rows_says_so(clips):
    clips.rows = [row for row in clips.rows if row[2] != "test"]
    assert "says split 'test' (there are: train 12, valid 4)" in refusal(clips)


def test_a_side_of_unreadable_files_names_the_first(clips):
    for row in clips.rows:
        if row[2] == "test":
            (clips.root / row[0]).write_bytes(b"<html>")
    said = refusal(clips)
    assert "8 unreadable, 0 missing; first: test/high0.wav: not readable as sound" in said
    assert "an HTML page" in said
