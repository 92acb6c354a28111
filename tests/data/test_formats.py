"""Sound files of every encoder decode to the length that ffmpeg decodes."""

import os
import shutil
import subprocess
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

from evar.data import audio
from evar.errors import BadAudio

LAME = ("-V4", "-V4 -t", "-b 64", "-b 64 -t", "--abr 80 -t", "-p -V5", "-p -V5 -t", "-V3 --tt x")
FFMPEG = {  # suffix: muxer, options
    "mp3": ("mp3", ("-q:a 4", "-q:a 4 -write_xing 0", "-b:a 64k -write_xing 0 -id3v2_version 0")),
    "mp2": ("mp2", ("",)),
    "flac": ("flac", ("", "-sample_fmt s32")),
    "ogg": ("ogg", ("-c:a libvorbis", "-c:a libopus", "-c:a flac")),
    "opus": ("opus", ("",)),
    "wav": ("wav", ("", "-c:a pcm_s24le", "-c:a pcm_f32le", "-c:a pcm_u8", "-c:a adpcm_ms")),
    "rf64": ("wav", ("-rf64 always",)),
    "aiff": ("aiff", ("", "-c:a pcm_s24be")),
    "au": ("au", ("",)),
    "caf": ("caf", ("",)),
}
SOX = ("wav", "aiff", "aifc", "au", "flac", "ogg", "caf")
NO_PIPE = {("sox", "caf"), ("ffmpeg", "caf"), ("ffmpeg", "rf64")}  # ffmpeg fails to read these
# What ffmpeg cannot read, or reads a fraction of a block too short or too long (Vorbis of few
# bits, ffmpeg 5.1): the length must be that of the source.
BEYOND_FFMPEG = {("sox", "ogg", False), ("sox", "ogg", True), ("ffmpeg", "aiff", True)}


class Case(NamedTuple):
    """One way to encode: the tool, its options, the suffix, whether it writes to a pipe."""

    tool: str
    options: str
    suffix: str
    pipe: bool
    muxer: str = ""

    def command(self, source: str, target: str) -> list[str]:
        options = self.options.split()
        out = "-" if self.pipe else target
        match self.tool:
            case "ffmpeg":
                begin = ["ffmpeg", "-y", "-v", "error", "-i", source]
                return [*begin, *options, "-f", self.muxer, out]
            case "lame":
                return ["lame", "--quiet", *options, source, out]
            case "flac":
                return [
                    "flac",
                    "-s",
                    "-f",
                    *options,
                    source,
                    *(["-c"] if self.pipe else ["-o", out]),
                ]
            case _:
                return ["sox", source, "-t", self.suffix, out]


def _cases():
    for pipe in (False, True):
        yield from (Case("lame", options, "mp3", pipe) for options in LAME)
        yield from (Case("flac", options, "flac", pipe) for options in ("-5", "--blocksize=4000"))
        yield Case("flac", "--ogg", "oga", pipe)
        yield from (Case("sox", "", suffix, pipe) for suffix in SOX)
        for suffix, (muxer, several) in FFMPEG.items():
            yield from (Case("ffmpeg", options, suffix, pipe, muxer) for options in several)


CASES = [case for case in _cases() if not (case.pipe and (case.tool, case.suffix) in NO_PIPE)]
NAMES = ["-".join([c.tool, c.suffix, *c.options.split(), *["pipe"] * c.pipe]) for c in CASES]


RATES = (8000, 22050, 44100)


def decoded_by_ffmpeg(paths, folder) -> list[tuple[int, np.ndarray]]:
    """The sample rate in Hz and the mono samples that ffmpeg decodes of each file."""
    outs = [folder / f"decoded{number}.au" for number in range(len(paths))]
    inputs = [word for path in paths for word in ("-i", str(path))]
    outputs = [
        word
        for number, out in enumerate(outs)
        for word in ("-map", f"{number}:a", "-f", "au", "-c:a", "pcm_f32be", str(out))
    ]
    command = ["ffmpeg", "-y", "-v", "error", *inputs, *outputs]  # it takes longest to start
    subprocess.run(command, capture_output=True, check=True)
    read = (soundfile.read(out, dtype="float32", always_2d=True) for out in outs)
    return [(rate, samples.mean(axis=1)) for samples, rate in read]


