"""Sound tracks of phones, recorders and videos: M4A, WMA, AMR, WebM, ... decoded by PyAV (FFmpeg).

PyAV is an extra, `evar[av]`; its wheels carry FFmpeg. Another version of FFmpeg may decode the same
file to other samples: its name and version are part of what a clip is.
"""

import functools
import importlib.util
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from evar.data.containers import kinds
from evar.data.containers.stream import Damaged

SUFFIXES = (
    *(".m4a", ".m4b", ".mp4", ".mov", ".3gp", ".aac", ".wma", ".asf", ".amr", ".webm", ".mka"),
    *(".mkv", ".avi", ".flv", ".wv", ".ape"),
)
EXTRA = "evar[av]"
_SCALES = {"u8": 2**7, "s16": 2**15, "s32": 2**31, "flt": 1, "dbl": 1}  # full scale
_SHORT = 0.5  # seconds by which a track may end before its container says


def is_one(head: bytes) -> bool:
    """Returns whether a file that begins with `head` is decoded by PyAV."""
    return kinds.describe(head) in kinds.TRACKS


def require(head: bytes) -> None:
    """Raises Damaged, which names the extra, where PyAV is not installed."""
    if importlib.util.find_spec("av") is None:
        raise Damaged(
            f"not readable as sound (it is {kinds.describe(head)}); `pip install '{EXTRA}'` makes "
            "it readable"
        )


@functools.cache
def decoder() -> str:
    """Returns the name and version of what decodes, as "PyAV 18.1.0 (libavcodec 62.28.102)"."""
    import av

    version = ".".join(map(str, av.library_versions["libavcodec"]))
    return f"PyAV {av.__version__} (libavcodec {version})"


def is_current(used: str, problem: str) -> bool:
    """Returns whether what an earlier look at a file found would be found again.

    used: the decoder at that time, "" for soundfile; problem: why it could not be read.
    """
    if not used and not problem:  # nearly all of perhaps millions
        return True
    there = importlib.util.find_spec("av") is not None
    if EXTRA in problem:
        return not there
    return not used or (there and used == decoder())


class Track:
    """The first sound track of a file, read from its beginning to its end like a soundfile."""

    def __init__(self, source: str | BinaryIO, head: bytes):
        import av

        with _named_errors(f"not readable as sound (it is {kinds.describe(head)})"):
            self._container: Any = av.open(source, metadata_errors="replace")
        with _named_errors("damaged"):
            if not self._container.streams.audio:
                raise Damaged("a video without a sound track")
            self._stream = self._container.streams.audio[0]
            self._frames = self._decoded()
            first = next(self._frames, None)
        if first is None:
            raise Damaged("holds no samples")
        self.samplerate, self.channels = self._rate, first.shape[1]
        self._waiting, self._at = [first], 0

    def __enter__(self) -> "Track":
        return self

    def __exit__(self, *_) -> None:
        self._frames.close()
        self._container.close()

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """Returns the next (up to `frames`, channels) samples; fewer at the end only."""
        parts, wanted = self._waiting, frames - sum(map(len, self._waiting))
        with _named_errors("damaged"):
            while wanted > 0 and (block := next(self._frames, None)) is not None:
                parts.append(block)
                wanted -= len(block)
        joined = np.concatenate([np.zeros((0, self.channels), np.float32), *parts])
        self._waiting = [joined[frames:]] if len(joined) > frames else []
        found = joined[:frames]
        self._at += len(found)
        if len(found) < frames:
            self._require_whole()
        return found

    def _decoded(self) -> Generator[np.ndarray]:
        """Yields (n, channels) float32 samples of each frame."""
        self._rate, layout = 0, None
        for frame in self._container.decode(self._stream):
            if not frame.samples:
                continue
            if layout not in (None, (frame.sample_rate, frame.layout.nb_channels)):
                raise Damaged("its sample rate or number of channels changes on the way")
            layout = frame.sample_rate, frame.layout.nb_channels
            self._rate = frame.sample_rate
            yield _floats(frame)

    def _require_whole(self) -> None:
        """Raises Damaged where the container promises more than has been decoded."""
        if self._container.format.name in ("aac", "amr"):  # an estimate from the bit rate
            return
        if self._stream.duration is not None and self._stream.time_base is not None:
            promised = float(self._stream.duration * self._stream.time_base)
        elif self._container.duration is not None and len(self._container.streams) == 1:
            promised = self._container.duration / 1e6  # of the file, in microseconds
        else:
            return
        decoded = self._at / self.samplerate
        if promised - decoded > _SHORT:
            raise Damaged(f"truncated: {decoded:.1f} of {promised:.1f} s of its sound decode")


def _floats(frame) -> np.ndarray:
    """Returns a frame's samples as float32 (n, channels), as FFmpeg's own conversion gives them."""
    name = frame.format.name.removesuffix("p")
    if name not in _SCALES:
        raise Damaged(f"samples of an unknown format ({frame.format.name})")
    values = frame.to_ndarray()
    channels = frame.layout.nb_channels
    values = values.T if frame.format.is_planar else values.reshape(-1, channels)
    if name == "u8":
        values = values.astype(np.int16) - 128
    return np.ascontiguousarray(values / np.float64(_SCALES[name]), np.float32)


@contextmanager
def _named_errors(what: str) -> Iterator[None]:
    """Turns errors of FFmpeg into Damaged, which says `what` is wrong."""
    import av

    try:
        yield
    except av.error.FFmpegError as error:
        raise Damaged(f"{what}: {error.strerror or error}") from error
