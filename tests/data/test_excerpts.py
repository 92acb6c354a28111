"""Parts of long recordings: the samples of the whole file, without the whole file."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from evar.data import audio, decoding, excerpts
from evar.errors import BadAudio
from helpers import memory

RATE, FRAMES = 16_000, 48_123
KINDS = {
    "WAV": ("a.wav", "PCM_16"),
    "WAV24": ("a.wav", "PCM_24"),
    "float": ("a.wav", "FLOAT"),
    "A-law": ("a.wav", "ALAW"),
    "ADPCM": ("a.wav", "MS_ADPCM"),
    "FLAC": ("a.flac", "PCM_16"),
    "AIFF": ("a.aiff", "PCM_16"),
    "AU": ("a.au", "PCM_16"),
    "Vorbis": ("a.ogg", "VORBIS"),
    "Opus": ("a.opus", "OPUS"),
    "MP3": ("a.mp3", "MPEG_LAYER_III"),
}


def noise(channels: int = 1, frames: int = FRAMES, seed: int = 0):
    made = np.random.default_rng(seed).standard_normal((frames, channels))
    return (0.2 * made).clip(-0.99, 0.99)


def written(folder: Path, kind: str, *, channels: int = 1, frames: int = FRAMES) -> Path:
    name, subtype = KINDS[kind]
    path = folder / name
    form = {"format": "OGG"} if kind == "Opus" else {}
    soundfile.write(path, noise(channels, frames), RATE, subtype=subtype, **form)
    return path


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_part_has_the_samples_of_the_whole_file(kind, channels, tmp_path):
    path = written(tmp_path, kind, channels=channels)
    whole, rate = audio.decode(path)
    draws = np.random.default_rng(1)
    edges = [(0, len(whole)), (0, 10), (len(whole) - 10, len(whole))]
    edges += [sorted(draws.integers(0, len(whole) - 2, 2) + [0, 2]) for _ in range(10)]
    for first, last in edges:
        part, own_rate = audio.decode(path, (int(first), int(last)))
        assert own_rate == rate
        np.testing.assert_array_equal(part, whole[first:last], strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_behind_the_end_is_damage(kind, tmp_path):
    path = written(tmp_path, kind)
    frames = audio.read_header(path).frames
    for first in (frames - 5, frames + 5):
        with pytest.raises(BadAudio, match=r"of 20 frames decode"):
            audio.decode(path, (first, first + 20))


def test_a_flac_file_of_unknown_length_is_decoded_from_its_beginning(tmp_path):
    path = written(tmp_path, "FLAC")
    whole, _ = audio.decode(path)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)  # as written to a pipe: a length of 0
    path.write_bytes(content)
    np.testing.assert_array_equal(audio.decode(path, (20_000, 30_000))[0], whole[20_000:30_000])


def test_a_wav_file_whose_recorder_was_killed(tmp_path):
    path = written(tmp_path, "WAV")
    whole, _ = audio.decode(path)
    content = bytearray(path.read_bytes())
    content[40:44] = bytes(4)
    path.write_bytes(content)
    np.testing.assert_array_equal(audio.decode(path, (20_000, 30_000))[0], whole[20_000:30_000])


def test_a_file_that_is_replaced_is_read_anew(tmp_path):
    path = written(tmp_path, "MP3")
    audio.decode(path, (0, 1000))
    soundfile.write(path, noise(seed=9), RATE, subtype="MPEG_LAYER_III")
    whole, _ = audio.decode(path)
    np.testing.assert_array_equal(audio.decode(path, (500, 1000))[0], whole[500:1000])


def test_a_lossy_file_is_decoded_once_for_parts_in_order(tmp_path, monkeypatch):
    path = written(tmp_path, "MP3", frames=20 * RATE)
    opened, real = [], decoding.Reader

    def counted(*arguments):
        opened.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(decoding, "Reader", counted)
    for second in range(18):
        audio.decode(path, (second * RATE, (second + 2) * RATE))
    assert len(opened) == 1


def test_a_tape_forgets_what_is_long_past_and_rewinds_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(excerpts, "_KEPT", RATE)
    monkeypatch.setattr(excerpts, "_STEP", 1000)
    path = written(tmp_path, "Vorbis", frames=10 * RATE)
    whole, _ = audio.decode(path)
    tape = excerpts.Tape(lambda: decoding.Reader(decoding.native(path)))
    for first in (0, 5 * RATE, 8 * RATE, RATE, 3 * RATE):
        samples, _ = tape.read(first, first + RATE // 2)
        np.testing.assert_array_equal(samples, whole[first : first + RATE // 2])
        held = sum(map(len, tape._kept))
        assert held <= RATE + 2 * 1000 + RATE // 2


def test_threads_share_a_tape(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    path = written(tmp_path, "MP3", frames=20 * RATE)
    whole, _ = audio.decode(path)
    spans = [(at, at + 3000) for at in np.random.default_rng(0).integers(0, 19 * RATE, 60).tolist()]
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda span: audio.decode(path, span)[0], spans))
    for (first, last), part in zip(spans, parts, strict=True):
        np.testing.assert_array_equal(part, whole[first:last])


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".aiff"])
def test_segments_equal_the_same_audio_cut_by_ffmpeg(suffix, tmp_path):
    source, cut = tmp_path / f"long{suffix}", tmp_path / f"cut{suffix}"
    soundfile.write(source, noise(2, 10 * 44_100), 44_100, subtype="PCM_16")
    command = ["ffmpeg", "-v", "error", "-ss", "2.5", "-t", "3.25", "-i", source, cut]
    subprocess.run(command, check=True, timeout=60)
    span = (round(2.5 * 44_100), round(5.75 * 44_100))
    for rate in (44_100, 16_000):
        of_file = audio.load_clip(cut, sample_rate=rate, samples=None)
        of_segment = audio.load_clip(source, sample_rate=rate, samples=None, span=span)
        np.testing.assert_array_equal(of_segment, of_file, strict=True)


_READ = """
import sys, time
from pathlib import Path

import numpy as np

import evar.data.audio as audio

np.zeros(10**6).sum()
before, begun = peak(), time.process_time()
mono = audio.load_clip(
    Path(sys.argv[1]), sample_rate=16000, samples=None, span=(10_000 * 16_000, 10_010 * 16_000)
)
print(len(mono), mono[0], peak() - before, time.process_time() - begun)
"""


@memory.linux
def test_ten_seconds_of_three_hours_cost_ten_seconds(tmp_path):
    path = tmp_path / "long.wav"
    with soundfile.SoundFile(path, "w", 16_000, 1, "PCM_16") as file:
        for second in range(0, 3 * 3600, 60):
            block = np.full(60 * 16_000, second / 2**15)
            file.write(block + np.arange(len(block)) % 2 / 2**10)
    count, first, kilobytes, seconds = map(float, memory.said(_READ, path))
    assert count == 160_000
    assert first == pytest.approx(9960 / 2**15, abs=2**-15)
    assert kilobytes < 20_000  # the file has 346 MB
    assert seconds < 1
