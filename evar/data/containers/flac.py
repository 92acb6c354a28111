"""FLAC: the length in its header is optional, and the MD5 of its samples proves them.

Layout: RFC 9639. A length of 0 means that the encoder wrote to a pipe and never knew it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from evar.data.containers.stream import Damaged, Stream, id3_length

_TAIL = 1 << 17  # bytes at the end in which the last frame begins; frames are far smaller
_BLOCKS = {1: 192, 2: 576, 3: 1152, 4: 2304, 5: 4608} | {i: 256 << (i - 8) for i in range(8, 16)}
_SYNC = re.compile(rb"\xff[\xf8\xf9]")


@dataclass(frozen=True)
class _Info:
    """The STREAMINFO block (RFC 9639, section 8.2)."""

    block: int  # samples per channel in each frame but the last, where that is fixed
    rate: int  # Hz
    bits: int  # per sample
    total: int  # samples per channel; 0: unknown
    total_at: int  # byte that holds the first bits of `total`
    md5: bytes


def _stream_info(data: bytes) -> _Info | None:
    at = id3_length(data) + 8
    block = data[at : at + 34]
    if data[at - 8 : at - 4] != b"fLaC" or len(block) < 34 or data[at - 4] & 0x7F:
        return None
    packed = int.from_bytes(block[10:18], "big")
    return _Info(
        block=int.from_bytes(block[2:4], "big"),
        rate=packed >> 44,
        bits=(packed >> 36 & 31) + 1,
        total=packed & (1 << 36) - 1,
        total_at=at + 13,
        md5=block[18:].strip(b"\0") and block[18:],
    )


def inspect(head: bytes, tail: bytes, load: Callable[[], bytes]) -> Stream | None:
    """Looks at the first and last bytes of a FLAC file; None where its header is not readable.

    The header's length is believed where the last frame ends there. Otherwise everything is
    decoded, and a length that is neither 0 nor that of the samples must be excused by their MD5;
    `load` returns the whole file for that.
    """
    info = _stream_info(head)
    if info is None:
        return None
    if tail[-128:].startswith(b"TAG"):  # an ID3v1 tag, at which libsndfile loses sync
        content = load()[:-128]
        found = inspect(content, content, lambda: content)
        return found and replace(found, content=found.content or content)
    known = Stream(frames=info.total or None, md5=info.md5, bits=info.bits)
    if info.total and info.total in _ends(tail[-_TAIL:], info.block):
        return known
    if info.total == 0:
        return replace(known, trusted=False)
    altered = bytearray(load())
    altered[info.total_at] &= 0xF0
    altered[info.total_at + 1 : info.total_at + 5] = bytes(4)  # so that decoding ignores it
    return replace(known, content=bytes(altered), trusted=False, lenient=True)


def tail_of(path) -> bytes:
    """Returns the last bytes of a file, in which its last frame begins."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - _TAIL))
        return file.read()


def from_ogg(data: bytes, pages) -> bytes:
    """Returns the native FLAC stream that an Ogg file carries (RFC 9639, section 10.1).

    libsndfile does not read every encoder's Ogg FLAC. Raises Damaged for another mapping.
    """
    body = b"".join(data[page.begin : page.end] for page in pages)
    if body[:6] != b"\x7fFLAC\x01" or body[9:13] != b"fLaC":
        raise Damaged("an Ogg FLAC file of an unknown layout")
    return body[9:]


def _ends(tail: bytes, block: int) -> set[int]:
    """Samples per channel up to the end of each frame that may begin in the tail of a file."""
    found = set()
    for match in _SYNC.finditer(tail):
        end = _frame_end(tail[match.start() : match.start() + 20], block)
        if end is not None:
            found.add(end)
    return found


def _frame_end(head: bytes, block: int) -> int | None:
    """Returns the number of the sample behind a frame (section 9.1); None for no frame header."""
    variable, code = head[1] & 1, head[2] >> 4 if len(head) > 5 else 0
    if not code:
        return None
    ones = 8 - (head[4] ^ 0xFF).bit_length()  # of the coded number, as in UTF-8
    more = max(ones - 1, 0)
    if ones == 1 or ones == 8 or len(head) < 10 + more:
        return None
    number = head[4] & (0x7F >> ones if ones else 0x7F)
    for byte in head[5 : 5 + more]:
        number = number << 6 | byte & 0x3F
    at = 5 + more
    if code in (6, 7):
        samples = int.from_bytes(head[at : at + code - 5], "big") + 1
        at += code - 5
    else:
        samples = _BLOCKS[code]
    rate = head[2] & 15
    at += 1 if rate == 12 else 2 if rate in (13, 14) else 0
    if at >= len(head) or _crc8(head[:at]) != head[at]:
        return None
    return (number if variable else number * block) + samples


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07 if crc & 0x80 else crc << 1) & 0xFF
    return crc
