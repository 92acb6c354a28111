"""A Ray cluster of two nodes in this machine loses one: every result is there, bit for bit."""

import threading
import time
from types import SimpleNamespace

import pytest

from evar.sweeping import ray_engine
from evar.sweeping.display import Silent
from evar.sweeping.job import Job
from evar.sweeping.state import DONE, FAILED, RUNNING, WAITING, Board, Folder
from helpers.sweeps import FEW, runs, scored, singly, states, tables


@pytest.fixture
def cluster(monkeypatch):
    """A head with one processor, and a second node with one."""
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    small = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    made.second = made.add_node(**small)
    made.wait_for_nodes()
    ray.init(address=made.address, log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_node_is_removed_in_the_middle(cluster, models, clips, command, tmp_path):
    names, results = models("Slow"), tmp_path / "results"
    removed: list[float] = []

    def remove() -> None:
        while len({s["worker"] for s in states(results) if s["status"] == "running"}) < 2:
            time.sleep(0.02)
        cluster.remove_node(cluster.second, allow_graceful=False)
        removed.append(time.monotonic())

    threading.Thread(target=remove, daemon=True).start()
    # Parts of 12 clips: the task is embedded by two Ray tasks before it is scored.
    ran = command("sweep", names, clips.csv, *FEW, "--engine=ray", "--split=12", "--retries=2")
    assert ran.code == 0, ran
    assert removed, "the second node has not been removed"
    assert "2 jobs: 2 done" in ran.out
    found = runs(results)
    assert len(found) == len({run.request for run in found}) == 2
    singly(names, clips.csv, tmp_path / "singly")
    assert scored(results) == scored(tmp_path / "singly")
    assert tables(results) == tables(tmp_path / "singly")
    assert not list((tmp_path / "cache").rglob("*.lock")), "file locks between machines"


@pytest.fixture
def driver(tmp_path):
    """A driver that waits for one Ray task of four jobs, and the states of the jobs."""
    jobs = [Job.of(name, "demo", "knn", {}) for name in "abcd"]
    folder = Folder(tmp_path, jobs)
    folder.create()
    cluster = SimpleNamespace(cluster_resources=dict, nodes=lambda: [{"Alive": True}])
    board = Board(folder, jobs)
    made = ray_engine._Driver(cluster, board, Silent(), retries=0, split=9, gpus=1)
    made.waiting["reference"] = ray_engine._Group(jobs)
    return made


def test_jobs_are_counted_as_they_end(driver):
    folder, jobs = driver.board.folder, list(driver.board.states)
    told = ray_engine._Told(folder, final=True)
    told("at", jobs[0], {"stage": "run"})
    told("done", jobs[0], {"run": "abc"})
    told("at", jobs[1], {"stage": "run"})
    told("failed", jobs[1], {"why": "no such layer"})
    told("at", jobs[2], {"stage": "embed"})
    told("progress", jobs[2], {"stage": "embed", "count": 3, "total": 9, "unit": "clip"})
    for _ in range(2):
        driver._look()
    found = [driver.board.states[job] for job in jobs]
    assert [state.status for state in found] == [DONE, FAILED, RUNNING, WAITING]
    assert found[0].run == "abc"
    assert found[1].why == "no such layer"
    assert (found[2].count, found[2].total) == (3, 9)
    assert found[1].attempts == 1  # looked at twice, counted once
    assert [event["event"] for event in told.ended] == ["done", "failed"]


def test_a_part_of_the_clips_ends_no_job(driver):
    (job, *_) = driver.board.states
    told = ray_engine._Told(driver.board.folder, final=False)
    told("at", job, {"stage": "embed"})
    told("failed", job, {"why": "no such layer"})
    driver._look()
    assert driver.board.states[job].status == RUNNING
    assert told.ended == []
