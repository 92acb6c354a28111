"""Frames in ragged shards: the clip's own, in half precision on demand, read where they lie."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

import evar
from evar import models
from evar.data import audio, opening
from evar.embedding import engine, frames
from evar.errors import UserError
from evar.progress import Progress
from evar.runtime import Runtime


class Steps(evar.Adapter):
    """Level and peak of every tenth of a second."""

    sample_rate, embed_dim, frame_seconds = 16000, 2, 0.1

    def frames(self, audio):
        parts = torch.nn.functional.pad(audio, (0, -audio.shape[1] % 1600)).unflatten(1, (-1, 1600))
        return torch.stack([parts.square().mean(dim=2), parts.abs().amax(dim=2)], dim=2)


class Deaf(evar.Adapter):
    """Has no frames."""

    sample_rate, embed_dim = 16000, 1

    def embed(self, audio):
        return audio[:, :1]


class Loud(Steps):
    """Beyond what float16 holds."""

    def frames(self, audio):
        return super().frames(audio) * 1e8


@dataclass(frozen=True)
class Notes(Progress):
    """Keeps what is reported."""

    lines: list = field(default_factory=list)

    def note(self, text):
        self.lines.append(text)


@pytest.fixture
def manifest(new_clips, monkeypatch):
    monkeypatch.setattr(engine, "_SHARD_CLIPS", 4)  # three shards
    made = new_clips()
    for i in range(10):
        side = ("train", "test")[i % 2]
        made.add(f"{i}.wav", "ab"[i % 2 ^ i % 3 % 2], side, seconds=0.15 * (1 + i % 4))
    return opening.open_task(made.csv, seconds=0.5)


def load(cls):
    return models.load(cls)


def test_a_clip_has_its_own_frames_and_no_others(manifest, tmp_path):
    found = frames.embed_frames(load(Steps), manifest, Runtime(cache=tmp_path / "cache"))
    assert len(found.values) == len(manifest.table)
    for row, file in enumerate(manifest.table.file):
        if found.first[row] >= 0:
            view = found.first[row]
            clip = audio.load_clip(
                manifest.root / file, sample_rate=16000, samples=8000, start=0, silence=False
            )
            seconds = min(0.5, manifest.table.frames[row] / 16000)
            expected = Steps().frames(torch.from_numpy(clip)[None])[0].numpy()
            own = int(np.ceil(seconds / 0.1 - 1e-9))
            np.testing.assert_array_equal(found.values[view], expected[:own])
    assert {len(clip) for clip in found.values} == {2, 3, 5}


def test_the_mean_of_whole_clips_is_the_embedding(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(Steps, "frame_seconds", None)  # then padding counts, as it does in embed
    from evar.embedding import embeddings

    runtime = Runtime(cache=tmp_path / "cache")
    of_frames = frames.embed_frames(load(Steps), manifest, runtime)
    of_clips = embeddings.embed_task(load(Steps), manifest, runtime)
    np.testing.assert_array_equal(of_frames.first, of_clips.first)
    np.testing.assert_array_equal(of_frames.cropped, of_clips.cropped)
    means = np.stack([clip.mean(axis=0) for clip in of_frames.values])
    np.testing.assert_allclose(means, of_clips.values, rtol=1e-5)


@pytest.mark.parametrize(("half", "dtype"), [(False, np.float32), (True, np.float16)])
def test_what_is_kept_is_read_and_half_of_it_on_demand(manifest, tmp_path, half, dtype):
    notes = Notes()
    runtime = Runtime(cache=tmp_path / "cache", progress=notes)
    first = frames.embed_frames(load(Steps), manifest, runtime, half=half)
    assert first.values[0].dtype == dtype
    total = sum(len(clip) for clip in first.values)
    assert len(notes.lines) == 1
    assert f"{total:,} frames of 2 {np.dtype(dtype).name} values need" in notes.lines[0]
    again = frames.embed_frames(load(Steps), manifest, runtime, half=half)
    assert len(notes.lines) == 1, "nothing was missing"
    for a, b in zip(first.values, again.values, strict=True):
        np.testing.assert_array_equal(a, b)


def test_disk_is_announced_before_any_frame_is_kept(manifest, tmp_path):
    cache, shards = tmp_path / "cache", []

    class Looking(Progress):
        def note(self, text):
            shards.append(list(cache.rglob("*.safetensors")))

    frames.embed_frames(load(Steps), manifest, Runtime(cache=cache, progress=Looking()))
    assert shards == [[]]
    assert len(list(cache.rglob("*.safetensors"))) == 3


@pytest.mark.parametrize("half", [False, True])
def test_kept_frames_are_compared_with_those_of_now(manifest, tmp_path, monkeypatch, half):
    runtime, model = Runtime(cache=tmp_path / "cache"), load(Steps)
    frames.embed_frames(model, manifest, runtime, half=half)
    usual = Steps.frames
    monkeypatch.setattr(Steps, "frames", lambda self, audio: 1.05 * usual(self, audio))
    with pytest.raises(UserError, match=r"relative difference 0\.05"):
        frames.embed_frames(model, manifest, runtime, half=half)


def test_half_precision_differs_by_its_rounding_only(manifest, tmp_path):
    runtime = Runtime(cache=tmp_path / "cache")
    whole = frames.embed_frames(load(Steps), manifest, runtime)
    half = frames.embed_frames(load(Steps), manifest, runtime, half=True)
    for a, b in zip(whole.values, half.values, strict=True):
        np.testing.assert_array_equal(a.astype(np.float16), b)


def test_without_a_cache_frames_can_still_be_read(manifest):
    found = frames.embed_frames(load(Steps), manifest, Runtime())
    assert all(np.isfinite(clip).all() for clip in found.values)


def test_values_beyond_half_precision_are_refused(manifest):
    with pytest.raises(UserError, match="--half"):
        frames.embed_frames(load(Loud), manifest, Runtime(), half=True)


def test_a_full_disk_is_seen_before_the_work(manifest, monkeypatch):
    full = type("Usage", (), {"free": 100})()
    monkeypatch.setattr(frames.shutil, "disk_usage", lambda _: full)
    with pytest.raises(UserError, match="do not fit"):
        frames.embed_frames(load(Steps), manifest, Runtime())


def test_an_encoder_without_frames_is_refused(manifest):
    with pytest.raises(UserError, match="Deaf has no frames"):
        frames.embed_frames(load(Deaf), manifest, Runtime())


def test_bad_clips_have_no_place_among_the_good(manifest):
    broken = manifest.root / manifest.table.file[3]
    broken.write_bytes(b"RIFF" + bytes(100))
    found = frames.embed_frames(load(Steps), manifest, Runtime(skip_bad=True))
    assert list(found.bad) == [3]
