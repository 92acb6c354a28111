"""The stream: every clip once a pass, the same on any number of processes, from any step."""

import math
import tracemalloc

import numpy as np
import pytest
import torch

from evar.errors import UserError
from evar.pretrain.data import ClipStream
from helpers.small import captioned, shards

CLIPS = 11


@pytest.fixture
def folder(tmp_path, sound):
    for i in range(CLIPS):
        sound(tmp_path / f"in/{i:02d}.wav", hertz=100 * (i + 1), seconds=1.0 if i else 0.2)
    return shards(tmp_path / "shards", tmp_path / "in", per_shard=4)


def joined(stream, batch_size, steps, *, world=1, workers=0) -> list[tuple]:
    """(clips, inputs) of each step, all ranks together."""
    parts = [
        list(stream.batches(batch_size, steps=steps, rank=r, world=world, workers=workers))
        for r in range(world)
    ]
    return [
        (torch.cat([b.clips for b in of_step]), torch.cat([b.inputs for b in of_step]))
        for of_step in zip(*parts, strict=True)
    ]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 11, 16])
def test_every_clip_comes_once_a_pass(folder, batch_size):
    stream = ClipStream(folder, frames=20)
    steps = range(-(-3 * CLIPS // batch_size))
    order = torch.cat([clips for clips, _ in joined(stream, batch_size, steps)])[: 3 * CLIPS]
    passes = order.view(3, CLIPS)
    assert passes.sort(dim=1).values.tolist() == [list(range(CLIPS))] * 3
    assert len({tuple(row) for row in passes.tolist()}) == 3, "in another order each time"


@pytest.mark.parametrize(("world", "workers"), [(1, 2), (2, 0), (4, 3)])
def test_processes_and_workers_change_nothing(folder, world, workers):
    stream = ClipStream(folder, frames=20, seed=5)
    expected = joined(stream, 8, range(5))
    again = ClipStream(folder, frames=20, seed=5)
    for (a, x), (b, y) in zip(
        expected, joined(again, 8, range(5), world=world, workers=workers), strict=True
    ):
        assert torch.equal(a, b)
        assert torch.equal(x, y)


def test_a_stream_begins_at_any_step(folder):
    stream = ClipStream(folder, frames=20)
    whole = joined(stream, 4, range(9))
    for (a, x), (b, y) in zip(
        whole[6:], joined(ClipStream(folder, frames=20), 4, range(6, 9)), strict=True
    ):
        assert torch.equal(a, b)
        assert torch.equal(x, y)


def test_crops_are_random_and_inside_the_clip(folder):
    stream = ClipStream(folder, frames=41)
    assert len(stream) == CLIPS
    clip = stream.shards.read(3)
    starts = set()
    for clips, inputs in joined(stream, 11, range(12)):
        crop = inputs[clips.tolist().index(3)].numpy()
        assert crop.shape == (6400,)
        start = next(s for s in range(len(clip) - 6399) if np.array_equal(clip[s : s + 6400], crop))
        starts.add(start)
    assert len(starts) == 12
    assert max(starts) - min(starts) > 4000
    other = joined(ClipStream(folder, frames=41, seed=1), 11, range(1))
    assert not torch.equal(other[0][1], joined(stream, 11, range(1))[0][1])


def test_a_short_clip_is_filled_up_with_silence(folder, tmp_path):
    stream = ClipStream(folder, frames=41)
    ((clips, inputs),) = joined(stream, 11, range(1))
    short = inputs[clips.tolist().index(0)]
    assert short[:3200].any()
    assert not short[3200:].any()
    mel = shards(tmp_path / "mel", tmp_path / "in", kind="logmel")
    ((clips, inputs),) = joined(ClipStream(mel, frames=41), 11, range(1))
    assert inputs.shape == (11, 80, 41)
    short = inputs[clips.tolist().index(0)]
    silence = np.float16(math.log(1.1920929e-07))  # as a shard holds it
    assert short[:, 21:].unique().tolist() == [silence]


def test_captions_come_with_their_clips(folder, tmp_path):
    (tmp_path / "c.csv").write_text("file,caption\n03.wav,one\n03.wav,two\n05.wav,three\n")
    path = captioned(tmp_path, folder, captions=str(tmp_path / "c.csv"))
    stream = ClipStream(folder, frames=20, captions=path)
    drawn = set()
    for batch in stream.batches(11, steps=range(20), rank=0, world=1):
        has = batch.clips[batch.captioned].sort().values
        assert has.tolist() == [3, 5]
        assert batch.captions.shape == (11, 64)
        assert not batch.captions[~batch.captioned].any()
        drawn.add(float(batch.captions[batch.clips == 3][0, 0]))
    assert len(drawn) == 2, "one of its two captions at random"
    assert stream.identity != ClipStream(folder, frames=20).identity


def test_memory_does_not_grow_with_what_is_read(tmp_path, sound):
    for i in range(8):
        sound(tmp_path / f"in/{i}.wav", seconds=4, hertz=100 * (i + 1))
    stream = ClipStream(shards(tmp_path / "shards", tmp_path / "in"), frames=20)
    batches = stream.batches(8, steps=range(40), rank=0, world=1)
    next(batches)
    tracemalloc.start()
    next(batches)
    early = tracemalloc.get_traced_memory()[0]
    for _ in batches:
        pass
    late = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert late - early < 200_000, "40 batches have 10 MB of samples, one has 2 MB decoded"


def test_shards_that_do_not_fit_are_refused(folder, tmp_path):
    mel = shards(tmp_path / "mel", tmp_path / "in", kind="logmel")
    with pytest.raises(UserError, match="80 bands, not 64"):
        joined(ClipStream(mel, frames=20, bands=64), 2, range(1))
    with pytest.raises(ValueError, match="does not divide"):
        next(ClipStream(folder, frames=20).batches(5, steps=range(1), rank=0, world=2))
