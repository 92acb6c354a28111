"""What a worker embeds ahead is what the protocols read afterwards."""

import csv
import json

import pytest

from evar import protocol
from evar.data import audio
from evar.results import record
from evar.sweeping.job import Job
from evar.sweeping.shelf import Shelf
from evar.sweeping.work import Worker

BOTH = """
import torch
from evar import Adapter


class Both(Adapter):
    sample_rate = 16000
    embed_dim = 4
    joint_dim = 2

    def embed(self, audio):
        return self.embed_joint(audio).repeat(1, 2)

    def embed_joint(self, audio):
        return torch.stack([audio.square().mean(1) + 0.1, audio.abs().amax(1)], 1)

    def embed_text(self, texts):
        return torch.tensor([[1.0 + len(text), 2.0 + text.count("e")] for text in texts])
"""
SMALL = {"hear": {"grid_points": 1}, "linear": {"epochs": 2}}
AHEAD = [p.name for p in protocol.usable() if p.embeds]


@pytest.fixture
def events():
    return []


@pytest.fixture
def worker(tmp_path, events):
    def report(event, job, **details):
        events.append((event, job, details))

    return Worker(tmp_path / "results", report, Shelf("cpu"))


@pytest.fixture
def captions(clips):
    """A CSV of the same clips with captions."""
    path = clips.root / "captions.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [[row[0], f"a {row[1]} tone, {row[0]}"] for row in clips.rows]
        csv.writer(file).writerows([["file", "caption"], *rows])
    return str(path)


def test_the_protocols_that_declare_it():
    assert {"linear", "knn", "fewshot", "hear", "zeroshot", "retrieval"} <= set(AHEAD)


@pytest.mark.parametrize(
    ("name", "more"), [*((n, {}) for n in AHEAD), ("zeroshot", {"clips": "unit"})]
)
def test_after_filling_a_protocol_decodes_three_clips_to_compare(
    name, more, worker, events, clips, captions, new_adapter, monkeypatch
):
    task = captions if protocol.get(name).kinds == {"retrieval"} else clips.csv
    options = {"device": "cpu", **SMALL.get(name, {}), **more}
    job = Job.of(new_adapter(BOTH, "Both"), task, name, options)
    worker.fill([job], (0, 1))
    assert [e for e in events if e[0] == "failed"] == []

    decoded, load = [], audio.load_clip
    monkeypatch.setattr(audio, "load_clip", lambda p, **how: decoded.append(p) or load(p, **how))
    worker.do([job])
    assert len(decoded) == 3
    kinds = [event for event, _, _ in events]
    reasons = [details for event, _, details in events if event == "failed"]
    assert kinds[-1] == "done", reasons


def test_a_result_that_is_there_is_not_made_again(worker, events, clips, models):
    jobs = [Job.of(models("One"), clips.csv, "knn", {"device": "cpu"})]
    worker.do(jobs)
    (path,) = (worker.results / "runs").glob("*.json")
    before = path.stat().st_mtime_ns
    worker.do(jobs)
    assert events[-1][2] == {"run": path.stem, "there": True}
    assert path.stat().st_mtime_ns == before
    assert len(record.load_runs(worker.results)[0]) == 1


def test_windows_are_those_of_the_single_command(worker, clips, models, command, tmp_path):
    """A job holds plain numbers and words, as other processes are handed them."""
    options = {"device": "cpu", "windows": 0.2, "hop": 0.1, "pool": "max"}
    jobs = [Job.of(models(name), clips.csv, "knn", options) for name in ("One", "Two")]
    worker.do([Job.from_json(json.loads(json.dumps(job.to_json()))) for job in jobs])
    found, _ = record.load_runs(worker.results)
    assert len(found) == 2
    ways = ("--windows=0.2", "--hop=0.1", "--pool=max", "--device=cpu", "--no_cache", "--quiet")
    for job in jobs:
        ran = command("knn", job.model, clips.csv, *ways, f"--results={tmp_path / 'alone'}")
        assert ran.code == 0, ran.err
    alone, _ = record.load_runs(tmp_path / "alone")
    measured = [{(r.id, r.request, r.score) for r in each} for each in (found, alone)]
    assert measured[0] == measured[1]
    assert found[0].settings["windows"] == {"seconds": 0.2, "hop": 0.1, "pool": "max"}


def test_a_full_shelf_loads_models_in_turns(worker, events, clips, models):
    worker.shelf.budget = -1  # every model is too much
    names = ("One", "Two", "Slow")
    jobs = [Job.of(models(name), clips.csv, "knn", {"device": "cpu"}) for name in names]
    worker.do(jobs)
    assert [job for event, job, _ in events if event == "done"] == jobs
    assert worker.shelf.bytes >= 0
