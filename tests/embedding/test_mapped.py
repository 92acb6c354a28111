"""Rows of a file: any of them, in few calls, and nothing but what was written."""

import os

import numpy as np
import pytest

from evar.embedding import mapped
from evar.embedding.mapped import Mapped, RowFile
from evar.errors import UserError


@pytest.fixture
def made(tmp_path):
    x = Mapped.create((3000, 5), tmp_path)
    x[:] = np.random.default_rng(0).standard_normal(x.shape)
    return x


def read(x, rows):
    out = np.full((len(rows), x.shape[1]), np.nan, np.float32)
    RowFile.of(x).read(np.asarray(rows), out)
    return out


@pytest.mark.parametrize("gap", [0, 39, 40, 10**6])
@pytest.mark.parametrize("most", [1, 3, 256])
def test_any_rows_of_any_view_are_those_of_the_array(made, gap, most, monkeypatch):
    monkeypatch.setattr(mapped, "_GAP", gap)
    monkeypatch.setattr(mapped, "_TOGETHER", most)
    rng, expected = np.random.default_rng(1), np.array(made)
    for part in (np.s_[:], np.s_[7:1000], np.s_[:, 1:3], np.s_[5:900:3, 4:]):
        view, own = made[part], expected[part]
        for count in (1, 2, 50, len(own)):
            rows = np.sort(rng.permutation(len(own))[:count])
            assert read(view, rows).tobytes() == own[rows].tobytes()


def test_rows_in_any_order_are_read_not_looked_up(made, monkeypatch):
    expected, calls, preadv = np.array(made), [], os.preadv
    monkeypatch.setattr(os, "preadv", lambda *a: calls.append(a) or preadv(*a))
    rng = np.random.default_rng(2)
    for rows in (rng.integers(0, 3000, 500), np.arange(7, 3000, 9), np.array([3], np.uint8)):
        before = len(calls)
        found = made[rows]
        assert found.tobytes() == expected[rows].tobytes()
        assert len(calls) > before
        assert type(found) is np.ndarray
    with pytest.raises(IndexError, match="out of bounds"):
        made[np.array([3000, 1])]
    before = len(calls)
    for index in (3, np.s_[2:9, 1], [2, 1], expected[:, 0] > 0, np.array([-1, 2]), rows[:0]):
        assert made[index].tobytes() == expected[index].tobytes()
    assert len(calls) == before


def test_neighbours_share_a_call(made, monkeypatch):
    calls, preadv = [], os.preadv
    monkeypatch.setattr(os, "preadv", lambda *a: calls.append(len(a[1])) or preadv(*a))
    monkeypatch.setattr(mapped, "_GAP", 2 * 20)
    read(made, [1, 2, 3, 6, 7, 11, 12])
    assert calls == [3, 1]  # rows 1 to 3, a gap of two, 6 and 7; then 11 and 12


def test_reads_that_end_early_are_continued(made, monkeypatch):
    preadv = os.preadv

    def only(fd, parts, at):
        return preadv(fd, [parts[0][:13]], at)

    monkeypatch.setattr(os, "preadv", only)
    assert (
        read(made, [3, 4, 9, 10, 2999]).tobytes() == np.array(made)[[3, 4, 9, 10, 2999]].tobytes()
    )


def test_a_file_without_the_rows_is_an_error(made):
    os.truncate(made.fileno(), 1000)
    with pytest.raises(UserError, match=r"temporary file .* cannot be read \(cut short\)"):
        read(made, [2, 100])


def test_what_is_written_is_in_the_array(made, monkeypatch):
    synced, pwrite = [], os.pwrite
    monkeypatch.setattr(os, "fdatasync", synced.append)
    monkeypatch.setattr(os, "pwrite", lambda fd, view, at: pwrite(fd, view[:33], at))
    monkeypatch.setattr(mapped, "_UNSYNCED", 150)
    rows = np.arange(20, dtype=np.float32).reshape(4, 5)
    file = RowFile.of(made)
    for at in (0, 100, 2996):
        file.write(at, rows)
        assert made[at : at + 4].tobytes() == rows.tobytes()
    assert len(synced) == 1  # 80 bytes at a time


def test_a_full_disk_is_one_error_that_names_the_place(made, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UserError, match="No space left"):
        RowFile.of(made).write(0, np.zeros((1, 5), np.float32))
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(UserError, match=f"{tmp_path}.*No space left"):
        Mapped.create((3, 4), tmp_path)


def test_other_arrays_are_in_no_file(made):
    for other in (
        np.zeros((3, 4), np.float32),
        np.array(made),
        made[[1, 2]],
        made * 2,
        made[0],
        made.T,
        made.view(np.int32),
    ):
        assert RowFile.of(other) is None


def test_the_file_has_no_name_and_closes_with_the_array(tmp_path):
    x = Mapped.create((3, 4), tmp_path)
    number = x.fileno()
    assert list(tmp_path.iterdir()) == []
    view = x[1:]
    del x
    view[:] = 7  # a view keeps it
    assert os.fstat(number).st_nlink == 0
    del view
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
