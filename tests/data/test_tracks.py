"""Sounds of phones and recorders, decoded by PyAV: as FFmpeg decodes them."""

import importlib.util
import shutil
import subprocess

import numpy as np
import pytest
import soundfile

from evar.data import audio, indexing, manifests, own_sounds, tracks
from evar.errors import BadAudio
from helpers import memory

pytestmark = pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
RATE, SECONDS = 44_100, 3
KINDS = {
    "a.m4a": ["-c:a", "aac"],
    "a.mp4": ["-f", "lavfi", "-i", "testsrc=d=3:s=64x64", "-c:v", "mpeg4", "-c:a", "aac"],
    "a.aac": ["-c:a", "aac"],
    "a.wma": ["-c:a", "wmav2"],
    "a.webm": ["-c:a", "libopus"],
    "vorbis.webm": ["-c:a", "libvorbis"],
    "a.mka": ["-c:a", "pcm_s16le"],
    "s24.mka": ["-c:a", "pcm_s24le"],
    "u8.mka": ["-c:a", "pcm_u8"],
    "a.wv": ["-c:a", "wavpack"],
    "a.avi": ["-f", "lavfi", "-i", "testsrc=d=3:s=64x64", "-c:v", "mpeg4", "-c:a", "pcm_s16le"],
    "nellymoser.flv": ["-c:a", "nellymoser", "-ar", "22050", "-ac", "1"],
    "speex.flv": ["-c:a", "libspeex", "-ar", "16000", "-ac", "1"],
    "mp3.flv": ["-c:a", "libmp3lame"],
    "a.3gp": ["-c:a", "aac", "-ar", "16000", "-ac", "1"],
}
LOSSLESS = ("a.mka", "s24.mka", "u8.mka", "a.wv", "a.avi")


