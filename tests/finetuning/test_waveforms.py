"""Clips in memory and ahead of time: the samples are those that linear evaluation would get."""

import numpy as np
import pytest

from evar.data import audio, manifests, own_sounds
from evar.errors import BadAudio
from evar.finetuning.waveforms import Waveforms


@pytest.fixture
def manifest(new_clips, tmp_path):
    """Short and long clips at two rates; the unit is 0.25 s."""
    made = new_clips()
    for i in range(8):
        side = "train" if i < 6 else "test"
        seconds, rate = (0.1, 16000) if i % 4 == 0 else (1.0, 22050)
        made.add(f"{i}.wav", ("low", "high")[i % 2], side, seconds=seconds, rate=rate)
    task = own_sounds.task_from_csv(made.csv, seconds=0.25)
    return manifests.open_task(task, tmp_path / "data", source=made.root)


@pytest.mark.parametrize("keep_bytes", [0, 10**9])
def test_units_are_those_of_load_clip_whether_kept_or_not(manifest, keep_bytes):
    waveforms = Waveforms(manifest, 16000, keep_bytes=keep_bytes)
    for _ in range(2):
        for row, start in [(0, 0), (1, 0), (1, 12345), (2, 2**62 + 7)]:
            path = manifest.root / manifest.table.file[row]
            expected = audio.load_clip(path, sample_rate=16000, samples=4000, start=start)
            np.testing.assert_array_equal(waveforms.load(row, start), expected)


def test_no_more_is_kept_than_there_is_room_for(manifest):
    one = 4 * 16000  # bytes of a clip of one second
    waveforms = Waveforms(manifest, 16000, keep_bytes=2 * one + 100)
    for row in range(8):
        waveforms.load(row)
    kept = sum(clip.nbytes for clip in waveforms._kept.values())
    assert one < kept <= 2 * one + 100


def test_batches_come_in_the_order_wanted(manifest):
    waveforms = Waveforms(manifest, 16000)
    wanted = [[(1, 5), (2, 0)], [], [(5, 99)], [(0, 0), (1, 0), (7, 0)], [(3, 1)]]
    got = list(waveforms.stream(iter(wanted)))
    assert [len(batch) for batch in got] == [2, 0, 1, 3, 1]
    for batch, wants in zip(got, wanted, strict=True):
        for clip, want in zip(batch, wants, strict=True):
            np.testing.assert_array_equal(clip.numpy(), waveforms.load(*want))


def test_clips_that_do_not_decode_are_found_beforehand(manifest):
    path = manifest.root / manifest.table.file[3]
    path.write_bytes(b"no sound")
    waveforms = Waveforms(manifest, 16000)
    assert list(waveforms.bad()) == [3]
    with pytest.raises(BadAudio, match=path.name):
        list(waveforms.stream([[(0, 0)], [(3, 0)]]))
