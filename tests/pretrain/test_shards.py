"""Shards: whole or not there, readable by WebDataset, any clip at once."""

import io
import json

import numpy as np
import pytest
import soundfile

from evar.data import audio
from evar.errors import UserError
from evar.pretrain.shards import ShardSet, index_of, write_shard
from helpers.small import shards


@pytest.fixture
def folder(tmp_path, sound):
    """Seven tones in three shards."""
    for i in range(7):
        sound(tmp_path / f"in/sub.{i % 2}/tone {i}.wav", hertz=200 * (i + 1), seconds=0.3 + i / 10)
    return shards(tmp_path / "out", tmp_path / "in", per_shard=3)


def test_every_clip_is_what_the_harness_decodes(folder, tmp_path):
    made = ShardSet.open(folder)
    assert len(made) == 7
    assert made.files == sorted(f"sub.{i % 2}/tone {i}.wav" for i in range(7))
    for number, name in enumerate(made.files):
        whole = audio.load_clip(tmp_path / "in" / name, sample_rate=16000, samples=None)
        np.testing.assert_allclose(made.read(number), whole, atol=1 / 32768)


def test_webdataset_reads_them(folder):
    webdataset = pytest.importorskip("webdataset", reason="pip install -e '.[pretrain]'")
    paths = [str(path) for path in sorted(folder.glob("*.tar"))]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False))
    assert len(samples) == 7
    assert all(set(s) >= {"__key__", "flac"} for s in samples)
    first, _ = soundfile.read(io.BytesIO(samples[0]["flac"]), dtype="float32")
    assert np.array_equal(first, ShardSet.open(folder).read(0))


def test_log_mel_shards_hold_the_front_end_of_the_encoder(tmp_path, sound):
    import torch

    from evar.model_adapters.m2d import M2D

    path = sound(tmp_path / "in/a.wav", seconds=0.5)
    made = ShardSet.open(shards(tmp_path / "out", tmp_path / "in", kind="logmel"))
    waveform = audio.load_clip(path, sample_rate=16000, samples=None)
    expected = M2D(width=24, depth=1, heads=2).logmel(torch.from_numpy(waveform)[None])[0]
    assert made.kind == "logmel"
    assert made.read(0).dtype == np.float16
    np.testing.assert_allclose(made.read(0), expected, rtol=2e-3)


def test_a_shard_that_is_cut_short_is_named(folder):
    path = sorted(folder.glob("*.tar"))[1]
    path.write_bytes(path.read_bytes()[:-2000])
    assert index_of(path) is None
    with pytest.raises(UserError, match=f"{path}: missing or cut short.*to resume it"):
        ShardSet.open(folder)


def test_a_shard_that_was_replaced_without_its_index_is_none(folder, monkeypatch):
    path = sorted(folder.glob("*.tar"))[0]

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("evar.files.write_atomic", full)
    with pytest.raises(OSError, match="disk full"):  # as if killed between the two
        write_shard(path, [("0.flac", "0.wav", b"other")], "plan")
    assert index_of(path) is None


@pytest.mark.parametrize("kind", ["flac", "logmel"])
def test_a_shard_whose_bytes_are_damaged_is_named(kind, tmp_path, sound):
    sound(tmp_path / "in/a.wav")
    folder = shards(tmp_path / "out", tmp_path / "in", kind=kind)
    made = ShardSet.open(folder)
    (path,) = folder.glob("*.tar")
    content = bytearray(path.read_bytes())
    content[1500] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=f"{path}: .* is not readable .* Remove this shard"):
        made.read(0)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 99, "kind": "flac", "shards": [], "sample_rate": 1}']
)
def test_a_head_that_is_none_is_named(content, folder):
    (folder / "shards.json").write_text(content)
    with pytest.raises(UserError, match="shards.json"):
        ShardSet.open(folder)


def test_a_folder_without_shards_is_named(tmp_path):
    with pytest.raises(UserError, match="no shards there"):
        ShardSet.open(tmp_path)


def test_identity_is_of_what_the_shards_hold(folder, tmp_path):
    again = shards(tmp_path / "again", tmp_path / "in", per_shard=3)
    assert ShardSet.open(again).identity == ShardSet.open(folder).identity
    shorter = shards(tmp_path / "shorter", tmp_path / "in", per_shard=3, seconds=0.2)
    assert ShardSet.open(shorter).identity != ShardSet.open(folder).identity
    for path in folder.glob("*.tar"):
        assert path.read_bytes() == (again / path.name).read_bytes()
        assert json.loads(path.with_suffix(".json").read_text())["skipped"] == []
