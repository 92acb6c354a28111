"""MPEG audio (MP3 and MP2): counts the frames, because headers with a length are optional.

Without a Xing, Info or VBRI header a decoder can only estimate the length from the bit rate of
the first frame, which is wrong for variable rates. Such files are given an Info frame that holds
the true count, and are decoded with that. Frame layout: ISO/IEC 11172-3, section 2.4.1.3.
"""

from dataclasses import dataclass

from evar.data.containers.stream import Damaged, Stream, id3_length

_V1, _V2, _V25 = 3, 2, 0
_RATES = {_V1: (44100, 48000, 32000), _V2: (22050, 24000, 16000), _V25: (11025, 12000, 8000)}
_KBIT = {  # (MPEG-1?, layer): kbit/s of bit rate indices 1 to 14
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_KBIT[False, 3] = _KBIT[False, 2]
_LEAD = 65536  # bytes before the first frame that are searched for it
_DECODER_DELAY = 529  # samples
_CHAIN = 3  # consecutive frames that prove a sync word to be one


@dataclass(frozen=True)
class _Header:
    version: int
    layer: int
    rate: int  # Hz
    mono: bool
    length: int  # bytes, header included; 0 in free format, where the header does not say
    padding: int  # bytes, 0 or 1 (layer I: 4)
    samples: int  # per channel

    @property
    def kind(self) -> tuple[int, int, int]:
        """Returns what does not change within a stream."""
        return self.version, self.layer, self.rate


def _header(data: bytes, at: int) -> _Header | None:
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return None
    second, third = data[at + 1], data[at + 2]
    version, layer = second >> 3 & 3, 4 - (second >> 1 & 3)
    rate_index, rate_of_bits = third >> 2 & 3, third >> 4
    if version == 1 or layer == 4 or rate_index == 3 or rate_of_bits == 15:
        return None
    rate, padding = _RATES[version][rate_index], third >> 1 & 1
    samples = 384 if layer == 1 else 1152 if layer == 2 or version == _V1 else 576
    padding *= 4 if layer == 1 else 1
    length = 0
    if rate_of_bits:
        bits = 1000 * _KBIT[version == _V1, layer][rate_of_bits - 1]
        length = 4 * (12 * bits // rate) if layer == 1 else samples // 8 * bits // rate
        length += padding
    return _Header(version, layer, rate, data[at + 3] >> 6 == 3, length, padding, samples)


def inspect(data: bytes) -> Stream | None:
    """Counts the frames of an MPEG audio file; None where it is not one.

    Raises Damaged for a file with no frame, with bytes between its frames that are none, with a
    last frame that is cut, or with fewer frames than its own header counts.
    """
    first = _first_frame(data)
    head = None if first is None else _header(data, first)
    if first is None or head is None:
        return None
    begin = id3_length(data)
    if first > begin and (broken := _header(data, begin)) and broken.kind == head.kind:
        raise Damaged(f"damaged: {first - begin:,} bytes at its beginning are no whole MPEG frames")
    tag = _tag_at(data, first, head)
    count, end = _count(data, first, head)
    if tag is None:
        return _with_info(data[first:end], head, count, own_tag=False)
    if data[first + 6 : tag].strip(b"\0") and not data.startswith(b"VBRI", tag):
        raise Damaged("damaged: bytes in front of its Xing header, which decoders take for sound")
    if not _tag_is_whole(data, first, tag):
        raise Damaged("damaged: the checksum of its Xing header is wrong")
    said = _said(data, tag)
    frames = count - 1  # the header is a frame of its own
    if said and frames + 1 < said:  # some encoders count their header too
        raise Damaged(f"truncated: {frames:,} of its {said:,} MPEG frames are there")
    if said == frames and data[tag : tag + 4] != b"VBRI":  # which libsndfile cannot read
        return Stream()
    return _with_info(data[first:end], head, frames, own_tag=True)


def _first_frame(data: bytes) -> int | None:
    """Returns where the first of a chain of frames begins, tags and some foreign bytes skipped."""
    begin = id3_length(data)
    at = begin - 1
    while (at := data.find(b"\xff", at + 1, begin + _LEAD)) >= 0:
        head = _header(data, at)
        if head and _chained(data, at, head):
            return at
    return None


def _chained(data: bytes, at: int, head: _Header) -> bool:
    free = _free_length(data, at, head)
    for _ in range(_CHAIN):
        length = head.length or free + head.padding
        if not length or at + length > len(data):
            return False
        at += length
        following = _header(data, at)
        if following is None:
            return at == len(data) or bool(_tag_length(data, at)) or not data[at:].strip(b"\0")
        if following.kind != head.kind:
            return False
        head = following
    return True


def _free_length(data: bytes, at: int, head: _Header) -> int:
    """Bytes of each frame of a free-format stream without padding; 0 for other streams."""
    if head.length:
        return 0
    following = at + 24
    while (following := data.find(data[at : at + 2], following, at + 8192)) >= 0:
        other = _header(data, following)
        if other and other.kind == head.kind and not other.length:
            return following - at - head.padding
        following += 1
    return 0


def _count(data: bytes, at: int, head: _Header) -> tuple[int, int]:
    """Counts frames from `at` on: (number, where the last one ends)."""
    free = _free_length(data, at, head)
    count, size = 0, len(data)
    while at < size:
        here = _header(data, at)
        if here is None or here.kind != head.kind:
            skipped = _tag_length(data, at)
            if not skipped:
                break
            if at + skipped >= size:
                return count, at
            at += skipped
            continue
        length = here.length or free + here.padding
        if at + length > size:
            missing = at + length - size
            raise Damaged(f"truncated: {missing:,} bytes of its last MPEG frame are missing")
        count, at = count + 1, at + length
    if data[at:].strip(b"\0"):
        raise Damaged(f"damaged: no MPEG frame at byte {at:,}, after {count:,} frames")
    return count, at


def _tag_length(data: bytes, at: int) -> int:
    """Bytes of the tag at `at`, of those that players write into MP3 files; 0: there is none."""
    if length := id3_length(data, at):
        return length
    if data.startswith(b"TAG", at) and len(data) - at == 128:
        return 128
    if data.startswith((b"APETAGEX", b"LYRICSBEGIN", b"3DI", b"TAG+"), at):
        return len(data) - at  # they stand at the end
    return 0


def _tag_at(data: bytes, at: int, head: _Header) -> int | None:
    """Returns where the first frame holds a Xing, Info or VBRI header."""
    if head.layer != 3:
        return None
    side = _side_bytes(head)
    for place, names in (
        (4 + side, (b"Xing", b"Info")),
        (6 + side, (b"Xing", b"Info")),
        (36, (b"VBRI",)),
    ):  # fmt: skip  (6: behind a CRC)
        if data.startswith(names, at + place):
            return at + place
    return None


def _said(data: bytes, tag: int) -> int:
    """Returns how many frames a header counts; 0 where it does not."""
    if data.startswith(b"VBRI", tag):
        return int.from_bytes(data[tag + 14 : tag + 18], "big")
    flags = int.from_bytes(data[tag + 4 : tag + 8], "big")
    return int.from_bytes(data[tag + 8 : tag + 12], "big") if flags & 1 else 0


def _tag_is_whole(data: bytes, first: int, tag: int) -> bool:
    """Returns whether LAME's checksum of a Xing header is right, where there is one.

    Its field stands at the end of LAME's extension, behind the table of contents (LAME's
    "mp3 info tag", revision 1). Other encoders fill it in differently, or not at all.
    """
    if not data.startswith(b"LAME", tag + 120):
        return True
    end = tag + 154
    return int.from_bytes(data[end : end + 2], "big") == _crc16(data[first:end])


def _crc16(data: bytes) -> int:
    """Computes the CRC-16 of polynomial 0x8005, bits reversed, from 0."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
    return crc


def _with_info(frames: bytes, head: _Header, count: int, *, own_tag: bool) -> Stream:
    """Puts an Info header before frames, which counts them, in place of their own header."""
    length = count * head.samples
    if not count:
        raise Damaged("holds tags and no sound")
    if head.layer != 3:  # no such header there; the decoder's estimate is compared with the count
        return Stream(frames=length, trusted=False)
    if own_tag:
        frames = frames[head.length :]
    return Stream(content=_info_frames(frames[:4], head, count) + frames, frames=length)


def _info_frames(header: bytes, head: _Header, count: int) -> bytes:
    """Makes an Info frame for `count` frames to follow, and a silent frame, which is left out.

    mpg123 takes 529 samples, the delay of any MP3 decoder, from the beginning as soon as there is
    an Info frame. The silent frame gives it samples to take: its length is named as the encoder's
    delay, less the 529, and 529 as the padding of the end, where nothing is taken then.
    """
    silent = bytearray(header)
    silent[1] |= 1  # no CRC
    silent[2] = silent[2] & 0x0C | 0x10  # the lowest bit rate, no padding
    info = bytearray(silent)
    info[2] = info[2] & 0x0C | 0x90  # a bit rate at which the frame has room for what follows
    delay = (head.samples - _DECODER_DELAY) << 12 | _DECODER_DELAY
    body = b"Info" + (1).to_bytes(4, "big") + (count + 1).to_bytes(4, "big")
    body += b"LAME3.100".ljust(21, b"\0") + delay.to_bytes(3, "big")
    filled = bytes(info) + bytes(_side_bytes(head)) + body
    lengths = [
        each.length if each else 0 for each in (_header(bytes(f), 0) for f in (info, silent))
    ]
    return filled.ljust(lengths[0], b"\0") + bytes(silent).ljust(lengths[1], b"\0")


def _side_bytes(head: _Header) -> int:
    """Bytes of the side information behind a layer III header."""
    return (17 if head.mono else 32) if head.version == _V1 else (9 if head.mono else 17)
