"""Reads sound files as the mono samples that an encoder gets.

Mono is the mean of the channels; the resampler is soxr's HQ setting, on float32 (what librosa's
default is). See docs/protocols.md, "Audio".
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import soxr

from evar import files
from evar.data.containers import flac, kinds, mpeg, ogg, riff
from evar.data.containers.stream import PLAIN, Damaged, Stream, id3_length
from evar.errors import BadAudio

_SF_ERR_SYSTEM = 2  # of libsndfile: the operating system refused
_HEAD = 4096  # bytes from which the kind of a file is recognised
_BLOCK = 1 << 22  # samples decoded at a time, so that no header decides how much is allocated
MIN_SAMPLES = 2  # one sample is a number, not a sound
RATES = (1_000, 768_000)  # Hz; outside of it a header is damaged
LOUDEST = 1e10  # full scale is 1, and 2**31 where integers were stored as floats
_KNOWN = "WAV, FLAC, OGG, MP3, AIFF and AU are"


@dataclass(frozen=True)
class Header:
    """Sample rate in Hz and frames (samples per channel) of a sound file."""

    sample_rate: int
    frames: int


def read_header(path) -> Header:
    """Returns the sample rate and length of a sound file, decoding it only where that is needed.

    Files whose container does not say how long they are (FLAC from a pipe) are decoded; frames of
    MPEG audio are counted. Raises BadAudio where a file cannot be read, is empty, ends before its
    own headers say (libsndfile would shorten it in silence) or contradicts itself.
    """
    return _header(Path(path))


def duration(path) -> float:
    """Returns the length of a sound file in seconds; raises what `read_header` does."""
    header = _header(Path(path))
    return header.frames / header.sample_rate


def _header(path: Path) -> Header:
    with _decoding(path):
        stream = _inspect(path)
        if stream.trusted:
            with _Reader(stream.source(_native(path))) as file:
                rate, frames = file.samplerate, stream.frames or file.frames
        else:
            samples, rate = _decode(path, stream)
            frames = len(samples)
        _check_rate(rate)
    if frames == 0:
        raise BadAudio(path, "holds no samples")
    if frames < MIN_SAMPLES:
        raise BadAudio(path, "holds a single sample")
    return Header(rate, frames)


class _Reader(soundfile.SoundFile):
    """A file that is read from its beginning to its end.

    soundfile otherwise trusts the header's length and seeks after every block, which decoders of
    lossy formats do not do exactly.
    """

    def seekable(self) -> bool:
        return False


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Turns libsndfile's errors into BadAudio, or into UserError where the system is to blame.

    A disk that fails for a moment must not mark a clip as bad for good.
    """
    try:
        yield
    except Damaged as error:
        raise BadAudio(path, str(error)) from error
    except (soundfile.SoundFileError, OSError, TypeError) as error:  # TypeError: headerless
        if not path.exists():
            raise BadAudio(path, "no such file") from error
        if isinstance(error, IsADirectoryError):
            raise BadAudio(path, f"a folder, not readable as sound; {_KNOWN}") from error
        if isinstance(error, OSError) or getattr(error, "code", None) == _SF_ERR_SYSTEM:
            raise files.unreadable(path, error) from error
        raise BadAudio(path, _reason(path, error)) from error


def _reason(path: Path, error: Exception) -> str:
    head = _first_bytes(path)
    if not head:
        return kinds.describe(head)
    detail = str(error).rpartition(": ")[2].strip().rstrip(".")
    kind = kinds.describe(head)
    return f"not readable as sound ({f'it is {kind}' if kind else detail}); {_KNOWN}"


def _native(path: Path) -> bytes | str:
    """A path as libsndfile takes it: file names need not be UTF-8."""
    return str(path) if os.name == "nt" else os.fsencode(path)


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD)


def _inspect(path: Path) -> Stream:
    """Looks at a file's container. Raises Damaged, BadAudio or OSError."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise Damaged("not a file: a pipe, a socket or a device")  # opening it might never return
    with path.open("rb") as file:
        head = file.read(_HEAD)
        tags = id3_length(head)
        if tags + 64 > len(head) and tags:
            head += file.read()
        match head[tags : tags + 4]:
            case b"fLaC":
                return flac.inspect(head, flac.tail_of(path), path.read_bytes) or PLAIN
            case b"OggS" if not kinds.describe(head):
                return ogg.inspect(path.read_bytes())
            case b"RIFF" | b".snd" | b"FORM" | b"RF64" | b"riff":
                file.seek(0)
                return riff.inspect(file, status.st_size)
        if tags or head[:1] == b"\xff" or path.suffix.lower() in (".mp3", ".mp2", ".mpga"):
            return _inspect_mpeg(path, head, tags)
    return PLAIN


def _inspect_mpeg(path: Path, head: bytes, tags: int) -> Stream:
    data = path.read_bytes()
    stream = None if kinds.describe(head) else mpeg.inspect(data)
    if stream is None and tags and not data[tags:].strip(b"\0"):
        raise Damaged("holds tags and no sound")
    if stream is None or stream.content is None:
        return stream or PLAIN
    with _Reader(_native(path)) as file:
        enough = file.frames >= stream.frames  # the decoder's estimate does not cut the file
    return replace(stream, content=None) if enough else stream


def _check_rate(rate: int) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        low, high = (f"{each // 1000} kHz" for each in RATES)
        raise Damaged(f"damaged: a sample rate of {rate:,} Hz, outside {low} to {high}")


def fingerprint(path) -> str:
    """Returns the first 16 digits of a file's SHA-256, which every edit changes."""
    with files.reading(path), Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def decode(path) -> tuple[np.ndarray, int]:
    """Returns the whole file as mono float32 (S,) in [-1, 1], and its sample rate in Hz.

    Raises BadAudio for what cannot be decoded to the end, for samples that differ from a checksum
    in the file, and for samples that are not finite or absurdly large.
    """
    path = Path(path)
    with _decoding(path):
        samples, rate = _decode(path, _inspect(path))
    if len(samples) < MIN_SAMPLES:
        raise BadAudio(path, "holds no sound")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise BadAudio(path, "holds samples that are not numbers (NaN or infinite)")
    peak = max(mono.max(), -mono.min())
    if peak > LOUDEST:
        raise BadAudio(path, f"holds samples of {peak:.0e}, where full scale is 1")
    return mono, rate


