"""Opens sound files: what their container says, and all samples as soundfile decodes them.

Errors of the decoder become BadAudio (the file is to blame) or UserError (the system is).
"""

import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from evar import files
from evar.data import packed, tracks
from evar.data.containers import flac, kinds, mpeg, ogg, riff
from evar.data.containers.stream import PLAIN, Damaged, Stream, id3_length
from evar.errors import BadAudio

_SF_ERR_SYSTEM = 2  # of libsndfile: the operating system refused
HEAD = 4096  # bytes from which the kind of a file is recognised
BLOCK = 1 << 22  # samples decoded at a time, so that no header decides how much is allocated
RATES = (1_000, 768_000)  # Hz; outside of it a header is damaged
# Subtypes of integers: what libsndfile reads them as, and 1 over full scale. The product is what it
# returns itself when it is asked for float32, to the last bit, in a third of the time.
_INTEGERS = {"PCM_16": ("int16", np.float32(2**-15)), "PCM_32": ("int32", np.float32(2**-31))}
_KNOWN = "WAV, FLAC, OGG, MP3, AIFF and AU are"


class Reader(soundfile.SoundFile):
    """A file that is read from its beginning to its end.

    soundfile otherwise trusts the header's length and seeks after every block, which decoders of
    lossy formats do not do exactly.
    """

    def seekable(self) -> bool:
        return False


@contextmanager
def named_errors(path: Path | packed.Sound) -> Iterator[None]:
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


def _reason(path: Path | packed.Sound, error: Exception) -> str:
    head = _first_bytes(path)
    if not head:
        return kinds.describe(head)
    detail = str(error).rpartition(": ")[2].strip().rstrip(".")
    kind = kinds.describe(head)
    return f"not readable as sound ({f'it is {kind}' if kind else detail}); {_KNOWN}"


def native(path: Path | packed.Sound) -> "bytes | str | io.BytesIO":
    """Returns a path as libsndfile takes it: file names need not be UTF-8."""
    if isinstance(path, packed.Sound):
        return path.open()
    return str(path) if os.name == "nt" else os.fsencode(path)


