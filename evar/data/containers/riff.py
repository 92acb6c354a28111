"""WAV, AIFF, AU, RF64 and Wave64: headers of fixed fields that can contradict one another."""

import struct

from evar.data.containers.stream import PLAIN, Damaged, Stream

# Bytes: streaming writers leave the length open so, which means "until the end".
_OPEN, _OPEN_64 = 0x7F000000, 1 << 62
_SLACK = 64  # bytes: some writers count the header among the samples
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_COMMON = {  # Hz; no two of them differ in a single bit
    *(8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
    *(88200, 96000, 176400, 192000),
}


def inspect(file, size: int) -> Stream:
    """Checks the header of an open file of `size` bytes; other formats pass.

    Raises Damaged where samples are missing at the end, and where fields contradict one another.
    """
    head = file.read(28)
    match head[:4]:
        case b"RIFF":
            return _inspect_wav(file, size, struct.unpack_from("<I", head.ljust(8, b"\0"), 4)[0])
        case b".snd":
            end = _au_end(head, size)
        case b"FORM":
            end = _aiff_end(file, size)
        case b"RF64" if len(head) >= 28:
            (length,) = struct.unpack_from("<Q", head, 20)
            end = size if length >= _OPEN_64 else 8 + length - _SLACK
        case b"riff" if len(head) >= 24:  # Wave64
            (length,) = struct.unpack_from("<Q", head, 16)
            end = size if length >= _OPEN_64 else length - _SLACK
        case _:
            end = size
    _require(end, size)
    return PLAIN


def _require(end: int, size: int) -> None:
    if end > size:
        raise Damaged(f"truncated: {end - size:,} bytes of its samples are missing")


def _au_end(head: bytes, size: int) -> int:
    """Returns where the samples of an AU file end: by the place and bytes that its header gives."""
    begin, length = struct.unpack_from(">II", head.ljust(28, b"\0"), 4)
    if length >= _OPEN:
        return size
    if begin + length + 1 < size:
        raise Damaged(
            f"damaged: its header promises {length:,} bytes of samples, {size - begin:,} are there"
        )
    return begin + length - _SLACK


def _aiff_end(file, size: int) -> int:
    """Returns where an AIFF file ends; Damaged where its frames and samples disagree."""
    file.seek(4)
    (length,) = struct.unpack(">I", file.read(4).ljust(4, b"\0"))
    end = size if length >= _OPEN else 8 + length - _SLACK
    _require(end, size)
    plain, frame, frames, samples = file.read(4) == b"AIFF", 0, 0, None
    for name, begin, length in _chunks(file, size, ">", 12):
        if name == b"COMM":
            file.seek(begin)
            channels, frames, bits = struct.unpack(">HIH", file.read(8).ljust(8, b"\0"))
            frame = channels * -(-bits // 8)
        elif name == b"SSND":
            samples = length - 8
    if not plain or not frame or samples is None or samples >= _OPEN:
        return end
    if abs(samples - frames * frame) > _SLACK:
        raise Damaged(
            f"damaged: its header promises {frames:,} frames, its samples are {samples // frame:,}"
        )
    return end


def _chunks(file, size: int, order: str, at: int):
    """Yields the name, first byte and length of every chunk from byte `at` to the end."""
    while at + 8 <= size:
        file.seek(at)
        name, length = struct.unpack(f"{order}4sI", file.read(8))
        yield name, at + 8, length
        at += 8 + length + length % 2


def _inspect_wav(file, size: int, riff: int) -> Stream:
    data_end = None
    for name, begin, length in _chunks(file, size, "<", 12):
        if data_end is not None and not _is_name(name):
            _check_rest(file, size, data_end, begin - 8, 8 + riff)
            break
        if name == b"fmt " and data_end is None:
            file.seek(begin)
            _check_format(file.read(min(length, 40)))
        if name == b"data" and data_end is None:
            if length >= _OPEN:
                break  # its writer never came back to fill in the length
            if length == 0 and not _is_name(file.read(4)):
                return _until_end(file, begin, size)
            data_end = begin + length
            _require(data_end, size)
    return PLAIN


def _is_name(name: bytes) -> bool:
    return all(32 <= byte < 127 for byte in name)


def _until_end(file, begin: int, size: int) -> Stream:
    """Returns a WAV whose length was left at 0, as killed recorders do: samples up to the end."""
    file.seek(0)
    content = bytearray(file.read())
    struct.pack_into("<I", content, begin - 4, min(size - begin, 0xFFFFFFFF))
    return Stream(content=bytes(content))


def _check_rest(file, size: int, data_end: int, at: int, riff_end: int) -> None:
    """Raises Damaged where what follows the samples, no chunk at byte `at`, must be samples, too.

    Foreign bytes behind the end that the RIFF header names, and zeros, are common and harmless.
    """
    if at + 8 > size or abs(riff_end - at) <= 1:
        return
    file.seek(at)
    while block := file.read(1 << 20):
        if block.strip(b"\0"):
            raise Damaged(
                f"damaged: its header ends the samples at byte {data_end:,}, and no chunk follows"
            )


def _check_format(fields: bytes) -> None:
    """Compares the rate with the bytes per second, for samples of a fixed number of bytes."""
    if len(fields) < 16:
        return
    kind, channels, rate, per_second, frame, bits = struct.unpack_from("<HHIIHH", fields)
    if kind == _EXTENSIBLE and len(fields) >= 26:
        (kind,) = struct.unpack_from("<H", fields, 24)
    if kind not in (_PCM, _FLOAT):
        return
    if channels and frame != channels * (frame // channels):
        raise Damaged(f"damaged: {frame} bytes per frame of {channels} channels in its header")
    if frame < channels * -(-bits // 8):
        raise Damaged(f"damaged: {frame} bytes per frame of {channels} x {bits} bits in its header")
    if per_second and per_second != rate * frame and rate not in _COMMON:
        raise Damaged(
            f"damaged: its header gives a rate of {rate:,} Hz, and {per_second:,} bytes per second "
            f"at {frame} bytes per frame"
        )
