"""Reads parts of long recordings: by seeking where that is exact, else by decoding up to them.

Lossy decoders carry state from one block to the next, and do not give the same samples after a
seek. Such a file stays open between two calls, with the samples it has just given, so that parts
that are read in the order of time decode it once, in flat memory.
"""

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock

import numpy as np
import soundfile

from evar.data import decoding, packed, tracks
from evar.data.containers.stream import Damaged

_SEEKABLE = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC")  # names of libsndfile
_SAMPLES = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")  # subtypes with frames of fixed size
_KEPT = 1 << 23  # decoded samples of one file that stay in memory: 3 minutes at 44.1 kHz
_OPEN = 4  # files that stay open
_STEP = 1 << 16  # frames decoded at a time


def read(path: Path | packed.Sound, first: int, last: int) -> tuple[np.ndarray, int]:
    """Returns frames [first, last) of a file as mono float32 (last - first,), and its rate in Hz.

    The samples are those of the whole file, decoded and cut. Raises Damaged where the file ends
    before `last`, and what soundfile raises.
    """
    found = _by_seeking(path, first, last)
    if found is None:
        found = _tape_of(path).read(first, last)
    if len(found[0]) != last - first:
        raise Damaged(f"damaged: {len(found[0]):,} of {last - first:,} frames decode at {first:,}")
    return found


def _by_seeking(path: Path | packed.Sound, first: int, last: int) -> tuple[np.ndarray, int] | None:
    """Returns the samples and the rate; None for a file in which seeking is not exact."""
    if decoding.is_track(path):
        return None
    with soundfile.SoundFile(decoding.native(path)) as file:
        if not _seeks_exactly(file):
            return None
        stream = decoding.inspect(path)
        if stream.content is None and stream.trusted:
            return _cut(file, first, last)
    if not stream.trusted:  # the decoder does not know where the file ends
        return None
    with soundfile.SoundFile(stream.source(path)) as file:
        return _cut(file, first, last)


def _seeks_exactly(file: soundfile.SoundFile) -> bool:
    fixed = file.format == "FLAC" or file.subtype.startswith(_SAMPLES)
    return file.format in _SEEKABLE and fixed


def _cut(file: soundfile.SoundFile, first: int, last: int) -> tuple[np.ndarray, int]:
    decoding.check_rate(file.samplerate)
    if first < file.frames:
        file.seek(first)
        samples = decoding.read(file, last - first)
    else:
        samples = np.zeros((0, file.channels), np.float32)
    return decoding.mono(samples), file.samplerate


class Tape:
    """A file that is decoded from its beginning to its end, with its last samples kept."""

    def __init__(self, open_: Callable[[], decoding.Reader | tracks.Track]):
        self._open, self._lock = open_, Lock()
        self._rewind()

    def _rewind(self) -> None:
        self._file = self._open()
        self._at = 0  # frames decoded so far
        self._kept: list[np.ndarray] = []  # mono blocks that end at `_at`
        self._begin = 0  # frame at which the first of them begins

    def read(self, first: int, last: int) -> tuple[np.ndarray, int]:
        """Returns mono samples of frames [first, last), as many as there are, and the rate."""
        with self._lock:
            if first < self._begin:
                self._rewind()
            while self._at < last and self._decode(first):
                pass
            return self._between(first, last), self._file.samplerate

    def _between(self, first: int, last: int) -> np.ndarray:
        parts, at = [np.zeros(0, np.float32)], self._begin
        for block in self._kept:
            parts.append(block[max(first - at, 0) : max(last - at, 0)])
            at += len(block)
        return np.concatenate(parts)

    def _decode(self, needed: int) -> bool:
        """Decodes the next block and forgets old ones before frame `needed`; False at the end."""
        block = decoding.read(self._file, _STEP)
        self._at += len(block)
        self._kept.append(decoding.mono(block))
        while self._at - self._begin > _KEPT and self._begin + len(self._kept[0]) <= needed:
            self._begin += len(self._kept.pop(0))
        return len(block) > 0


_tapes: OrderedDict[tuple, Tape] = OrderedDict()
_tapes_lock = Lock()


def _tape_of(path: Path | packed.Sound) -> Tape:
    """Returns the open tape of a file as it is now, of this process."""
    status = path.stat()
    key = (os.getpid(), str(path), status.st_size, status.st_mtime_ns)
    with _tapes_lock:
        tape = _tapes.pop(key, None) or Tape(lambda: _opened(path))
        _tapes[key] = tape  # the last used is the last to go
        while len(_tapes) > _OPEN:
            _tapes.popitem(last=False)
        return tape


def _opened(path: Path | packed.Sound) -> decoding.Reader | tracks.Track:
    file = decoding.opened(path, decoding.inspect(path))
    decoding.check_rate(file.samplerate)
    return file
