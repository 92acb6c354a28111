"""Several encoders on one decoding: the shards are those of each alone."""

import contextlib

import pytest

from evar import models
from evar.data import audio, indexing, own_sounds
from evar.embedding import embeddings, engine
from evar.embedding.together import fill_together
from evar.runtime import Runtime

ADAPTERS = """
import torch
from evar import Adapter


class One(Adapter):
    sample_rate = 16000
    embed_dim = 2
    scale = 1.0

    def embed(self, audio):
        return self.scale * torch.stack([audio.square().mean(1), audio.abs().amax(1)], 1)


class Two(One):
    scale = 2.0


class Late(One):
    scale = 3.0
    calls = 0

    def embed(self, audio):
        type(self).calls += 1
        if self.calls > 2:
            raise RuntimeError("tired")
        return super().embed(audio)
"""


@pytest.fixture
def loaded(tmp_path):
    path = tmp_path / "several.py"
    path.write_text(ADAPTERS)
    return lambda *names: [models.load(f"{path}:{name}") for name in names]


@pytest.fixture
def decoded(monkeypatch):
    """The clips that have been decoded."""
    monkeypatch.setattr(engine, "_SHARD_CLIPS", 5)
    calls, load = [], audio.load_clip
    monkeypatch.setattr(audio, "load_clip", lambda path, **k: calls.append(path) or load(path, **k))
    return calls


def together(adapters, manifest, cache, **more):
    runtime, failed = Runtime(cache=cache), {}
    with contextlib.ExitStack() as stack:
        engines = [
            stack.enter_context(embeddings.engine_for_task(model, manifest, runtime))
            for model in adapters
        ]
        fill_together(engines, failed=failed.__setitem__, **more)
    return failed


def shards(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.safetensors")}


@pytest.fixture
def manifest(clips):
    return indexing.build(own_sounds.task_from_csv(clips.csv), clips.root)


def test_each_clip_is_decoded_once_and_shards_are_those_of_each_alone(
    loaded, decoded, manifest, tmp_path
):
    adapters = loaded("One", "Two")
    assert together(adapters, manifest, tmp_path / "a") == {}
    assert len(decoded) == len(set(decoded)) == len(manifest.table) == 24
    for model in adapters:
        embeddings.fill_task(model, manifest, Runtime(cache=tmp_path / "b"))
    assert len(decoded) == 3 * 24
    assert shards(tmp_path / "a") == shards(tmp_path / "b")
    assert len(shards(tmp_path / "a")) == 2 * 5


def test_only_what_is_missing_is_decoded(loaded, decoded, manifest, tmp_path):
    one, two = loaded("One", "Two")
    embeddings.fill_task(one, manifest, Runtime(cache=tmp_path / "a"), part=(0, 2))
    embeddings.fill_task(two, manifest, Runtime(cache=tmp_path / "a"), part=(0, 2))
    decoded.clear()
    together([one, two], manifest, tmp_path / "a")
    assert len(decoded) == 10  # shards 1 and 3 of 5
    assert together([one, two], manifest, tmp_path / "a") == {}
    assert len(decoded) == 10


def test_parts_are_the_whole(loaded, decoded, manifest, tmp_path):
    adapters = loaded("One", "Two")
    for number in range(3):
        together(adapters, manifest, tmp_path / "a", part=(number, 3))
    assert len(decoded) == 24
    together(adapters, manifest, tmp_path / "b")
    assert shards(tmp_path / "a") == shards(tmp_path / "b")


def test_an_encoder_that_fails_is_left_out(loaded, decoded, manifest, tmp_path):
    failed = together(loaded("One", "Late", "Two"), manifest, tmp_path / "a")
    assert failed.keys() == {1}
    assert "tired" in str(failed[1])
    assert len(decoded) == 24
    for model in loaded("One", "Two"):
        embeddings.fill_task(model, manifest, Runtime(cache=tmp_path / "b"))
    whole = shards(tmp_path / "b")
    assert {k: v for k, v in shards(tmp_path / "a").items() if k in whole} == whole


def test_a_clip_that_cannot_be_decoded_fails_every_encoder(loaded, decoded, manifest, tmp_path):
    (manifest.root / manifest.table.file[3]).write_bytes(b"RIFF")
    failed = together(loaded("One", "Two"), manifest, tmp_path / "a")
    assert failed.keys() == {0, 1}
    assert all(manifest.table.file[3] in str(error) for error in failed.values())


def test_other_clips_are_refused(loaded, decoded, manifest, new_clips, tmp_path):
    more = new_clips("more")
    for label in ("low", "high"):
        for side in ("train", "test"):
            more.add(f"{label}{side}.wav", label, side)
    other = indexing.build(own_sounds.task_from_csv(more.csv), more.root)
    (one,) = loaded("One")
    with contextlib.ExitStack() as stack:
        engines = [
            stack.enter_context(embeddings.engine_for_task(one, m, Runtime(cache=tmp_path)))
            for m in (manifest, other)
        ]
        with pytest.raises(ValueError, match="same clips"):
            fill_together(engines, failed=print)


def test_the_speed_of_a_shared_pass_is_that_of_its_engines(loaded, manifest, tmp_path):
    both = loaded("One", "Two")
    assert together(both, manifest, tmp_path / "both") == {}
    for model in both:
        kept = embeddings.embed_task(model, manifest, Runtime(cache=tmp_path / "both"))
        assert kept.clips_per_second > 0
        alone = embeddings.embed_task(model, manifest, Runtime(cache=tmp_path / model.name))
        assert alone.clips_per_second > 0
        again = embeddings.embed_task(model, manifest, Runtime(cache=tmp_path / model.name))
        assert again.clips_per_second == alone.clips_per_second  # kept with the embeddings


def test_a_part_of_the_clips_has_no_speed(loaded, decoded, manifest, tmp_path):
    (model,) = loaded("One")
    together([model], manifest, tmp_path, part=(0, 2))
    assert embeddings.embed_task(model, manifest, Runtime(cache=tmp_path)).clips_per_second is None
