"""Damaged tables and annotations are read or refused in one line; nothing else is raised."""

import io
import zipfile

import numpy as np
import openpyxl
import pytest

from evar.data.tables import reading
from evar.data.tables.annotations import read_annotations
from evar.data.tables.recordings import Recordings
from evar.errors import UserError
from helpers.annotation_files import AUDACITY, LONG, NAMES, RAVEN, SHORT


def workbook(compression=zipfile.ZIP_STORED) -> bytes:
    book, packed, plain = openpyxl.Workbook(), io.BytesIO(), io.BytesIO()
    for row in (["file", "label", "split"], ["night.wav", 1.5, "train"], ["x.wav", True, "test"]):
        book.active.append(row)
    book.save(packed)
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(plain, "w", compression) as new:
        for part in old.infolist():  # stored: so that a changed byte is one of the sheet
            new.writestr(part.filename, old.read(part))
    return plain.getvalue()


FILES = {
    "night.txt": RAVEN.encode(),
    "a.night.txt": AUDACITY.encode(),
    "long.TextGrid": LONG.encode("utf-16"),
    "short.TextGrid": SHORT.encode(),
    "x.json": b'{"night.wav": [{"start": 0.5, "end": 1e1, "label": ["a", "b"]}]}',
    "x.csv": 'file;label;start;end\r\nnight.wav;"a ""b""";0,5;1,5\r\n'.encode("utf-16"),
    "x.xlsx": workbook(),
}


def mutated(content: bytes, rng) -> bytes:
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        at, length = int(rng.integers(len(data) + 1)), int(rng.integers(1, 9))
        match rng.integers(4):
            case 0:
                data[at : at + length] = rng.bytes(length)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = bytes(data[at // 2 : at // 2 + length])
            case 3:
                data[at : at + 1] = b'"\t\n,;\\<0-'[length - 1 : length]
        data = data or bytearray(b" ")
    return bytes(data)


def answer(function, *arguments):
    try:
        return function(*arguments)
    except UserError:
        return None


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_read_or_refused(name, tmp_path):
    rng, recordings = np.random.default_rng(0), Recordings(tmp_path, NAMES)
    path, read = tmp_path / name.removeprefix("a."), 0
    for _ in range(150):
        path.write_bytes(mutated(FILES[name], rng))
        found = answer(read_annotations, path, recordings)
        read += found is not None
        if found is not None and "start" in found.frame:
            assert (found.frame.start.fillna(0) >= 0).all()
        answer(reading.read_table, path)
    path.write_bytes(FILES[name])
    if "Grid" not in name:
        assert len(read_annotations(path, Recordings(tmp_path, [*NAMES, "x.wav"])).frame)
