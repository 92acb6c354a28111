"""From files of every kind to the samples an encoder gets."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from evar.data import audio, decoding
from evar.data.audio import load_clip
from evar.errors import BadAudio, UserError
from evar.task import Task


def task_of(seconds):
    return Task(name="t", version="1", title="", read=None, marker="", seconds=seconds)


FORMATS = {  # file: (soundfile's subtype, tolerated error)
    "u8.wav": ("PCM_U8", 2**-7),
    "16.wav": ("PCM_16", 2**-15),
    "24.wav": ("PCM_24", 2**-23),
    "32.wav": ("PCM_32", 2**-24),
    "float.wav": ("FLOAT", 0),
    "double.wav": ("DOUBLE", 2**-24),
    "16.flac": ("PCM_16", 2**-15),
    "24.flac": ("PCM_24", 2**-23),
    "16.aiff": ("PCM_16", 2**-15),
}


@pytest.mark.parametrize("name", FORMATS)
def test_lossless_formats_give_the_samples_back(name, sound, tmp_path):
    subtype, tolerance = FORMATS[name]
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, 1000).astype(np.float32)
    path = sound(tmp_path / name, samples=samples, subtype=subtype)
    mono, rate = audio.decode(path)
    assert rate == 16000
    assert mono.dtype == np.float32
    assert np.abs(mono - samples).max() <= tolerance


def strongest(mono, rate):
    """Frequency of the largest spectral line, in Hz."""
    spectrum = np.abs(np.fft.rfft(mono * np.hanning(len(mono))))
    return np.argmax(spectrum) * rate / len(mono)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
@pytest.mark.parametrize("suffix", ["wav", "ogg", "mp3", "flac"])
def test_a_tone_survives_every_format_and_rate(suffix, rate, sound, tmp_path):
    path = sound(tmp_path / f"tone.{suffix}", hertz=1000, seconds=1, rate=rate)
    clip = load_clip(path, sample_rate=16000, samples=16000)
    assert clip.shape == (16000,)
    assert clip.dtype == np.float32
    assert strongest(clip, 16000) == pytest.approx(1000, abs=2)
    assert np.abs(clip[4000:12000]).max() == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("name", ["tone.ogg", "tone.mp3"])
def test_lossy_files_decode_to_their_announced_length(name, sound, tmp_path):
    path = sound(tmp_path / name, seconds=0.7, rate=44100)
    assert len(audio.decode(path)[0]) == audio.read_header(path).frames


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("kind", ["WAV", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC"])
def test_samples_are_those_that_libsndfile_returns_to_the_last_bit(kind, subtype, tmp_path):
    """Some are read as integers, which is faster, and scaled here."""
    if not soundfile.check_format(kind, subtype):
        pytest.skip(f"{kind} has no {subtype}")
    rng = np.random.default_rng(1)
    samples = rng.uniform(-1, 1, (3001, 2))
    samples[:4] = [[-1, 1], [0, -0.0], [2**-15, -(2**-15)], [2**-31, -(2**-31)]]
    path = tmp_path / f"a.{kind.lower()}"
    soundfile.write(path, samples, 8000, format=kind, subtype=subtype)
    wanted = soundfile.read(path, dtype="float32")[0]
    mono = wanted.mean(axis=1)
    assert audio.decode(path)[0].tobytes() == mono.tobytes()
    assert audio.decode(path, (1000, 2000))[0].tobytes() == mono[1000:2000].tobytes()
    with decoding.opened_quickly(path) as file:
        assert decoding.read(file, 5000).tobytes() == wanted.tobytes()


def test_samples_of_sds_dumps_keep_all_their_bits(tmp_path):
    """libsndfile calls them PCM_16, and returns more bits as float32 than as int16."""
    path = tmp_path / "a.sds"
    samples = np.random.default_rng(1).uniform(-1, 1, 3000)
    soundfile.write(path, samples, 8000, format="SDS", subtype="PCM_16")
    with decoding.opened_quickly(path) as file:
        read = decoding.read(file, 5000)
    assert read.tobytes() == soundfile.read(path, dtype="float32")[0].tobytes()


def test_mono_is_the_mean_of_all_channels(sound, tmp_path):
    channels = np.random.default_rng(1).uniform(-0.3, 0.3, (500, 3)).astype(np.float32)
    path = sound(tmp_path / "three.wav", samples=channels, subtype="FLOAT")
    np.testing.assert_allclose(audio.decode(path)[0], channels.mean(axis=1), atol=1e-7)


def test_channels_that_cancel_are_silence(sound, tmp_path):
    left = np.random.default_rng(1).uniform(-0.3, 0.3, 500)
    path = sound(tmp_path / "cancel.wav", samples=np.stack([left, -left], 1), subtype="FLOAT")
    with pytest.raises(BadAudio, match="silent"):
        load_clip(path, sample_rate=16000, samples=500)


def test_silence_is_allowed_where_a_task_says_so(sound, tmp_path):
    path = sound(tmp_path / "silence.wav", samples=np.zeros(500))
    assert not load_clip(path, sample_rate=16000, samples=500, silence=True).any()


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000, 96000])
def test_resampling_is_soxr_hq_on_float32(rate, sound, tmp_path):
    path = sound(tmp_path / "a.wav", rate=rate, seconds=0.5)
    samples, _ = soundfile.read(path, dtype="float32")
    expected = soxr.resample(samples, rate, 16000, quality="HQ")
    np.testing.assert_array_equal(load_clip(path, sample_rate=16000, samples=None), expected)
    assert len(expected) <= audio.resampled_length(len(samples), rate, 16000)


def test_the_same_rate_is_left_alone(sound, tmp_path):
    path = sound(tmp_path / "a.wav")
    samples, _ = soundfile.read(path, dtype="float32")
    np.testing.assert_array_equal(load_clip(path, sample_rate=16000, samples=None), samples)


def test_short_clips_get_zeros_at_the_end(sound, tmp_path):
    samples = np.full(100, 0.5, np.float32)
    path = sound(tmp_path / "short.wav", samples=samples, subtype="FLOAT")
    clip = load_clip(path, sample_rate=16000, samples=160, start=10**15)
    np.testing.assert_array_equal(clip, [0.5] * 100 + [0.0] * 60)


@pytest.mark.parametrize(("start", "first"), [(0, 0), (1, 1), (39, 39), (40, 0), (85, 5)])
def test_a_crop_starts_where_it_is_told_modulo_the_room(start, first, sound, tmp_path):
    samples = (np.arange(100) / 1000).astype(np.float32)
    path = sound(tmp_path / "long.wav", samples=samples, subtype="FLOAT")
    clip = load_clip(path, sample_rate=16000, samples=60, start=start)
    np.testing.assert_array_equal(clip, samples[first : first + 60])
    assert clip.flags["C_CONTIGUOUS"]


def test_random_starts_depend_on_seed_and_clip_only():
    starts = {(s, c): audio.random_start(s, c) for s in range(20) for c in ("a.wav", "b.wav", "é")}
    assert len(set(starts.values())) == 60
    assert all(0 <= start < 2**63 for start in starts.values())


def test_random_starts_never_change():
    """Scores that people have published depend on them."""
    assert audio.random_start(42, "a.wav") == 512787036600356217
    assert audio.random_start(43, "é/b.flac") == 4494470371959403684


def test_random_starts_are_uniform():
    firsts = [audio.random_start(42, f"{i}.wav") % 10 for i in range(5000)]
    assert np.bincount(firsts, minlength=10) == pytest.approx(np.full(10, 500), abs=110)


@pytest.mark.parametrize(
    ("seconds", "rate", "samples"),
    [(1.0, 16000, 16000), (2.95, 16000, 47200), (4.2, 32000, 134400), (0.99999, 16000, 15999)],
)
def test_a_unit_is_truncated_to_whole_samples(seconds, rate, samples):
    assert task_of(seconds).unit_samples(rate) == samples == int(seconds * rate)


# --- what cannot be used


def test_flac_named_wav_is_read_by_its_content(sound, tmp_path):
    path = sound(tmp_path / "really_flac.wav", format="FLAC")
    assert audio.read_header(path).frames == len(audio.decode(path)[0]) == 3200


@pytest.mark.parametrize("lost", [1, 2, 1000])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_wav_that_ends_early_is_truncated(lost, subtype, sound, tmp_path):
    path = sound(tmp_path / "a.wav", subtype=subtype)
    assert audio.read_header(path).frames == 3200
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(BadAudio, match="truncated"):
        audio.read_header(path)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_that_ends_early_is_truncated(subtype, sound, tmp_path):
    path = sound(tmp_path / "a.ogg", seconds=6, rate=16000, format="OGG", subtype=subtype)
    content = path.read_bytes()
    last = content.rindex(b"OggS")
    assert audio.read_header(path).frames == 96000
    for cut in (len(content) - 1, len(content) - 1000, last + 29, last + 20, last + 4):
        path.write_bytes(content[:cut])
        with pytest.raises(BadAudio, match="truncated"):
            audio.read_header(path)


def test_bytes_after_the_last_page_of_an_ogg_do_no_harm(sound, tmp_path):
    path = sound(tmp_path / "a.ogg", format="OGG", subtype="VORBIS")
    path.write_bytes(path.read_bytes() + b"TAG" + 125 * b"\0")
    assert audio.read_header(path).frames == 3200


def test_a_wav_of_open_length_is_whole(sound, tmp_path):
    """What ffmpeg writes into a pipe: the length of the data is not known beforehand."""
    path = sound(tmp_path / "a.wav", subtype="PCM_16")
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[4:8] = content[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert audio.read_header(path).frames == 3200
    assert len(audio.decode(path)[0]) == 3200


def test_chunks_after_the_samples_do_no_harm(sound, tmp_path):
    path = sound(tmp_path / "a.wav", subtype="PCM_16")
    path.write_bytes(path.read_bytes() + b"LIST\x04\x00\x00\x00INFO")
    assert audio.read_header(path).frames == 3200


@pytest.mark.parametrize("suffix", ["flac", "wav"])
def test_damage_is_noticed_when_decoding_at_the_latest(suffix, sound, tmp_path):
    path = sound(tmp_path / f"a.{suffix}", seconds=2)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(BadAudio, match=str(path)):
        assert audio.read_header(path).frames == len(audio.decode(path)[0])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_samples_that_are_not_numbers(value, sound, tmp_path):
    samples = np.zeros(500)
    samples[250] = value
    with pytest.raises(BadAudio, match="not numbers"), np.errstate(all="ignore"):
        audio.decode(sound(tmp_path / "a.wav", samples=samples, subtype="DOUBLE"))


@pytest.mark.parametrize("read", [audio.read_header, audio.decode])
@pytest.mark.parametrize("name", ["gone.wav", "folder.wav", "text.raw", "empty.wav"])
def test_every_unreadable_file_is_named(name, read, tmp_path):
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "text.raw").write_text("no sound")
    (tmp_path / "empty.wav").write_bytes(b"")
    with pytest.raises(BadAudio, match=name):
        read(tmp_path / name)


@pytest.mark.parametrize("kind", ["AU", "AIFF", "RF64", "W64"])
def test_other_formats_that_end_early_are_truncated(kind, sound, tmp_path):
    path = sound(tmp_path / "a.snd", seconds=2, rate=22050, format=kind, subtype="PCM_16")
    assert audio.read_header(path).frames == 44100
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(BadAudio, match=r"truncated: [\d,]+ bytes"):
            audio.read_header(path)


def test_an_au_file_of_unknown_length_is_whole(sound, tmp_path):
    path = sound(tmp_path / "a.au", format="AU", subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[8:12] = b"\xff" * 4
    path.write_bytes(content)
    assert audio.read_header(path).frames == 3200


def test_what_the_system_refuses_is_no_bad_clip(sound, tmp_path, monkeypatch):
    """Else a disk that fails for a moment would leave the clip out for good."""
    path = sound(tmp_path / "a.wav")

    def fails(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(decoding, "Reader", fails)
    with pytest.raises(UserError, match=r"a.wav: cannot be read \(Input/output error\)") as raised:
        audio.decode(path)
    assert not isinstance(raised.value, BadAudio)
    monkeypatch.setattr(Path, "open", fails)
    with pytest.raises(UserError, match="cannot be read"):
        audio.fingerprint(path)


# --- fingerprints


def test_the_same_content_has_the_same_fingerprint(sound, tmp_path):
    a, b = (sound(tmp_path / name, seconds=3) for name in ("a.wav", "b.wav"))
    assert audio.fingerprint(a) == audio.fingerprint(b)


@pytest.mark.parametrize(
    ("seconds", "at"),
    [(seconds, at) for seconds in (0.2, 5) for at in (0.001, 0.25, 0.4, 0.5, 0.75, 0.9, 0.999)],
)
def test_a_change_changes_the_fingerprint(seconds, at, sound, tmp_path):
    path = sound(tmp_path / "a.wav", seconds=seconds)
    before = audio.fingerprint(path)
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1
    path.write_bytes(content)
    assert audio.fingerprint(path) != before
