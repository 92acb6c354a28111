"""A probe that reads its batches from disk in blocks gives the bits of one in memory."""

import os
from itertools import product

import numpy as np
import pytest
import torch

from evar.embedding.mapped import Mapped, RowFile
from evar.errors import UserError
from evar.probing import probe, rows
from evar.probing.probe import Job, ProbeSettings
from evar.probing.rows import InMemory, OnDisk, walk

WIDTH = 24


def numbers(count=600, width=WIDTH, seed=0):
    rng = np.random.default_rng(seed)
    return (5 * rng.standard_normal((count, width)) + 3).astype(np.float32)


@pytest.fixture
def mapped(tmp_path):
    """Returns what makes a file of the same numbers as an array."""

    def of(x):
        made = Mapped.create(x.shape, tmp_path)
        made[:] = x
        return made

    return of


@pytest.fixture(params=[1, 4 * WIDTH * 150, 2**26], ids=["one step", "some steps", "all"])
def budget(request, monkeypatch):
    """Sets the bytes of a block: less than a step, a few steps, everything."""
    monkeypatch.setattr(rows, "_budget", lambda: request.param)
    return request.param


def jobs_of(count, *, valid=True, rates=(None,)):
    """Three folds of two seeds, of unequal sizes, that share many rows."""
    order = np.random.default_rng(1).permutation(count)
    found = []
    for seed, fold, lr in product((42, 43), range(3), rates):
        test = order[60 * fold : 60 * fold + 60 - 7 * fold]
        left = np.setdiff1d(order, test)
        sides = (left[80:], left[:80]) if valid else (left, None)
        found.append(Job(*sides, test, seed, fold, lr=lr))
    # The rows of a fold are one array, as jobs of a command share it.
    first = {job.stream: job for job in reversed(found)}
    return [
        Job(
            first[j.stream].train,
            first[j.stream].valid,
            first[j.stream].test,
            j.seed,
            j.stream,
            j.lr,
        )
        for j in found
    ]


@pytest.mark.parametrize(
    ("options", "multi_label", "valid", "rates"),
    [
        ({}, False, True, (None,)),
        ({"hidden": (11,)}, False, True, (1e-3, 1e-2)),
        ({"batch_size": 37}, True, False, (None,)),
    ],
    ids=["folds", "a hidden layer and a grid of rates", "several labels, a random tenth"],
)
def test_results_are_those_of_rows_in_memory(budget, options, multi_label, valid, rates, mapped):
    x, rng = numbers(), np.random.default_rng(2)
    y = rng.integers(0, 4, 600)
    if multi_label:
        y = (rng.random((600, 4)) < 0.4).astype(np.float32)
    settings = ProbeSettings(**{"lr": 1e-2, "epochs": 4, "batch_size": 50, **options})
    jobs, file = jobs_of(600, valid=valid, rates=rates), mapped(x)
    expected = probe.fit(x.copy(), y, jobs, settings)
    found = probe.fit(file, y, jobs, settings, overwrite_x=True)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.logits.tobytes() == theirs.logits.tobytes()
        assert (ours.valid_score, ours.best_epoch) == (theirs.valid_score, theirs.best_epoch)
        for own, other in zip(ours.layers, theirs.layers, strict=True):
            assert own[0].tobytes() == other[0].tobytes()
            assert own[1].tobytes() == other[1].tobytes()
    assert file.tobytes() == x.tobytes()  # is never written to


def test_held_out_rows_beyond_a_chunk_are_read_in_chunks(mapped, monkeypatch):
    monkeypatch.setattr(rows, "_budget", lambda: 1)
    monkeypatch.setattr("evar.probing.training.CHUNK", 32)
    monkeypatch.setattr("evar.probing.training._TOGETHER", 0)
    x, y = numbers(), np.arange(600) % 3
    settings, jobs = ProbeSettings(epochs=2), jobs_of(600)
    expected = probe.fit(x, y, jobs, settings)
    for ours, theirs in zip(probe.fit(mapped(x), y, jobs, settings), expected, strict=True):
        assert ours.logits.tobytes() == theirs.logits.tobytes()


@pytest.mark.parametrize(("width", "count"), [(1, 9000), (7, 9001), (65, 5000), (300, 4097)])
def test_the_scaler_is_that_of_rows_in_memory(width, count, mapped, monkeypatch):
    monkeypatch.setattr(rows, "_budget", lambda: 4 * width * 4500)  # one piece and a part
    x = numbers(count, width) * 100
    chosen = np.random.default_rng(3).permutation(count)[: int(0.9 * count)]
    for own in (chosen, np.sort(chosen), chosen[:1]):
        for ours, theirs in zip(probe.scaler(mapped(x), own), probe.scaler(x, own), strict=True):
            assert ours.tobytes() == theirs.tobytes()


def test_blocks_hold_each_row_once_and_as_many_steps_as_fit(mapped):
    x = numbers()
    steps = torch.from_numpy(np.random.default_rng(4).integers(0, 600, (7, 2, 5)))
    on_disk = OnDisk(RowFile.of(mapped(x)), budget=4 * WIDTH * 35)
    sizes = []
    for at, (block, positions) in enumerate(on_disk.blocks(steps.unbind())):
        sizes.append(len(positions))
        for i, own in enumerate(positions):
            assert torch.equal(block[own], torch.from_numpy(x)[steps[3 * at + i]])
        assert len(block) == len(steps[3 * at : 3 * at + 3].unique())
    assert sizes == [3, 3, 1]
    assert list(on_disk.blocks([])) == []


def test_rows_in_memory_are_one_block_that_nothing_copies():
    x, steps = torch.from_numpy(numbers()), torch.arange(12).view(3, 4).unbind()
    found = list(walk(InMemory(x), steps))
    assert all(own is x for own, _ in found)
    assert all(own is step for (_, own), step in zip(found, steps, strict=True))


def test_another_device_is_given_all_rows_standardised(mapped):
    x = numbers()
    by = probe.scaler(x, np.arange(400))
    expected = probe.standardised(x, by)
    for budget in (1, 4 * WIDTH * 70, 2**20):
        found = OnDisk(RowFile.of(mapped(x)), by, budget=budget).all_on("cpu")
        assert torch.equal(found, expected)


def test_a_file_that_is_cut_short_is_one_clear_error(budget, mapped):
    file, y = mapped(numbers()), np.arange(600) % 3
    os.truncate(file.fileno(), file.nbytes // 2)
    with pytest.raises(UserError, match=r"temporary file.*cannot be read \(cut short\)"):
        probe.fit(file, y, jobs_of(600), ProbeSettings(epochs=1))


def test_an_error_of_the_disk_while_a_block_is_used_is_raised(mapped, monkeypatch):
    on_disk = OnDisk(RowFile.of(mapped(numbers())), budget=4 * WIDTH * 10)
    read, calls = os.preadv, []

    def fails_later(*arguments):
        calls.append(arguments)
        if len(calls) > 4:
            raise OSError(5, "Input/output error")
        return read(*arguments)

    monkeypatch.setattr(os, "preadv", fails_later)
    with pytest.raises(UserError, match="Input/output error"):
        list(on_disk.blocks(torch.arange(600).view(60, 10).unbind()))
