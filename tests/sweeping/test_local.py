"""Sweeps by processes of this machine: what dies, raises or is interrupted costs itself alone."""

import os
import signal
import threading
import time
from pathlib import Path

from helpers.sweeps import FEW, gone, runs, scored, singly, start, states, tables


def kill_one(results: Path, killed: list[int]) -> None:
    """Sends SIGKILL to the first worker that is seen embedding."""
    while not killed:
        for state in states(results):
            if state["status"] == "running" and state["stage"] in ("embed", "run"):
                os.kill(state["worker"], signal.SIGKILL)
                killed.append(state["worker"])
                return
        time.sleep(0.02)


def test_a_worker_is_killed_in_the_middle(models, clips, command, tmp_path):
    names = models("One", "Slow", "Three", "Sluggish")
    results, killed = tmp_path / "results", []
    killer = threading.Thread(target=kill_one, args=(results, killed), daemon=True)
    killer.start()
    ran = command("sweep", names, clips.csv, *FEW, "--workers=2")
    assert ran.code == 0, ran
    assert len(killed) == 1
    assert "its process was ended by SIGKILL (out of memory?); will be tried again" in ran.out
    found = runs(results)
    assert len(found) == len({run.request for run in found}) == 8
    singly(names, clips.csv, tmp_path / "singly")
    assert scored(results) == scored(tmp_path / "singly")
    assert tables(results) == tables(tmp_path / "singly")


def test_what_fails_fails_alone(models, clips, command, tmp_path):
    names = models("Dies", "Raises", "Eats", "One", "Two")
    ran = command("sweep", names, clips.csv, "--protocols=knn", "--retries=0")
    assert ran.code == 1, ran
    failed = {s["model"].rpartition(":")[2]: s for s in states(tmp_path / "results") if s["why"]}
    assert failed.keys() == {"Dies", "Raises", "Eats"}
    assert {s["status"] for s in failed.values()} == {"failed"}
    assert "SIGKILL" in failed["Dies"]["why"]
    assert "no such layer" in failed["Raises"]["why"]
    assert "memory" in failed["Eats"]["why"]
    assert sorted(run.model.name for run in runs(tmp_path / "results")) == ["One", "Two"]
    ended = [s for s in ran.out.splitlines() if s.startswith("failed") and "(log: " in s]
    (line,) = [s for s in ended if "Raises" in s]
    log = Path(line.rpartition("(log: ")[2].rstrip(")"))
    assert "no such layer" in log.read_text()
    status = command("sweep", names, clips.csv, "--protocols=knn", "--status")
    assert status.code == 0
    assert "5 jobs: 2 done, 3 failed" in status.out


def test_a_sweep_goes_on_after_its_driver_was_killed(models, clips, command, tmp_path):
    names, results = models("One", "Slow", "Sluggish"), tmp_path / "results"
    driver = start(names, clips.csv, *FEW)
    while not list((results / "runs").glob("*.json")):
        assert driver.poll() is None, driver.stdout.read()
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    workers = {s["worker"] for s in states(results) if s["worker"]}
    deadline = time.monotonic() + 30
    while not all(map(gone, workers)):
        assert time.monotonic() < deadline, "workers outlive their driver"
        time.sleep(0.05)
    before = {p: p.stat().st_mtime_ns for p in (results / "runs").glob("*.json")}
    assert 1 <= len(before) < 6
    ran = command("sweep", names, clips.csv, *FEW)
    assert ran.code == 0, ran
    assert len(runs(results)) == 6
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())


def test_an_interrupt_ends_it(models, clips, tmp_path):
    driver = start(models("Slow"), clips.csv, *FEW)
    while not any(s["status"] == "running" for s in states(tmp_path / "results")):
        assert driver.poll() is None, driver.stdout.read()
        time.sleep(0.02)
    workers = {s["worker"] for s in states(tmp_path / "results") if s["worker"]}
    driver.send_signal(signal.SIGINT)
    out, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130, out
    assert "Run the same command again to resume" in out
    assert all(map(gone, workers))


def test_two_sweeps_at_once_do_every_job_once(models, clips, command, tmp_path):
    names, results = models("One", "Slow", "Two"), tmp_path / "results"
    driver = start(names, clips.csv, *FEW)
    while not list(results.glob("sweeps/*/jobs/*.json")):
        assert driver.poll() is None, driver.stdout.read()
        time.sleep(0.02)
    ran = command("sweep", names, clips.csv, *FEW)
    out, _ = driver.communicate(timeout=120)
    for code, said in ((ran.code, ran.out), (driver.returncode, out)):
        assert code == 0, said
        assert "6 jobs: 6 done" in said
    found = runs(results)
    assert len(found) == len({run.request for run in found}) == 6
    logs = [p.read_text() for p in results.glob("sweeps/*/logs/*.log")]
    assert not any("rror" in text for text in logs), logs


def test_parts_are_the_whole(models, clips, command, tmp_path):
    names = models("One", "Two", "Three")
    for number in range(3):
        ran = command("sweep", names, clips.csv, *FEW, f"--part={number}/3", "--results=parts")
        assert ran.code == 0, ran
        assert "2 jobs: 2 done" in ran.out
    singly(names, clips.csv, tmp_path / "singly")
    assert tables(tmp_path / "parts") == tables(tmp_path / "singly")
    assert len(runs(tmp_path / "parts")) == 6
    status = command("sweep", names, clips.csv, *FEW, "--results=parts", "--status")
    assert "6 jobs: 6 done" in status.out
