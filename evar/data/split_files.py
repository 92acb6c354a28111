"""Joins files that were published in parts: plain pieces, and split zip archives."""

import os
import struct
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import filelock

from evar.errors import UserError
from evar.files import make_folder, writing

CHUNK = 2**20  # bytes moved at a time
FULL_16, FULL_32 = 0xFFFF, 0xFFFFFFFF  # in a zip: the value is in a ZIP64 field
ZIP64_FROM = FULL_32  # offsets from here on are written into ZIP64 fields


def join_parts(parts, target) -> None:
    """Concatenates the parts of a split file, in the given order, into `target`.

    A target of the right size that is newer than its parts is kept. Raises UserError where a part
    is missing or the target cannot be written.
    """
    parts, target = [Path(part) for part in parts], Path(target)
    _require_parts(parts, target)
    size = sum(part.stat().st_size for part in parts)
    with _alone(target):
        if not (_newer(target, parts) and target.stat().st_size == size):
            with _whole(target) as out:
                _copy_parts(parts, out)


def join_split_zip(folder, name: str) -> Path:
    """Turns `name`.z01, `name`.z02, ..., `name`.zip into the ordinary `name`.unsplit.zip.

    Returns its path, or that of `name`.zip where that is an ordinary archive already. Raises
    UserError where a part is missing or the archive is damaged.
    """
    folder = Path(folder)
    last, target = folder / f"{name}.zip", folder / f"{name}.unsplit.zip"
    _require_parts([last], target)
    try:
        end = _ZipEnd(last)
        if end.disk == 0:
            return last
        parts = [folder / f"{name}.z{i:02d}" for i in range(1, end.disk + 1)] + [last]
        _require_parts(parts, target)
        with _alone(target):
            if not _newer(target, parts):
                _join_zip(parts, end, target)
    except (struct.error, ValueError, IndexError) as error:
        raise UserError(
            f"{last}: not a split zip archive, or damaged ({error}). Fetch its parts again."
        ) from error
    return target


def _require_parts(parts: list[Path], target: Path) -> None:
    missing = [str(part) for part in parts if not part.is_file()]
    if missing or not parts:
        raise UserError(
            f"{target}: parts are missing: {', '.join(missing) or 'all'}. Fetch them first."
        )


def _newer(target: Path, parts: list[Path]) -> bool:
    newest = max(part.stat().st_mtime_ns for part in parts)
    return target.is_file() and target.stat().st_mtime_ns >= newest


def _alone(target: Path) -> filelock.FileLock:
    """Yields under a lock: one process at a time joins a file; a second one waits and finds it."""
    make_folder(target.parent)
    return filelock.FileLock(target.with_name(f".{target.name}.lock"))


@contextmanager
def _whole(target: Path):
    """Yields a file to write `target` to, which gets that name only when it is complete."""
    temporary = target.with_name(f".{target.name}.joining")
    make_folder(target.parent)
    try:
        with writing(target):
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _copy_parts(parts: list[Path], out, start: int = 0, stop: int | None = None) -> None:
    """Writes bytes `start` to `stop` (None: the end) of the concatenated parts to a file."""
    for part in parts:
        size = part.stat().st_size
        with part.open("rb") as file:
            file.seek(min(start, size))
            left = (size if stop is None else min(stop, size)) - file.tell()
            while left > 0 and (chunk := file.read(min(CHUNK, left))):
                out.write(chunk)
                left -= len(chunk)
        start, stop = max(0, start - size), None if stop is None else max(0, stop - size)


class _ZipEnd:
    """What the end records of a zip say: APPNOTE.TXT 4.3.14 to 4.3.16.

    `disk`: number of the last part, from 0; `folder_disk`, `folder_offset`, `folder_bytes`: where
    the central directory is; `entries`: its length. Raises ValueError where there is no end record.
    """

    def __init__(self, last: Path):
        with last.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 22 - FULL_16 - 20))  # comment and ZIP64 locator at most
            tail = file.read()
            at = tail.rfind(b"PK\5\6")
            if at < 0:
                raise ValueError("no end record")
            fields = struct.unpack_from("<4H2IH", tail, at + 4)
            self.comment = tail[at + 22 : at + 22 + fields[6]]
            if at >= 20 and tail[at - 20 : at - 16] == b"PK\6\7":
                # The ZIP64 end record is directly before its locator, in the last part.
                file.seek(max(0, size - len(tail) + at - 20 - 56))
                record = file.read(56)
                if record[:4] != b"PK\6\6":
                    raise ValueError("no ZIP64 end record")
                fields = struct.unpack_from("<2I4Q", record, 16)
        self.disk, self.folder_disk, _, self.entries, self.folder_bytes, self.folder_offset = (
            fields[:6]
        )


