"""A table that was indexed before is not read again, and never where that would change anything."""

import json
import os
import unicodedata
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from evar.data import indexed_tables, manifests, opening, own_sounds, stamps
from evar.errors import UserError
from evar.progress import Progress


class Notes(Progress):
    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


@pytest.fixture
def reads(monkeypatch):
    """Names of the tables that were read."""
    found, read = [], own_sounds.task_from_csv

    def counting(path, **how):
        found.append(str(path))
        return read(path, **how)

    monkeypatch.setattr(own_sounds, "task_from_csv", counting)
    return found


def opened(csv, **how):
    return opening.open_task(csv, data="data", **how)


def alike(a, b):
    """Whether two manifests are of equal tasks, tables and files."""
    pd.testing.assert_frame_equal(a.table, b.table)
    assert np.array_equal(a.stamps, b.stamps)
    assert (a.root, a.sha256, a.altered) == (b.root, b.sha256, b.altered)
    assert replace(a.task, read=None) == replace(b.task, read=None)
    pd.testing.assert_frame_equal(a.task.read(a.root), b.task.read(b.root))
    return True


def test_an_unchanged_table_is_not_read_again(clips, reads):
    first, csv = opened(clips.csv), f"{clips.root}/sounds.csv"
    assert len(reads) == 1
    assert opened(csv).sha256 == first.sha256
    assert len(reads) == 1
    os.utime(csv)
    assert opened(csv).sha256 == first.sha256
    assert len(reads) == 1
    assert alike(opened(csv), first)
    assert opened(csv, seconds=0.5).task.seconds == 0.5


TABLES = {
    "folds and groups": "file;label;fold;group\n"
    + "".join(f"{i}.wav;{'ab'[i % 2]};{i % 3};g{i % 6}\n" for i in range(12)),
    "several labels": "Filename,Labels,Split\n"
    + "".join(
        f'{i}.wav,"{("a,b", "a", "-", "b")[i % 4]}",{("Training", "test")[i // 8]}\n'
        for i in range(12)
    ),
    "segments": "file,label,split,start,end\n"
    + "".join(
        f"{i}.wav,{'ab'[at]},{('train', 'test')[i // 8]},{at / 10},{(at + 1) / 10}\n"
        for i in range(12)
        for at in range(2)
    ),
    "absolute names": "file,label,split\n"
    + "".join(f"FOLDER/{i}.wav,{'ab'[i % 2]},{('train', 'test')[i // 8]}\n" for i in range(12)),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_task_is_the_one_that_was_read(name, tmp_path, sound, reads):
    folder = tmp_path / "sounds"
    for i in range(12):
        sound(folder / f"{i}.wav", seed=i)
    csv = folder / "own.csv"
    csv.write_text(TABLES[name].replace("FOLDER", str(folder)))
    before, after = Notes(), Notes()
    first = opened(csv, progress=before)
    second = opened(csv, progress=after)
    assert len(reads) == 1
    assert before.said == after.said
    assert alike(second, first)


@pytest.mark.parametrize("what", ["a cell", "a sound", "a missing sound", "the code"])
def test_what_has_changed_is_read(what, clips, sound, reads, monkeypatch):
    first = opened(clips.csv)
    if what == "a cell":
        clips.rows[0][1] = "high"
    elif what == "a sound":
        sound(clips.root / clips.rows[0][0], hertz=77, seconds=0.3)
    elif what == "a missing sound":
        (clips.root / clips.rows[0][0]).unlink()
    else:
        monkeypatch.setattr(indexed_tables, "_code", lambda: "another")
    second = opened(clips.csv)
    assert len(reads) == 2
    assert (second.sha256 == first.sha256) == (what == "the code")
    third = opened(clips.csv)
    assert third.sha256 == second.sha256
    assert len(reads) == (3 if what == "a missing sound" else 2)


def test_a_name_with_several_spellings_is_looked_for_again(clips, sound, reads):
    name = unicodedata.normalize("NFD", "train/é.wav")
    sound(clips.root / name, hertz=500)
    clips.rows.append([unicodedata.normalize("NFC", name), "low", "train"])
    first = opened(clips.csv)
    assert name in set(first.table.file)
    sound(clips.root / unicodedata.normalize("NFC", name), hertz=900)
    second = opened(clips.csv)
    assert name not in set(second.table.file)
    assert first.sha256 != second.sha256


def test_reindexing_reads_it(clips, reads):
    opened(clips.csv)
    opened(clips.csv, reindex=True)
    assert len(reads) == 2


def test_a_table_that_changes_while_it_is_read_is_not_remembered(clips, monkeypatch):
    read = own_sounds.task_from_csv

    def slowly(path, **how):
        task = read(path, **how)
        clips.rows[0][1] = "high"
        _ = clips.csv
        return task

    csv = clips.csv
    monkeypatch.setattr(own_sounds, "task_from_csv", slowly)
    low = opened(csv)
    monkeypatch.undo()
    monkeypatch.chdir(clips.root.parent)
    high = opened(csv)
    assert high.sha256 != low.sha256
    assert high.table.label[high.table.file == clips.rows[0][0]].tolist() == ["high"]


def test_a_manifest_that_cannot_be_written_again_still_serves(clips, reads, monkeypatch):
    first = opened(clips.csv)
    head = next(clips.root.parent.glob("data/manifests/*.json"))
    known = json.loads(head.read_text())
    del known["origin"]  # as an earlier version left it
    head.write_text(json.dumps(known))

    def refuse(*_, **__):
        raise UserError("read-only")

    with monkeypatch.context() as patch:
        patch.setattr(manifests, "save", refuse)
        assert opened(clips.csv).sha256 == first.sha256
    opened(clips.csv)
    assert len(reads) == 3
    opened(clips.csv)
    assert len(reads) == 3


def test_stamps_are_those_of_the_disk_fast_or_slow(tmp_path, monkeypatch):
    names = [f"{i}.wav" for i in range(30)]
    for i, name in enumerate(names[:-1]):
        (tmp_path / name).write_bytes(b"x" * i)
    monkeypatch.setattr(stamps, "_TRIED", 5)
    monkeypatch.setattr(stamps, "_TOGETHER", 7)
    expected = [list(stamps.stamp_of((tmp_path / name).stat())) for name in names[:-1]]
    for slow in (0.0, 1e9):
        monkeypatch.setattr(stamps, "_SLOW", slow)
        found = stamps.stamps_of(tmp_path, names).tolist()
        assert found == [*expected, list(stamps.ABSENT)]
    assert stamps.stamps_of(tmp_path, []).shape == (0, 3)
