"""A Ray cluster of two nodes in this machine loses one: every result is there, bit for bit."""

import threading
import time

import pytest

from helpers.sweeps import FEW, runs, scored, singly, states, tables

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")


@pytest.fixture
def cluster(monkeypatch):
    """A head with one processor, and a second node with one."""
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
    names, results = models("One", "Slow", "Three", "Sluggish"), tmp_path / "results"
    removed: list[float] = []

    def remove() -> None:
        while len({s["worker"] for s in states(results) if s["status"] == "running"}) < 2:
            time.sleep(0.02)
        cluster.remove_node(cluster.second, allow_graceful=False)
        removed.append(time.monotonic())

    threading.Thread(target=remove, daemon=True).start()
    # Parts of 12 clips: each task is embedded by two Ray tasks before it is scored.
    ran = command("sweep", names, clips.csv, *FEW, "--engine=ray", "--split=12", "--retries=2")
    assert ran.code == 0, ran
    assert removed, "the second node has not been removed"
    assert "8 jobs: 8 done" in ran.out
    found = runs(results)
    assert len(found) == len({run.request for run in found}) == 8
    singly(names, clips.csv, tmp_path / "singly")
    assert scored(results) == scored(tmp_path / "singly")
    assert tables(results) == tables(tmp_path / "singly")