def _join_zip(parts: list[Path], end: _ZipEnd, target: Path) -> None:
    """Writes the parts as one archive. Raises ValueError where the directory makes no sense."""
    with parts[0].open("rb") as file:
        # A split archive begins with a signature of its own, which the offsets include.
        drop = 4 if file.read(4) in (b"PK\7\x08", b"PK00") else 0
    starts = [-drop]  # of each part, in the joined file
    for part in parts[:-1]:
        starts.append(starts[-1] + part.stat().st_size)
    begin = starts[end.folder_disk] + end.folder_offset
    listing = BytesIO()
    _copy_parts(parts, listing, begin + drop, begin + drop + end.folder_bytes)
    entries = b"".join(_entries(listing.getvalue(), end.entries, starts))
    with _whole(target) as out:
        _copy_parts(parts, out, drop, begin + drop)
        out.write(entries + _end_records(end, begin, len(entries)))


def _entries(listing: bytes, count: int, starts: list[int]):
    """Yields the central directory (APPNOTE.TXT 4.3.12) with offsets in the joined file."""
    at = 0
    for _ in range(count):
        if listing[at : at + 4] != b"PK\1\2":
            raise ValueError("broken central directory")
        fields = list(struct.unpack_from("<4s6H3I5H2I", listing, at))
        name, extra, comment = fields[10:13]
        cuts = (at + 46, at + 46 + name, at + 46 + name + extra, at + 46 + name + extra + comment)
        name, extra, comment = (listing[a:b] for a, b in zip(cuts, cuts[1:], strict=False))
        large, extra = _split_extra(extra)
        # ZIP64 values come in this order, each only where its usual field is full (4.5.3).
        sizes = b"".join(_take(large, 8) for i in (9, 8) if fields[i] == FULL_32)
        offset = _value(fields[16], FULL_32, large, 8)
        offset += starts[_value(fields[13], FULL_16, large, 4)]
        fields[13], fields[16] = 0, min(offset, FULL_32)
        if offset >= ZIP64_FROM:
            sizes, fields[16] = sizes + struct.pack("<Q", offset), FULL_32
        if sizes:
            extra = struct.pack("<2H", 1, len(sizes)) + sizes + extra
            fields[2] = max(fields[2], 45)  # the version that understands ZIP64
        fields[11] = len(extra)
        yield struct.pack("<4s6H3I5H2I", *fields) + name + extra + comment
        at = cuts[-1]
    if at != len(listing):
        raise ValueError("central directory of another length")


def _split_extra(extra: bytes) -> tuple[BytesIO, bytes]:
    """Splits extra fields: the ZIP64 field's content (4.5.3) and all others."""
    large, others, at = b"", b"", 0
    while at < len(extra):
        kind, size = struct.unpack_from("<2H", extra, at)
        field = extra[at : at + 4 + size]
        large, others = (field[4:], others) if kind == 1 else (large, others + field)
        at += 4 + size
    return BytesIO(large), others


def _take(large: BytesIO, size: int) -> bytes:
    value = large.read(size)
    if len(value) < size:
        raise ValueError("broken ZIP64 field")
    return value


def _value(field: int, full: int, large: BytesIO, size: int) -> int:
    """Returns a usual field's value, or the ZIP64 one where the usual field is full."""
    return field if field < full else int.from_bytes(_take(large, size), "little")


def _end_records(end: _ZipEnd, begin: int, size: int) -> bytes:
    """Makes the end of a zip of one part, whose directory of `size` bytes is at `begin`."""
    records = b""
    if end.entries >= FULL_16 or max(begin, size) >= ZIP64_FROM:
        large = (44, 45, 45, 0, 0, end.entries, end.entries, size, begin)
        records = b"PK\6\6" + struct.pack("<Q2H2I4Q", *large)
        records += b"PK\6\7" + struct.pack("<IQI", 0, begin + size, 1)
        begin = FULL_32  # so that every reader looks at the record above
    entries = min(end.entries, FULL_16)
    fields = (0, 0, entries, entries, min(size, FULL_32), begin, len(end.comment))
    return records + b"PK\5\6" + struct.pack("<4H2IH", *fields) + end.comment
