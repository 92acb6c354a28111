"""Recordings of a folder: what is listed, and what their names say."""

import pytest

from evar.data.tables import folder as folders
from evar.errors import UserError


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def test_hidden_and_foreign_files_are_counted(tmp_path):
    root = make(
        tmp_path / "x",
        *("owl/b.WAV", "owl/a.wav", "owl/._a.wav", ".DS_Store", ".git/config", "owl/a.txt"),
        *("Thumbs.db", "__MACOSX/owl/c.wav", "owl/README"),
    )
    listing = folders.list_sounds(root, (".wav",))
    assert listing.files == ["owl/a.wav", "owl/b.WAV"]
    assert listing.hidden == 3
    assert folders.by_ending(listing.others) == ".db 1, .txt 1, without an ending 1"
    with pytest.raises(UserError, match=r"no sound files there \(.flac\); it has .*\.wav 2"):
        folders.list_sounds(root, (".flac",))


def test_subfolders_are_classes(tmp_path):
    frame, loose = folders.by_subfolder(
        ["owl/a.wav", "owl/x/b.wav", "fox/c.wav", "d.wav"], tmp_path
    )
    assert frame.label.tolist() == ["owl", "owl", "fox"]
    assert loose == ["d.wav"]
    with pytest.raises(UserError, match="which label has d.wav.*--pattern"):
        folders.by_subfolder(["d.wav"], tmp_path)
    with pytest.raises(UserError, match=r"\(Test, train\) are a split.*--pattern='{split}/{label}"):
        folders.by_subfolder(["train/a.wav", "Test/b.wav"], tmp_path)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("{label}_{group}_*.wav", "x/owl_r1_003.wav", {"label": "owl", "group": "r1"}),
        ("{label}_*", "owl_.wav", {"label": "owl"}),
        ("*-{label}.wav", "3-owl.WAV", {"label": "owl"}),
        ("{split}/{label}/*", "train/owl/a.wav", {"split": "train", "label": "owl"}),
        ("**/{label}/*", "a/b/owl/c.wav", {"label": "owl"}),
        ("{label}(1)*", "owl(1).wav", {"label": "owl"}),
    ],
)
def test_patterns(pattern, name, expected):
    frame, others = folders.by_pattern([name, "zzz"], pattern)
    assert frame.drop(columns="file").to_dict("records") == [expected]
    assert others == ["zzz"]


@pytest.mark.parametrize("pattern", ["*.wav", "{labl}_*", "{label}_{label}", "", "{x"])
def test_patterns_that_say_nothing(pattern):
    with pytest.raises(UserError, match="--pattern="):
        folders.by_pattern(["a_b.wav"], pattern)


def test_a_name_that_a_pattern_fits_in_two_ways_is_asked_about():
    with pytest.raises(
        UserError, match="red_fox_1.wav in two ways: label 'red', or label 'red_fox'"
    ):
        folders.by_pattern(["owl_1.wav", "red_fox_1.wav"], "{label}_*")


@pytest.mark.parametrize(
    ("name", "group"),
    [("x/anna_012.wav", "anna"), ("anna 2.wav", "anna"), ("r1-b-0003a.wav", "r1-b")]
    + [("anna_bark.wav", "anna_bark"), ("XC1234.wav", "XC1234"), ("a.2024.05.wav", "a.2024")],
)
def test_groups_in_names(name, group):
    assert folders.guessed_groups([name]) == [group]
