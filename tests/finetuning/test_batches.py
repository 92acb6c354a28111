"""Steps of a run: every clip where it belongs, mixed with one partner, shared among processes."""

import pytest
import torch

from evar.data import manifests, own_sounds, targets
from evar.finetuning import augment, streams
from evar.finetuning.batches import Batches
from evar.finetuning.checkpoint import Place
from evar.finetuning.jobs import Job
from evar.finetuning.settings import Settings, usual
from evar.finetuning.streams import Purpose
from evar.finetuning.waveforms import Waveforms
from evar.parallel import World


@pytest.fixture
def made(clips, tmp_path):
    """A function for the Batches of one process: 12 training clips, 5 a step."""
    task = own_sounds.task_from_csv(clips.csv)
    manifest = manifests.open_task(task, tmp_path / "data", source=clips.root)
    y = targets.encode_labels(manifest, targets.class_names(manifest))
    (fold,) = targets.folds_of(manifest)
    job = Job(fold, fold.train, fold.valid, "", 43, 0, Place(tmp_path / "place"))

    def make(rank=0, size=1, **more):
        values = usual("none") | {"epochs": 2, "warmup": 1, "batch_size": 5, **more}
        settings = Settings(select="last", **values)
        waveforms = Waveforms(manifest, 16000)
        return Batches(job, waveforms, y, settings, World(rank, size))

    return make


def inputs(batches, part):
    """What a part's network is given: (B', S)."""
    (clips,) = batches.waveforms.stream([part.wanted])
    return clips if part.mixing is None else part.mixing @ clips


def test_an_epoch_has_every_training_clip_once(made):
    batches = made(mixup=0.0)
    parts = list(batches.epoch(0))
    assert [(step, part.of) for step, part in parts] == [(0, 5), (1, 5), (2, 2)]
    assert batches.steps == 3
    rows = [row for _, part in parts for row, _ in part.wanted]
    assert sorted(rows) == sorted(batches.job.train)
    labels = torch.cat([part.y for _, part in parts]).argmax(dim=1)
    assert labels.tolist() == batches.y[rows].tolist()
    again = [row for _, part in batches.epoch(1) for row, _ in part.wanted]
    assert again != rows
    assert sorted(again) == sorted(rows)


def test_clips_are_mixed_as_mixup_would(made):
    plain, mixed = made(mixup=0.0), made(mixup=0.5)
    for (step, before), (_, after) in zip(plain.epoch(0), mixed.epoch(0), strict=True):
        x, y = augment.mixup(
            inputs(plain, before),
            before.y,
            0.5,
            generator=streams.generator(Purpose.MIXUP, 43, 0, 0, step),
        )
        torch.testing.assert_close(inputs(mixed, after), x, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(after.y, y)
    assert any(p.mixing.gt(0).sum(dim=1).eq(2).any() for _, p in mixed.epoch(0))


@pytest.mark.parametrize(("size", "accumulate"), [(1, 2), (2, 1), (3, 1), (2, 2)])
def test_processes_and_parts_have_the_batch_between_them(made, size, accumulate):
    whole = made()
    shares = [made(rank, size, accumulate=accumulate) for rank in range(size)]
    expected = dict(whole.epoch(0))
    found: dict = {step: {} for step in expected}
    for batches in shares:
        for step, part in batches.epoch(0):
            assert part.of == expected[step].of
            for place, x, y in zip(part.places, inputs(batches, part), part.y, strict=True):
                found[step][place] = (x, y)
    for step, part in expected.items():
        assert sorted(found[step]) == list(range(part.of))
        for place, x, y in zip(part.places, inputs(whole, part), part.y, strict=True):
            torch.testing.assert_close(found[step][place][0], x, atol=1e-6, rtol=1e-5)
            assert found[step][place][1].equal(y)


def test_no_part_has_one_clip_alone(made):
    parts = list(made(accumulate=4, mixup=0.0).epoch(0))
    assert [(step, len(part.y)) for step, part in parts] == [(0, 3), (0, 2), (1, 3), (1, 2), (2, 2)]


def test_crops_change_with_epoch_and_seed_only(made):
    batches = made(mixup=0.0)
    first = {row: start for _, part in batches.epoch(0) for row, start in part.wanted}
    again = {row: start for _, part in made(mixup=0.0).epoch(0) for row, start in part.wanted}
    later = {row: start for _, part in batches.epoch(1) for row, start in part.wanted}
    assert first == again
    assert all(first[row] != later[row] for row in first)
