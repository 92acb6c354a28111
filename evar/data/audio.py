"""From a sound file to the samples an encoder is given.

Mono is the mean of the channels; the resampler is soxr's HQ setting, on float32 (what librosa's
default is). See docs/protocols.md, "Audio".
"""

import hashlib
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from evar import files
from evar.errors import BadAudio

_SF_ERR_SYSTEM = 2  # of libsndfile: the operating system refused
# Bytes: streaming writers leave the length open so, which means "until the end".
_OPEN, _OPEN_64 = 0x7FFFF000, 1 << 62
_SLACK = 64  # bytes: some writers count the header among the samples
MIN_SAMPLES = 2  # one sample is a number, not a sound
_OGG_PAGE = 27 + 255 + 255 * 255  # bytes: the longest page there can be


@dataclass(frozen=True)
class Header:
    """What a file says of itself: rate in Hz, frames per channel."""

    sample_rate: int
    frames: int


def read_header(path) -> Header:
    """The sample rate and length of a sound file, without decoding it.

    Raises BadAudio where libsndfile cannot read it, where it is empty, and where a WAV, AIFF, AU
    or Ogg file ends before its own headers say (libsndfile would shorten it in silence).
    """
    path = Path(path)
    with _decoding(path):
        info, missing = soundfile.info(path), _missing_bytes(path)
    if missing:
        raise BadAudio(path, f"truncated: {missing:,} bytes of its samples are missing")
    if info.frames == 0:
        raise BadAudio(path, "holds no samples")
    if info.frames < MIN_SAMPLES:
        raise BadAudio(path, "holds a single sample")
    return Header(info.samplerate, info.frames)


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Turn what libsndfile raises into BadAudio; into UserError where the system is to blame.

    A disk that fails for a moment must not make a clip a bad one for good.
    """
    try:
        yield
    except (soundfile.SoundFileError, OSError, TypeError) as error:  # TypeError: headerless
        if not path.exists():
            raise BadAudio(path, "no such file") from error
        if isinstance(error, OSError) or getattr(error, "code", None) == _SF_ERR_SYSTEM:
            raise files.unreadable(path, error) from error
        raise BadAudio(path, _reason(path, error)) from error


def _reason(path: Path, error: Exception) -> str:
    if path.stat().st_size == 0:
        return "an empty file (0 bytes)"
    detail = str(error).rpartition(": ")[2].strip().rstrip(".")
    return f"not readable as sound ({detail}); WAV, FLAC, OGG, MP3, AIFF and AU are"


def _missing_bytes(path: Path) -> int:
    """How many bytes of samples lie beyond the end of a file; 0 for formats that need no look."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(28)
        match head[:4]:
            case b"RIFF":
                end = _riff_end(file, size)
            case b"OggS":
                end = _ogg_end(file, size)
            case b".snd":  # AU: where the samples begin, how many bytes
                begin, length = struct.unpack_from(">II", head, 4)
                end = size if length >= _OPEN else begin + length - _SLACK
            case b"FORM":  # AIFF
                (length,) = struct.unpack_from(">I", head, 4)
                end = size if length >= _OPEN else 8 + length - _SLACK
            case b"RF64":
                (length,) = struct.unpack_from("<Q", head, 20)
                end = size if length >= _OPEN_64 else 8 + length - _SLACK
            case b"riff":  # Wave64
                (length,) = struct.unpack_from("<Q", head, 16)
                end = size if length >= _OPEN_64 else length - _SLACK
            case _:
                end = size
    return max(0, end - size)


def _riff_end(file, size: int) -> int:
    """Where the "data" chunk of a RIFF file ends, by its header."""
    position = 12
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack("<4sI", file.read(8))
        if name == b"data":
            return size if length >= _OPEN else position + 8 + length
        position += 8 + length + length % 2
    return size


def _ogg_end(file, size: int) -> int:
    """Where the last page of an Ogg file ends, by its table of segments (RFC 3533, section 6)."""
    file.seek(14)
    serial = file.read(4)
    first = max(0, size - _OGG_PAGE)
    file.seek(first)
    tail = file.read()
    at = len(tail)
    while (at := tail.rfind(b"OggS", 0, at)) >= 0:
        if serial.startswith(tail[at + 14 : at + 18]):  # else the letters stand there by chance
            segments = tail[at + 26] if at + 26 < len(tail) else 0
            table = tail[at + 27 : at + 27 + segments]
            return first + at + 27 + segments + sum(table)
    return size


def fingerprint(path) -> str:
    """The first 16 digits of a file's SHA-256: what tells it from every edit of it."""
    with files.reading(path), Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def decode(path) -> tuple[np.ndarray, int]:
    """The whole file as mono float32 (S,) in [-1, 1], and its sample rate in Hz.

    Raises BadAudio for what cannot be decoded to the end and for samples that are not numbers.
    """
    path = Path(path)
    with _decoding(path), soundfile.SoundFile(path) as file:
        expected, rate = file.frames, file.samplerate
        samples = file.read(dtype="float32", always_2d=True)  # (S, channels)
    if len(samples) < expected:
        raise BadAudio(path, f"damaged: only {len(samples):,} of {expected:,} frames decode")
    if len(samples) < MIN_SAMPLES:
        raise BadAudio(path, "holds no sound")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise BadAudio(path, "holds samples that are not numbers (NaN or infinite)")
    return mono, rate


def load_clip(
    path, *, sample_rate: int, samples: int | None, start: int = 0, silence: bool = False
) -> np.ndarray:
    """One clip as the encoder gets it: mono float32 at `sample_rate`, exactly `samples` long.

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
    """Where the random crop of a training clip begins: a number that only (seed, clip) decides.

    `load_clip` takes it modulo the samples a crop can be moved by.
    """
    digest = hashlib.blake2b(f"{seed}:{clip}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def resampled_length(frames: int, rate: int, sample_rate: int) -> int:
    """An upper bound of the samples that `frames` at `rate` become at `sample_rate`."""
    return -(-frames * sample_rate // rate)
