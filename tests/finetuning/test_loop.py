"""What one training scores: which crops of validation clips, and logits, not probabilities."""

import numpy as np
import pytest
import torch

from evar.data import audio, manifests, own_sounds, targets
from evar.errors import UserError
from evar.finetuning import loop
from evar.finetuning.checkpoint import Place
from evar.finetuning.jobs import Job
from evar.finetuning.settings import Settings, usual
from evar.finetuning.waveforms import Waveforms
from helpers.finetune_net import Net

SHORT = {"epochs": 2, "warmup": 1, "batch_size": 6, "select": "valid"}


class Recorded(Waveforms):
    """Remembers what was asked of it."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.wanted = []

    def stream(self, wanted, **more):
        wanted = list(wanted)
        self.wanted += [want for part in wanted for want in part]
        return super().stream(wanted, **more)


@pytest.fixture
def trained(clips, tmp_path):
    """A function that trains the small network for two epochs on 0.1 s of clips of 0.2 s."""

    def call(how="valid split", **more):
        task = own_sounds.task_from_csv(clips.csv, seconds=0.1)
        manifest = manifests.open_task(task, tmp_path / "data", source=clips.root)
        y = targets.encode_labels(manifest, targets.class_names(manifest))
        (fold,) = targets.folds_of(manifest)
        place = Place(tmp_path / f"place {how} {more}")
        job = Job(fold, fold.train, fold.valid, how, 43, 0, place)
        waveforms = Recorded(manifest, 16000)
        loop.train(job, Net(), waveforms, y, Settings(**usual("none") | SHORT | more))
        return job, waveforms

    return call


def starts_of(waveforms, rows):
    """Where the units of these clips began, in the order in which they were read."""
    return [start for row, start in waveforms.wanted if row in set(rows.tolist())]


def test_the_first_unit_of_validation_clips_is_scored(trained):
    job, waveforms = trained()
    assert starts_of(waveforms, job.valid) == [0] * 2 * len(job.valid)
    assert starts_of(waveforms, job.fold.test) == [0] * len(job.fold.test)


def test_validation_clips_may_be_cropped_anew_in_each_epoch(trained):
    job, waveforms = trained(valid_crop="random")
    names = [waveforms.names[row] for row in job.valid]
    expected = [audio.random_start(43, f"valid {e}:{name}") for e in (1, 2) for name in names]
    assert starts_of(waveforms, job.valid) == expected
    assert len(set(expected)) == len(expected)
    assert starts_of(waveforms, job.fold.test) == [0] * len(job.fold.test)


def test_an_oracle_is_scored_as_the_test_set_is(trained):
    job, waveforms = trained("test set", valid_crop="random")
    assert starts_of(waveforms, job.valid) == [0] * 2 * len(job.valid)


def test_what_is_kept_are_logits(trained):
    job, waveforms = trained()
    logits, record = job.place.outcome()
    assert logits.dtype == np.float32
    assert logits.min() < 0  # no probability
    y = targets.encode_labels(waveforms.manifest, targets.class_names(waveforms.manifest))
    assert record["score"] == np.mean(logits.argmax(axis=1) == y[job.fold.test])


def test_logits_that_are_not_finite_stop_the_run(trained, monkeypatch):
    encode = Net.encode

    def broken(self, features):
        return encode(self, features) * (1.0 if self.training else torch.nan)

    monkeypatch.setattr(Net, "encode", broken)
    with pytest.raises(UserError, match="logits that are not finite"):
        trained()
