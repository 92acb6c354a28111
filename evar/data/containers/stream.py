"""What a container's module finds out before a file is decoded."""

import io
from dataclasses import dataclass


@dataclass(frozen=True)
class Stream:
    """How a sound file is to be decoded, and how much sound it must hold.

    content: bytes to decode in place of the file, where the decoder would trust a wrong header;
    None decodes the file itself. frames: samples per channel that must decode; None where the
    container does not say. trusted: whether the decoder's own idea of the length can be believed
    without decoding. md5: of the samples, in FLAC (16 bytes; empty where the encoder left it
    out). bits: per sample, where `md5` is set. lenient: a length that differs from `frames` is
    accepted where the MD5 proves that all samples are there. track: whether PyAV decodes it
    (`evar.data.tracks`).
    """

    content: bytes | None = None
    frames: int | None = None
    trusted: bool = True
    md5: bytes = b""
    bits: int = 0
    lenient: bool = False
    track: bool = False

    def source(self, path):
        """Returns what soundfile opens."""
        return path if self.content is None else io.BytesIO(self.content)


class Damaged(ValueError):
    """A file that contradicts itself; the text says where, without the file's name."""


PLAIN = Stream()


def id3_length(data: bytes, at: int = 0) -> int:
    """Returns the bytes of the ID3v2 tags that begin at `at` (0: there is none)."""
    first = at
    while data[at : at + 3] == b"ID3" and at + 10 <= len(data):
        size = 0
        for byte in data[at + 6 : at + 10]:
            size = size << 7 | (byte & 0x7F)
        at += 10 + size + (10 if data[at + 5] & 0x10 else 0)  # flag: a footer of 10 bytes
    return at - first