def _first_bytes(path: Path | packed.Sound) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def inspect(path: Path | packed.Sound) -> Stream:
    """Looks at a file's container. Raises Damaged, BadAudio or OSError."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise Damaged("not a file: a pipe, a socket or a device")  # opening it might never return
    with path.open("rb") as file:
        head = file.read(HEAD)
        tags = id3_length(head)
        if tags + 64 > len(head) and tags:
            head += file.read()
        if tracks.is_one(head):
            tracks.require(head)
            return Stream(trusted=False, track=True)
        match head[tags : tags + 4]:
            case b"fLaC":
                return flac.inspect(head, flac.tail_of(path), path.read_bytes) or PLAIN
            case b"OggS" if not kinds.describe(head):
                return ogg.inspect(path.read_bytes())
            case b"RIFF" | b".snd" | b"FORM" | b"RF64" | b"riff":
                file.seek(0)
                return riff.inspect(file, packed.size(path))  # not of a shard
        if tags or head[:1] == b"\xff" or path.suffix.lower() in (".mp3", ".mp2", ".mpga"):
            return _inspect_mpeg(path, head, tags)
    return PLAIN


def _inspect_mpeg(path: Path | packed.Sound, head: bytes, tags: int) -> Stream:
    data = path.read_bytes()
    stream = None if kinds.describe(head) else mpeg.inspect(data)
    if stream is None and tags and not data[tags:].strip(b"\0"):
        raise Damaged("holds tags and no sound")
    if stream is None or stream.content is None:
        return stream or PLAIN
    with Reader(native(path)) as file:
        enough = file.frames >= stream.frames  # the decoder's estimate does not cut the file
    return replace(stream, content=None) if enough else stream


def opened(path: Path | packed.Sound, stream: Stream) -> "Reader | tracks.Track":
    """Returns the open file, to read from its beginning to its end."""
    if stream.track:
        source = path.open() if isinstance(path, packed.Sound) else str(path)
        return tracks.Track(source, _first_bytes(path))
    return Reader(stream.source(native(path)))


def opened_quickly(path: Path | packed.Sound) -> "Reader | tracks.Track":
    """Returns the open file, without a look at how long it is."""
    return opened(path, Stream(track=is_track(path)))


def is_track(path: Path | packed.Sound) -> bool:
    """Returns whether PyAV decodes a file."""
    return tracks.is_one(_first_bytes(path))


def length(path: Path | packed.Sound, stream: Stream) -> tuple[int, int]:
    """Returns the frames and the rate (Hz) of a sound track, decoded in flat memory."""
    with opened(path, stream) as file:
        check_rate(file.samplerate)
        return sum(len(block) for block in _blocks(partial(read, file), BLOCK)), file.samplerate


def check_rate(rate: int) -> None:
    """Raises Damaged for a sample rate that no recorder has."""
    if not RATES[0] <= rate <= RATES[1]:
        low, high = (f"{each // 1000} kHz" for each in RATES)
        raise Damaged(f"damaged: a sample rate of {rate:,} Hz, outside {low} to {high}")


def decode(path: Path | packed.Sound, stream: Stream) -> tuple[np.ndarray, int]:
    """Returns all samples (S, channels) as float32, and the rate in Hz.

    Raises Damaged, or what soundfile does.
    """
    file: Any
    with opened(path, stream) as file:
        expected, rate, channels = stream.frames, file.samplerate, file.channels
        plain = None if isinstance(file, tracks.Track) else file
        if expected is None and stream.trusted and plain:
            expected = plain.frames
        check_rate(rate)
        size = max(1, min(BLOCK // channels, plain.frames + 1 if plain else BLOCK))
        if stream.md5 and plain:
            samples, digest = _read_and_hash(plain, size, stream.bits)
        else:
            samples, digest = _joined(list(_blocks(partial(read, file), size)), channels), b""
    proven = bool(stream.md5) and digest == stream.md5
    if expected is not None and len(samples) != expected and not (stream.lenient and proven):
        raise Damaged(f"damaged: {len(samples):,} of {expected:,} frames decode")
    if stream.md5 and not proven:
        raise Damaged("damaged: its samples do not have the MD5 that its header names")
    return samples, rate


def mono(samples: np.ndarray) -> np.ndarray:
    """Returns the mean of the channels, (S, channels) -> (S,)."""
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)


def read(file: "soundfile.SoundFile | tracks.Track", frames: int) -> np.ndarray:
    """Returns the next frames of an open file (up to `frames`, channels) as float32."""
    if isinstance(file, tracks.Track) or file.subtype not in _INTEGERS or file.format == "SDS":
        # (An SDS dump holds more bits than its subtype says: as int16, it would lose them.)
        return file.read(frames, dtype="float32", always_2d=True)
    dtype, scale = _INTEGERS[file.subtype]
    return np.multiply(file.read(frames, dtype=dtype, always_2d=True), scale, dtype=np.float32)


def _blocks(read: Callable[[int], np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Yields arrays (up to `size`, channels) until nothing more decodes."""
    while len(block := read(size)):
        yield block
        if len(block) < size:
            return


def _joined(blocks: list[np.ndarray], channels: int) -> np.ndarray:
    if len(blocks) == 1:
        return blocks[0].copy() if blocks[0].base is not None else blocks[0]
    return np.concatenate([np.zeros((0, channels), np.float32), *blocks])


def _read_and_hash(file: Reader, size: int, bits: int) -> tuple[np.ndarray, bytes]:
    """All samples of a FLAC file and the MD5 of its integers (RFC 9639, section 8.2).

    An integer of up to 24 bits, left-justified in 32, is exact in float32: the samples are those
    that libsndfile's own conversion gives.
    """
    digest, blocks = hashlib.md5(usedforsecurity=False), []
    width = -(-bits // 8)  # bytes
    for block in _blocks(partial(file.read, dtype="int32", always_2d=True), size):
        small = np.ascontiguousarray(block >> (32 - bits), "<i4").view(np.uint8)
        digest.update(np.ascontiguousarray(small.reshape(-1, 4)[:, :width]).data)
        blocks.append(block.astype(np.float32) * np.float32(2**-31))
    return _joined(blocks, file.channels), digest.digest()