def digest(path) -> str:
    """Returns a hash of a file's decoded mono samples; "" for digital silence.

    Equal sounds have equal digests in any lossless container.
    """
    return digest_of(decode(path)[0])


def head_digest(path) -> str:
    """Returns a hash of a file's first samples: a quick way to tell most sounds apart."""
    path = Path(path)
    with _decoding(path), _Reader(_native(path)) as file:
        samples = file.read(_HEAD, dtype="float32", always_2d=True)
    return digest_of(samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)) or "silence"


def digest_of(mono: np.ndarray) -> str:
    """Returns a hash of decoded mono samples (S,); "" for digital silence."""
    if not mono.any():
        return ""
    return hashlib.blake2b((mono + np.float32(0)).data, digest_size=16).hexdigest()  # -0 becomes 0


def _decode(path: Path, stream: Stream) -> tuple[np.ndarray, int]:
    """All samples (S, channels) as float32, and the rate. Raises Damaged or what soundfile does."""
    with _Reader(stream.source(_native(path))) as file:
        expected, rate, channels = stream.frames, file.samplerate, file.channels
        if expected is None and stream.trusted:
            expected = file.frames
        _check_rate(rate)
        size = max(1, min(_BLOCK // channels, file.frames + 1))
        if stream.md5:
            samples, digest = _read_and_hash(file, size, stream.bits)
        else:
            samples, digest = _joined(list(_blocks(file, size, "float32")), channels), b""
    proven = bool(stream.md5) and digest == stream.md5
    if expected is not None and len(samples) != expected and not (stream.lenient and proven):
        raise Damaged(f"damaged: {len(samples):,} of {expected:,} frames decode")
    if stream.md5 and not proven:
        raise Damaged("damaged: its samples do not have the MD5 that its header names")
    return samples, rate


def _blocks(file: _Reader, size: int, dtype: str) -> Iterator[np.ndarray]:
    """Yields arrays (up to `size`, channels) until nothing more decodes."""
    while len(block := file.read(size, dtype=dtype, always_2d=True)):
        yield block
        if len(block) < size:
            return


def _joined(blocks: list[np.ndarray], channels: int) -> np.ndarray:
    if len(blocks) == 1:
        return blocks[0].copy() if blocks[0].base is not None else blocks[0]
    return np.concatenate([np.zeros((0, channels), np.float32), *blocks])


def _read_and_hash(file: _Reader, size: int, bits: int) -> tuple[np.ndarray, bytes]:
    """All samples of a FLAC file and the MD5 of its integers (RFC 9639, section 8.2).

    An integer of up to 24 bits, left-justified in 32, is exact in float32: the samples are those
    that libsndfile's own conversion gives.
    """
    digest, blocks = hashlib.md5(usedforsecurity=False), []
    width = -(-bits // 8)  # bytes
    for block in _blocks(file, size, "int32"):
        small = np.ascontiguousarray(block >> (32 - bits), "<i4").view(np.uint8)
        digest.update(np.ascontiguousarray(small.reshape(-1, 4)[:, :width]).data)
        blocks.append(block.astype(np.float32) * np.float32(2**-31))
    return _joined(blocks, file.channels), digest.digest()


def load_clip(
    path, *, sample_rate: int, samples: int | None, start: int = 0, silence: bool = False
) -> np.ndarray:
    """Returns one clip as the encoder gets it: mono float32 (samples,) at `sample_rate` Hz.

    `start`: where the unit begins in a longer clip, a number in [0, 2**63) taken modulo the room
    there is; 0 is the beginning. Shorter clips get zeros at the end; `samples=None` keeps the
    whole clip. Digital silence raises BadAudio unless `silence` allows it.
    """
    mono, rate = decode(path)
    if not silence and not mono.any():
        raise BadAudio(path, "silent: every sample is zero")
    if rate != sample_rate:
        mono = soxr.resample(mono, rate, sample_rate, quality="HQ")
    if samples is None:
        return mono
    room = len(mono) - samples
    if room > 0:
        first = start % room
        return np.ascontiguousarray(mono[first : first + samples])
    return np.pad(mono, (0, -room))


def random_start(seed: int, clip: str) -> int:
    """Returns where a training clip's random crop begins, which only (seed, clip) decides.

    `load_clip` takes it modulo the samples a crop can be moved by.
    """
    digest = hashlib.blake2b(f"{seed}:{clip}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def resampled_length(frames: int, rate: int, sample_rate: int) -> int:
    """Returns an upper bound of the samples that `frames` at `rate` become at `sample_rate`."""
    return -(-frames * sample_rate // rate)
