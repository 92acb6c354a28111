"""Reads sound files as the mono samples that an encoder gets.

Mono is the mean of the channels; the resampler is soxr's HQ setting, on float32 (what librosa's
default is). See docs/protocols.md, "Audio".
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import soxr
from numpy.typing import NDArray

from evar import files
from evar.data import decoding, excerpts, packed, tracks
from evar.errors import BadAudio

Length = TypeVar("Length", int, NDArray)
Span = tuple[int, int]  # first frame of a part of a file, and the frame behind its last
MIN_SAMPLES = 2  # one sample is a number, not a sound
LOUDEST = 1e10  # full scale is 1, and 2**31 where integers were stored as floats


@dataclass(frozen=True)
class Header:
    """Sample rate in Hz and frames (samples per channel) of a sound file.

    decoder: name and version of what decodes it; "" for soundfile.
    """

    sample_rate: int
    frames: int
    decoder: str = ""


def read_header(path) -> Header:
    """Returns the sample rate and length of a sound file, decoding it only where that is needed.

    Files whose container does not say how long they are (FLAC from a pipe) are decoded; frames of
    MPEG audio are counted. Raises BadAudio where a file cannot be read, is empty, ends before its
    own headers say (libsndfile would shorten it in silence) or contradicts itself.
    """
    return _header(packed.locate(path))


def duration(path) -> float:
    """Returns the length of a sound file in seconds; raises what `read_header` does."""
    header = _header(packed.locate(path))
    return header.frames / header.sample_rate


def _header(path: Path | packed.Sound) -> Header:
    with decoding.named_errors(path):
        stream = decoding.inspect(path)
        if stream.trusted:
            with decoding.Reader(stream.source(decoding.native(path))) as file:
                rate, frames = file.samplerate, stream.frames or file.frames
        elif stream.track:
            frames, rate = decoding.length(path, stream)
        else:
            samples, rate = decoding.decode(path, stream)
            frames = len(samples)
        decoding.check_rate(rate)
    if frames == 0:
        raise BadAudio(path, "holds no samples")
    if frames < MIN_SAMPLES:
        raise BadAudio(path, "holds a single sample")
    return Header(rate, frames, tracks.decoder() if stream.track else "")


def fingerprint(path) -> str:
    """Returns the first 16 digits of a file's SHA-256, which every edit changes."""
    with files.reading(path), packed.locate(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def decode(path, span: Span | None = None) -> tuple[np.ndarray, int]:
    """Returns the whole file as mono float32 (S,) in [-1, 1], and its sample rate in Hz.

    span: the first frame to decode and the one behind the last; then no more of the file is
    checked, and of formats that seek exactly no more is read. Raises BadAudio for what cannot be
    decoded to the end, for samples that differ from a checksum in the file, and for samples that
    are not finite or absurdly large.
    """
    path = packed.locate(path)
    with decoding.named_errors(path):
        if span is None:
            samples, rate = decoding.decode(path, decoding.inspect(path))
            mono = decoding.mono(samples)
        else:
            mono, rate = excerpts.read(path, *span)
    if len(mono) < MIN_SAMPLES:
        raise BadAudio(path, "holds no sound")
    peak = max(mono.max(), -mono.min())
    if not np.isfinite(peak):  # NumPy's extremes of samples with a NaN are NaN
        raise BadAudio(path, "holds samples that are not numbers (NaN or infinite)")
    if peak > LOUDEST:
        raise BadAudio(path, f"holds samples of {peak:.0e}, where full scale is 1")
    return mono, rate


def digest(path, span: Span | None = None) -> str:
    """Returns a hash of a file's decoded mono samples, or of those of a span; "" for silence.

    Equal sounds have equal digests in any lossless container.
    """
    return digest_of(decode(path, span)[0])


def head_digest(path, span: Span | None = None) -> str:
    """Returns a hash of the first samples of a file or span: tells most sounds apart quickly."""
    path = packed.locate(path)
    with decoding.named_errors(path):
        if span is None:
            with decoding.opened_quickly(path) as file:
                samples = decoding.read(file, decoding.HEAD)
            mono = decoding.mono(samples)
        else:
            mono, _ = excerpts.read(path, span[0], min(span[1], span[0] + decoding.HEAD))
    return digest_of(mono) or "silence"


def digest_of(mono: np.ndarray) -> str:
    """Returns a hash of decoded mono samples (S,); "" for digital silence."""
    if not mono.any():
        return ""
    return hashlib.blake2b((mono + np.float32(0)).data, digest_size=16).hexdigest()  # -0 becomes 0


def load_clip(
    path,
    *,
    sample_rate: int,
    samples: int | None,
    start: int = 0,
    span: Span | None = None,
    silence: bool = False,
) -> np.ndarray:
    """Returns one clip as the encoder gets it: mono float32 (samples,) at `sample_rate` Hz.

    `span`: the part of the file that is the clip, in frames; None is the whole file. `start`:
    where the unit begins in a longer clip, a number in [0, 2**63) taken modulo the room there is;
    0 is the beginning. Shorter clips get zeros at the end; `samples=None` keeps the
    whole clip. Digital silence raises BadAudio unless `silence` allows it.
    """
    mono, rate = sound(path, span, silence=silence)
    mono = resampled(mono, rate, sample_rate)
    if samples is None:
        return mono
    if len(mono) > samples:
        first = first_sample(len(mono), samples, start)
        return np.ascontiguousarray(mono[first : first + samples])
    return np.pad(mono, (0, samples - len(mono)))


def sound(path, span: Span | None = None, *, silence: bool = False) -> tuple[np.ndarray, int]:
    """Returns what `decode` does, and raises BadAudio for digital silence unless it is allowed."""
    mono, rate = decode(path, span)
    if not silence and not mono.any():
        raise BadAudio(path, "silent: every sample is zero")
    return mono, rate


def resampled(mono: np.ndarray, rate: int, sample_rate: int) -> np.ndarray:
    """Returns samples (S,) at another rate in Hz."""
    return mono if rate == sample_rate else soxr.resample(mono, rate, sample_rate, quality="HQ")


def first_sample(length: int, samples: int, start: int) -> int:
    """Returns where a unit of so many samples begins in a clip: `start` modulo the room."""
    room = length - samples
    return start % room if room > 0 else 0


def random_start(seed: int, clip: str) -> int:
    """Returns where a training clip's random crop begins, which only (seed, clip) decides.

    `load_clip` takes it modulo the samples a crop can be moved by.
    """
    digest = hashlib.blake2b(f"{seed}:{clip}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def resampled_length(frames: Length, rate: Length, sample_rate: int) -> Length:
    """Returns an upper bound of the samples that `frames` at `rate` become at `sample_rate`.

    frames, rate: numbers, or arrays of them.
    """
    return -(-frames * sample_rate // rate)