def ffmpeg(*arguments):
    command = ["ffmpeg", "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, timeout=100, capture_output=True).stdout


@pytest.fixture(scope="module")
def wav(tmp_path_factory):
    path = tmp_path_factory.mktemp("tracks") / "a.wav"
    time = np.arange(SECONDS * RATE) / RATE
    noise = np.random.default_rng(0).standard_normal((len(time), 2))
    tone = 0.3 * np.sin(2 * np.pi * 440 * time)[:, None] * [1.0, 0.5]
    soundfile.write(path, tone + 0.02 * noise, RATE, subtype="PCM_16")
    return path


def made(name, wav, folder):
    path = folder / name
    ffmpeg("-i", wav, *KINDS[name], path)
    return path


def of_ffmpeg(path):
    """Mono float32 of FFmpeg's own program."""
    probed = ["ffprobe", "-v", "error", "-select_streams", "a:0", "-of", "csv=p=0"]
    probed += ["-show_entries", "stream=sample_rate,channels", str(path)]
    said = subprocess.run(probed, check=True, capture_output=True, text=True, timeout=60).stdout
    rate, channels = map(int, said.strip().split(",")[:2])
    samples = np.frombuffer(ffmpeg("-i", path, "-map", "0:a:0", "-f", "f32le", "-"), np.float32)
    samples = samples.reshape(-1, channels)
    return samples[:, 0] if channels == 1 else samples.mean(axis=1), rate


@pytest.mark.parametrize("name", KINDS)
def test_samples_are_those_of_ffmpeg(name, wav, tmp_path):
    path = made(name, wav, tmp_path)
    expected, expected_rate = of_ffmpeg(path)
    mono, rate = audio.decode(path)
    assert rate == expected_rate
    assert len(mono) == len(expected)
    assert audio.read_header(path) == audio.Header(rate, len(mono), tracks.decoder())
    if name in LOSSLESS:
        np.testing.assert_array_equal(mono, expected)
    else:  # another version of FFmpeg rounds differently
        np.testing.assert_allclose(mono, expected, atol=2**-15)


def write_amr(path, wav):
    """FFmpeg's program often lacks the encoder; PyAV's wheels carry it."""
    import av

    with av.open(str(wav)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream("libopencore_amrnb", rate=8000, layout="mono")
        stream.bit_rate = 12_200
        resampler = av.AudioResampler("s16", "mono", 8000, frame_size=160)
        for frame in (*source.decode(audio=0), None):
            for part in resampler.resample(frame):
                out.mux(stream.encode(part))
        out.mux(stream.encode(None))


@pytest.mark.parametrize("name", ["a.amr", "amr.3gp"])
def test_amr_of_phones(name, wav, tmp_path):
    av = pytest.importorskip("av")
    if "libopencore_amrnb" not in av.codecs_available:
        pytest.skip("this PyAV has no encoder of AMR")
    path = tmp_path / name
    write_amr(path, wav)
    expected, _ = of_ffmpeg(path)
    mono, rate = audio.decode(path)
    assert (rate, len(mono)) == (8000, len(expected))
    assert abs(len(mono) - SECONDS * 8000) < 400
    np.testing.assert_allclose(mono, expected, atol=2**-15)
    assert audio.read_header(path) == audio.Header(rate, len(mono), tracks.decoder())
    np.testing.assert_array_equal(audio.decode(path, (5000, 9000))[0], mono[5000:9000])


@pytest.mark.parametrize("name", ["a.m4a", "a.webm", "a.mka"])
def test_parts_have_the_samples_of_the_whole(name, wav, tmp_path):
    path = made(name, wav, tmp_path)
    whole, _ = audio.decode(path)
    for first, last in ((0, 1000), (50_000, 60_000), (1000, 2000), (len(whole) - 9, len(whole))):
        np.testing.assert_array_equal(audio.decode(path, (first, last))[0], whole[first:last])


def test_a_clip_is_resampled_as_any_other(wav, tmp_path):
    path = made("a.mka", wav, tmp_path)
    for rate in (16_000, RATE):
        of_track = audio.load_clip(path, sample_rate=rate, samples=None)
        of_wav = audio.load_clip(wav, sample_rate=rate, samples=None)
        np.testing.assert_array_equal(of_track, of_wav)


@pytest.mark.parametrize("name", ["a.m4a", "a.wma", "a.mka"])
def test_a_file_that_ends_early_is_damaged(name, wav, tmp_path):
    path = made(name, wav, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadAudio, match=r"damaged|truncated|holds no samples|not readable"):
        audio.decode(path)


def test_a_video_without_sound_says_so(tmp_path):
    path = tmp_path / "silent.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc=d=1:s=64x64", "-c:v", "mpeg4", path)
    with pytest.raises(BadAudio, match="a video without a sound track"):
        audio.read_header(path)


@pytest.fixture
def mixed(wav, tmp_path):
    """A CSV of two formats: (its path, its folder)."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    rows = ["file,label,split"]
    for i, (label, split) in enumerate(
        (label, split) for split in ("train", "test") for label in ("x", "y")
    ):
        name = f"{i}.m4a" if i % 2 else f"{i}.wav"
        ffmpeg("-ss", 0.2 * i, "-t", 0.5, "-i", wav, folder / name)
        rows.append(f"{name},{label},{split}")
    path = folder / "mine.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_the_decoder_is_part_of_the_manifest(mixed, monkeypatch):
    task = own_sounds.task_from_csv(mixed)
    found = indexing.build(task, mixed.parent)
    assert found.table.decoder.tolist() == ["", tracks.decoder(), "", tracks.decoder()]
    manifests.save(found, mixed.parent / "data")
    again = manifests.load(task, mixed.parent / "data")
    assert again.table.decoder.tolist() == found.table.decoder.tolist()
    assert manifests.changed(again) == []
    monkeypatch.setattr(tracks, "decoder", lambda: "PyAV 99 (libavcodec 99.0.0)")
    assert manifests.changed(again) == ["1.m4a", "3.m4a"]
    newer = indexing.build(task, mixed.parent, previous=again)
    assert newer.sha256 != found.sha256
    assert newer.table.frames.tolist() == found.table.frames.tolist()


def test_without_the_extra_the_message_names_it(mixed, monkeypatch):
    real = importlib.util.find_spec
    hidden = lambda name, *more: None if name == "av" else real(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    path = mixed.parent / "1.m4a"
    with pytest.raises(
        BadAudio, match=r"1.m4a: .*`pip install 'evar\[av\]'` makes it readable"
    ) as raised:
        audio.read_header(path)
    assert "MP4 or M4A" in str(raised.value)
    task = own_sounds.task_from_csv(mixed)
    audio_of_wav = indexing.build(task_with_more(task, mixed.parent), mixed.parent)
    assert audio_of_wav.bad.file.tolist() == ["1.m4a", "3.m4a"]
    assert manifests.changed(audio_of_wav) == []
    monkeypatch.undo()  # it is installed: what could not be read is looked at again
    assert manifests.changed(audio_of_wav) == ["1.m4a", "3.m4a"]


def task_with_more(task, folder):
    """The task with both classes on both sides in WAV alone."""
    from dataclasses import replace

    table = task.read(folder)
    for i, (label, split) in enumerate((("y", "train"), ("y", "test"))):
        name = f"more{i}.wav"
        ffmpeg("-ss", 1.5 + 0.4 * i, "-t", 0.3, "-i", folder / "0.wav", folder / name)
        samples = np.random.default_rng(i).standard_normal(4000) * 0.1
        soundfile.write(folder / name, samples, 16_000)
        table.loc[len(table)] = {"file": name, "label": label, "split": split}
    return replace(task, read=lambda _: table)


_LONG = """
import sys
from evar.data import audio

header = audio.read_header(sys.argv[1])
part, _ = audio.decode(sys.argv[1], (header.frames - 16000, header.frames))
print(header.frames, len(part), peak())
"""


@memory.linux
def test_a_long_track_is_read_in_flat_memory(tmp_path):
    path = tmp_path / "long.m4a"
    sine = "sine=f=300:r=16000:d=1200"
    ffmpeg("-f", "lavfi", "-i", sine, "-c:a", "aac", "-b:a", "24k", path)
    frames, count, kilobytes = map(int, memory.said(_LONG, path))
    assert frames == pytest.approx(1200 * 16_000, abs=2048)
    assert count == 16_000
    assert kilobytes < 140_000  # 110 MB, also of an hour; the decoded samples have 77 MB
