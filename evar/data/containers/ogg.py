"""Ogg (Vorbis, Opus, FLAC): every page carries a checksum and a number (RFC 3533, section 6)."""

import struct
import zlib
from dataclasses import dataclass, replace

from evar.data.containers import flac
from evar.data.containers.stream import Damaged, Stream

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_FIRST = 2  # flag of a page: the first of its stream


@dataclass(frozen=True)
class Page:
    """One page: its flags, its stream's serial number, its own number, where its body is."""

    flags: int
    serial: int
    number: int
    begin: int
    end: int


def inspect(data: bytes) -> Stream:
    """Checks every page of an Ogg file.

    Raises Damaged where a page is cut, missing or fails its checksum, which libsndfile skips in
    silence, and where streams follow one another, of which it would read the first.
    """
    pages = _pages(data)
    numbers: dict[int, int] = {}
    ended = False
    for page in pages:
        if page.flags & _FIRST and ended:
            raise Damaged(
                "several Ogg streams one after another (chained); join them into one, such as "
                "with ffmpeg -i FILE OUT.flac"
            )
        ended |= not page.flags & _FIRST
        if page.number != numbers.get(page.serial, page.number - 1) + 1:
            raise Damaged(f"damaged: Ogg page {numbers[page.serial] + 1:,} is missing")
        numbers[page.serial] = page.number
    if data[pages[0].begin :].startswith(b"\x7fFLAC"):
        native = flac.from_ogg(data, pages)
        found = flac.inspect(native, native, lambda: native) or Stream()
        return replace(found, content=found.content or native)
    return Stream()


def _pages(data: bytes) -> list[Page]:
    pages, at = [], 0
    while data.startswith(b"OggS", at):
        segments = data[at + 26] if at + 26 < len(data) else 0
        begin = at + 27 + segments
        end = begin + sum(data[at + 27 : begin])
        if begin > len(data) or end > len(data) or at + 27 > len(data):
            raise Damaged(
                f"truncated: {max(end - len(data), 1):,} bytes of its last Ogg page are missing"
            )
        flags, serial, number, checksum = struct.unpack_from("<xxxxxBxxxxxxxxIII", data, at)
        if _crc(data[at : at + 22] + bytes(4) + data[at + 26 : end]) != checksum:
            raise Damaged(f"damaged: the checksum of Ogg page {number:,} is wrong")
        pages.append(Page(flags, serial, number, begin, end))
        at = end
    rest = data[at:]
    if b"OggS" in rest:
        raise Damaged(f"damaged: {rest.index(b'OggS'):,} bytes at byte {at:,} are no Ogg page")
    if rest and b"OggS".startswith(rest):
        raise Damaged("truncated: its last Ogg page is missing")
    return pages


def _crc(data: bytes) -> int:
    """Computes the CRC-32 of RFC 3533: zlib's polynomial, all bits in the other order, from 0."""
    other = zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{other:032b}"[::-1], 2)