def loud_then_soft(path, rate):
    """Noise, then a tone: a variable bit rate whose first frames promise a short file."""
    count, rng = int(1.1 * rate) + 137, np.random.default_rng(rate)
    noise = 0.3 * rng.standard_normal(count // 2)
    tone = 0.2 * np.sin(0.05 * np.arange(count - count // 2))
    samples = np.concatenate([noise, tone])[:, None]
    soundfile.write(path, samples * ([[1, 0.9]] if rate == 44100 else [[1]]), rate)
    return path


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """One WAV file of each rate."""
    folder = tmp_path_factory.mktemp("sources")
    return [loud_then_soft(folder / f"{rate}.wav", rate) for rate in RATES]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_every_encoder_gives_the_length_that_ffmpeg_decodes(case, sources, tmp_path):
    for tool in {case.tool, "ffmpeg"}:
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed (apt-get install ffmpeg sox lame flac)")
    targets = [tmp_path / f"{rate}.{case.suffix}" for rate in RATES]
    for source, target in zip(sources, targets, strict=True):
        ran = subprocess.run(case.command(str(source), str(target)), capture_output=True)
        if ran.returncode:
            pytest.skip(f"{case.tool} does not encode this here: {ran.stderr[-200:].decode()}")
        if case.pipe:
            target.write_bytes(ran.stdout)
    alone = (case.tool, case.suffix, case.pipe) in BEYOND_FFMPEG
    reference = [None] * len(RATES) if alone else decoded_by_ffmpeg(targets, tmp_path)
    for source, target, known in zip(sources, targets, reference, strict=True):
        header, (mono, decoded_rate) = audio.read_header(target), audio.decode(target)
        assert header == audio.Header(decoded_rate, len(mono))
        if known is None:
            assert len(mono) == soundfile.info(source).frames
            continue
        rate_there, there = known
        assert len(mono) / decoded_rate == len(there) / rate_there
        if decoded_rate == rate_there:  # libsndfile decodes Opus at the rate it was encoded from
            assert np.corrcoef(mono, there)[0, 1] > 0.95


# --- MP3


def untagged(content: bytes) -> bytes:
    """An MP3 of libsndfile's without its first frame, which holds the Xing header."""
    first = content.index(b"\xff\xfb")
    return content[content.index(content[first : first + 2], first + 4) :]


@pytest.fixture
def mp3(tmp_path):
    """Two seconds at 44.1 kHz, variable bit rate, noise before silence; without a Xing header."""
    path, rng = tmp_path / "a.mp3", np.random.default_rng(0)
    samples = np.concatenate([0.3 * rng.standard_normal(44100), np.zeros(44100)])
    how = {"format": "MP3", "subtype": "MPEG_LAYER_III"}
    with soundfile.SoundFile(
        path, "w", 44100, 1, bitrate_mode="VARIABLE", compression_level=0.6, **how
    ) as file:
        file.write(samples)
    content = path.read_bytes()
    assert audio.read_header(path).frames == 88200
    path.write_bytes(untagged(content))
    return path


def test_an_mp3_without_a_header_of_its_length_is_read_whole(mp3):
    frames = audio.read_header(mp3).frames
    assert frames % 1152 == 0
    assert 88200 < frames < 88200 + 4 * 1152
    assert soundfile.info(mp3).frames < frames / 2  # what the decoder estimates
    mono, rate = audio.decode(mp3)
    assert (len(mono), rate) == (frames, 44100)
    rough = np.abs(mono[2000:43000]).mean(), np.abs(mono[48000:88000]).mean()
    assert rough[0] == pytest.approx(0.21, abs=0.02)
    assert rough[1] < 1e-3


def test_tags_before_and_behind_an_mp3_do_no_harm(mp3):
    frames, content = audio.read_header(mp3).frames, mp3.read_bytes()
    before = b"ID3\3\0\0\0\0\1\0" + bytes(128)
    for tagged in (before + content, content + b"TAG" + bytes(125), content + bytes(1000)):
        mp3.write_bytes(tagged)
        assert audio.read_header(mp3).frames == len(audio.decode(mp3)[0]) == frames


def test_an_mp3_that_was_cut_out_of_a_longer_one_is_read(mp3):
    content = mp3.read_bytes()
    mp3.write_bytes(content[len(content) // 3 :])
    assert audio.read_header(mp3).frames == len(audio.decode(mp3)[0]) > 44100


def test_an_mp3_that_ends_within_a_frame_is_truncated(mp3):
    mp3.write_bytes(mp3.read_bytes()[:-50])
    with pytest.raises(BadAudio, match="truncated: .* last MPEG frame"):
        audio.read_header(mp3)


def test_an_mp3_with_fewer_frames_than_it_counts_is_truncated(sound, tmp_path):
    path = sound(tmp_path / "a.mp3", seconds=2, rate=44100)
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(b"\xff\xfb", 0, -1000)])
    with pytest.raises(BadAudio, match="truncated: .* MPEG frames"):
        audio.read_header(path)


def test_foreign_bytes_within_an_mp3_are_damage(mp3):
    content = mp3.read_bytes()
    middle = content.index(content[:2], len(content) // 2)
    mp3.write_bytes(content[:middle] + bytes(range(1, 200)) + content[middle:])
    with pytest.raises(BadAudio, match="damaged: no MPEG frame at byte"):
        audio.read_header(mp3)


def test_an_mp3_of_tags_alone_holds_no_sound(tmp_path):
    """FMA's failed cuts."""
    path = tmp_path / "z.mp3"
    path.write_bytes(b"ID3\3\0\0\0\0\x0d\x40" + bytes(1742))
    with pytest.raises(BadAudio, match="tags and no sound"):
        audio.read_header(path)


# --- FLAC

TOTAL, MD5 = slice(21, 26), slice(26, 42)  # bytes of the header (the first has 4 bits of `bits`)


@pytest.fixture
def flac(sound, tmp_path):
    return sound(tmp_path / "a.flac", seconds=2, rate=22050)


def with_total(path, total, *, md5=True):
    content = bytearray(path.read_bytes())
    content[TOTAL] = ((content[21] >> 4 << 36) | total).to_bytes(5, "big")
    if not md5:
        content[MD5] = bytes(16)
    path.write_bytes(content)


@pytest.mark.parametrize("md5", [True, False])
def test_a_flac_of_unknown_length_is_read_to_its_end(md5, flac):
    before = audio.decode(flac)[0]
    with_total(flac, 0, md5=md5)
    assert audio.read_header(flac).frames == 44100
    np.testing.assert_array_equal(audio.decode(flac)[0], before)


@pytest.mark.parametrize("total", [1, 44099, 44101, 2**36 - 1])
def test_a_false_length_in_a_flac_is_excused_by_its_md5_alone(total, flac):
    before = audio.decode(flac)[0]
    with_total(flac, total)
    assert audio.read_header(flac).frames == 44100
    np.testing.assert_array_equal(audio.decode(flac)[0], before)
    with_total(flac, total, md5=False)
    with pytest.raises(BadAudio, match="damaged: 44,100 of"):
        audio.read_header(flac)


def test_a_flac_whose_samples_are_not_those_of_its_md5_is_damaged(flac):
    content = bytearray(flac.read_bytes())
    content[30] ^= 1
    flac.write_bytes(content)
    with pytest.raises(BadAudio, match="damaged: .* MD5"):
        audio.decode(flac)


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_flac_samples_are_those_of_libsndfile(subtype, channels, sound, tmp_path):
    samples = np.random.default_rng(1).uniform(-1, 1, (5000, channels))
    path = sound(tmp_path / "a.flac", samples=samples, subtype=subtype)
    expected = soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1)
    np.testing.assert_array_equal(audio.decode(path)[0], expected)


# --- Ogg


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_every_damaged_page_of_an_ogg_is_noticed(subtype, sound, tmp_path):
    path = sound(tmp_path / "a.ogg", seconds=6, rate=16000, format="OGG", subtype=subtype)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    last = content.rindex(b"OggS")
    for at in (last + 7, last + 25, *rng.integers(100, len(content), 20)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(BadAudio, match="damaged|truncated"):
            audio.read_header(path)


def test_a_lost_page_and_a_second_stream_are_noticed(sound, tmp_path):
    path = sound(tmp_path / "a.ogg", seconds=6, rate=16000, format="OGG", subtype="VORBIS")
    content = path.read_bytes()
    begin = content.index(b"OggS", len(content) // 2)
    path.write_bytes(content[:begin] + content[content.index(b"OggS", begin + 4) :])
    with pytest.raises(BadAudio, match="page .* is missing"):
        audio.read_header(path)
    path.write_bytes(content + content)
    with pytest.raises(BadAudio, match="chained"):
        audio.read_header(path)


# --- WAV and AU: bytes of the fields in the header

RATE, LENGTH = range(24, 28), range(40, 44)
COMMON_RATES = (8000, 11025, 16000, 22050, 44100, 48000)


def flipped(path, at, bit):
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("rate", COMMON_RATES)
def test_a_flipped_bit_in_the_rate_of_a_wav_is_noticed(rate, sound, tmp_path):
    for at in RATE:
        for bit in range(8):
            path = sound(tmp_path / "a.wav", rate=rate, seconds=0.1)
            flipped(path, at, bit)
            with pytest.raises(BadAudio, match="damaged"):
                audio.decode(path)


def test_a_flipped_bit_in_the_length_of_a_wav_is_noticed(sound, tmp_path):
    for at in LENGTH:
        for bit in range(8):
            path = sound(tmp_path / "a.wav", subtype="PCM_24", seconds=0.5)
            flipped(path, at, bit)
            # The highest bit reads "until the end", as pipes write it; the lowest are one frame.
            assert length_or_damage(path) in (8000, 7999, "damaged", "truncated")


def length_or_damage(path) -> int | str:
    try:
        return audio.read_header(path).frames
    except BadAudio as error:
        return error.reason.partition(":")[0]


def test_a_flipped_bit_in_the_length_of_an_au_is_noticed(sound, tmp_path):
    for at in range(8, 12):
        for bit in range(8):
            path = sound(tmp_path / "a.au", seconds=0.5, format="AU", subtype="PCM_16")
            flipped(path, at, bit)
            assert length_or_damage(path) in (8000, "damaged", "truncated", "holds no samples")


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2**31 - 1])
@pytest.mark.parametrize("read", [audio.read_header, audio.decode])
def test_rates_that_no_recorder_has_are_refused(read, rate, sound, tmp_path):
    path = sound(tmp_path / "a.wav", rate=16000)
    content = bytearray(path.read_bytes())
    content[24:28] = rate.to_bytes(4, "little")
    content[28:32] = (2 * rate % 2**32).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(BadAudio, match="sample rate of .* Hz, outside"):
        read(path)


def test_a_wav_whose_recorder_was_killed_is_read_to_its_end(sound, tmp_path):
    """The length of the samples, filled in at the end, is still 0."""
    path = sound(tmp_path / "a.wav")
    content = bytearray(path.read_bytes())
    content[40:44] = bytes(4)
    path.write_bytes(content)
    assert audio.read_header(path).frames == len(audio.decode(path)[0]) == 3200


def test_foreign_bytes_behind_a_wav_do_no_harm(sound, tmp_path):
    path = sound(tmp_path / "a.wav")
    path.write_bytes(path.read_bytes() + bytes(range(256)))
    assert audio.read_header(path).frames == 3200


def test_an_aiff_whose_fields_contradict_one_another_is_damaged(sound, tmp_path):
    path = sound(tmp_path / "a.aiff", seconds=0.5, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    at = content.index(b"COMM") + 10  # four bytes: number of frames
    assert content[at : at + 4] == (8000).to_bytes(4, "big")
    content[at : at + 4] = (4000).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(BadAudio, match="promises 4,000 frames"):
        audio.read_header(path)


# --- what is no sound

OTHERS = {
    "mp4.wav": (b"\0\0\0\x1cftypM4A \0\0\x02\0isomiso2mp41" + bytes(400), "MP4 or M4A"),
    "voice.m4a": (b"\0\0\0\x1cftypM4A \0\0\x02\0isomiso2mp41" + bytes(400), "MP4 or M4A"),
    "aac.mp3": (b"\xff\xf1\x50\x80\x04\x3f\xfc" * 50, "AAC"),
    "lfs.wav": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n",
        "git lfs pull",
    ),
    "annex.flac": (b"/annex/objects/SHA256E-s123--0.flac\n", "git annex get"),
    "page.mp3": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "HTML"),
    "page.wav": (b"\xef\xbb\xbf \n<HTML lang=en>", "HTML"),
    "gone.flac": (bytes(5000), "zeros only"),
    "error.ogg": (b'{"error": "quota exceeded"}', "JSON"),
    "list.wav": ("Größe\tlabel\n".encode() * 9, "text file"),
    "packed.wav": (b"PK\x03\x04" + bytes(range(200)), "zip"),
}


@pytest.mark.parametrize("read", [audio.read_header, audio.decode])
@pytest.mark.parametrize("name", OTHERS)
def test_a_file_that_is_no_sound_is_named_as_what_it_is(name, read, tmp_path):
    content, kind = OTHERS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadAudio, match=f"not readable as sound.*{kind}"):
        read(tmp_path / name)


def test_samples_far_beyond_full_scale_are_refused(sound, tmp_path):
    path = sound(tmp_path / "a.wav", samples=np.full(500, 1e30), subtype="FLOAT")
    with pytest.raises(BadAudio, match="samples of 1e"):
        audio.decode(path)
    path = sound(tmp_path / "b.wav", samples=np.full(500, -(2.0**31)), subtype="FLOAT")
    assert audio.decode(path)[0][0] == -(2.0**31)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(BadAudio, match="not a file"):
        audio.read_header(tmp_path / "a.wav")
