"""Which clip gets which caption, from every layout of captions."""

import csv

import numpy as np
import pytest

from evar.errors import UserError
from evar.pretrain.captions import CaptionTable, _finder, captions
from evar.pretrain.shards import ShardSet
from helpers.small import shards, text_encoder

NAMES = ["Y-0049e1-1Rw_30.wav", "Ybbbbbbbbbbb.wav", "ccccccccccc_10000.wav", "own sound.wav"]


@pytest.fixture
def folder(tmp_path, sound):
    for i, name in enumerate(NAMES):
        sound(tmp_path / "in" / name, hertz=100 * (i + 1))
    return shards(tmp_path / "shards", tmp_path / "in")


@pytest.fixture
def texts(folder, tmp_path):
    """A function that makes the captions of files and returns them by clip."""

    def made(*paths, **options) -> dict[str, list[str]]:
        encoder = text_encoder(tmp_path / "encoder")
        out = tmp_path / "out.safetensors"
        if paths:
            options["captions"] = ",".join(map(str, paths))
        captions(str(folder), str(out), text_encoder=str(encoder), quiet=True, **options)
        found: dict[str, list[str]] = {}
        with (tmp_path / "out.safetensors.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                found.setdefault(row["file"], []).append(row["caption"])
        return found

    return made


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "audiocap_id,youtube_id,start_time,caption\n1,-0049e1-1Rw,30,a bell\n2,bbbbbbbbbbb,0,b\n",
        "youtube_id,caption\n-0049e1-1Rw_30_40,a bell\nYbbbbbbbbbbb,b\n",
        "id,caption\nY-0049e1-1Rw,a bell\nbbbbbbbbbbb_0,b\n",
        "file,caption\nY-0049e1-1Rw_30.wav,a bell\nsomewhere/Ybbbbbbbbbbb.flac,b\n",
    ],
)
def test_layouts_of_captions(text, texts, tmp_path):
    found = texts(write(tmp_path / "c.csv", text))
    assert found == {NAMES[0]: ["a bell"], NAMES[1]: ["b"]}


@pytest.mark.parametrize(
    "row",
    ["youtube_id,caption\n-0049e1-1R,x\n", "youtube_id,caption\nown sound x,x\n"],
)
def test_a_part_of_an_id_names_no_clip(row, texts, tmp_path):
    with pytest.raises(UserError, match="none of its clips has a caption"):
        texts(write(tmp_path / "c.csv", row))


def test_a_name_of_several_clips_names_none(tmp_path, sound):
    for name in ("a/dog.wav", "b/dog.wav", "aaaaaaaaaaa_10.wav", "aaaaaaaaaaa_20.wav"):
        sound(tmp_path / "in" / name)
    find = _finder(ShardSet.open(shards(tmp_path / "shards", tmp_path / "in")))
    assert find("file", "dog.wav") is None
    assert find("youtube_id", "aaaaaaaaaaa") is None
    assert find("file", "b/dog.wav") == 3
    assert find("youtube_id", "aaaaaaaaaaa_20") == 2


def test_several_captions_and_several_files(texts, tmp_path, capsys):
    first = write(tmp_path / "a.csv", "file,caption_1,caption_2\nown sound.wav,one,two\n")
    second = write(tmp_path / "b.csv", "file,caption\nown sound.wav,three\nother.wav,four\n")
    assert texts(first, second) == {"own sound.wav": ["one", "two", "three"]}
    out = capsys.readouterr().out
    assert "3 clips without, 0 with one, 1 with several" in out
    assert "1 caption rows belong to no clip here" in out


def test_other_columns_are_no_captions_and_a_caption_counts_once(texts, tmp_path):
    """Neither a count of captions nor one that was written twice is drawn more often."""
    text = "file,caption_1,caption_2,captions_num,caption_id\nown sound.wav,one,one,2,77\n"
    assert texts(write(tmp_path / "a.csv", text))["own sound.wav"] == ["one"]


def test_labels_serve_where_no_caption_does(texts, tmp_path):
    labels = write(
        tmp_path / "l.csv",
        "file,labels\nown sound.wav,dog_bark;rain\nYbbbbbbbbbbb.wav,siren\nY-0049e1-1Rw_30.wav,\n",
    )
    own = write(tmp_path / "c.csv", "file,caption\nYbbbbbbbbbbb.wav,a siren wails\n")
    assert texts(own, labels=str(labels)) == {
        "Ybbbbbbbbbbb.wav": ["a siren wails"],
        "own sound.wav": ["The sound of dog bark, rain"],
    }
    other = texts(own, labels=str(labels), template="{labels}, recorded")
    assert other["own sound.wav"] == ["dog bark, rain, recorded"]


def test_a_clip_draws_each_of_its_captions(texts, folder, tmp_path):
    rows = "file,caption\n" + "".join(f"own sound.wav,caption {i}\n" for i in range(3))
    texts(write(tmp_path / "c.csv", rows))
    made = ShardSet.open(folder)
    table = CaptionTable.open(tmp_path / "out.safetensors", made)
    number = made.files.index("own sound.wav")
    rng = np.random.default_rng(0)
    drawn = np.stack([table.draw(number, rng) for _ in range(300)])
    distinct, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(distinct) == 3
    assert counts.min() > 70
    assert table.dim == drawn.shape[1] == 64
    assert table.draw(made.files.index(NAMES[1]), rng) is None


def test_captions_of_other_shards_are_refused(texts, folder, tmp_path):
    texts(write(tmp_path / "c.csv", "file,caption\nown sound.wav,one\n"))
    other = shards(tmp_path / "other", tmp_path / "in", seconds=0.1)
    with pytest.raises(UserError, match="captions of other shards"):
        CaptionTable.open(tmp_path / "out.safetensors", ShardSet.open(other))


@pytest.mark.parametrize("content", [b"", b"nothing", bytes(100)])
def test_a_file_that_is_none_is_named(content, folder, tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="bad.safetensors: not a file of caption"):
        CaptionTable.open(path, ShardSet.open(folder))
    with pytest.raises(UserError, match="no such file"):
        CaptionTable.open(tmp_path / "absent", ShardSet.open(folder))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,caption\na,b\n", "no column names the clips"),
        ("file,text\na,b\n", "no column is called `caption`"),
        ("file,caption\nother.wav,b\n", "none of its clips has a caption"),
    ],
)
def test_mistakes_are_named(text, words, texts, tmp_path):
    with pytest.raises(UserError, match=words):
        texts(write(tmp_path / "c.csv", text))
    with pytest.raises(UserError, match="absent.csv: no such file"):
        texts(tmp_path / "absent.csv")
