"""The command line of a job that several GPUs train."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from evar.sweeping import torchrun
from evar.sweeping.job import Job
from helpers import finetune_net
from helpers.sweeps import ROOT, gone, runs, states

NET = f"{finetune_net.__file__}:Net"
TUNE = ("--protocols=finetune", "--gpus_per_job=2", "--device=cpu", "--seeds=1", "--epochs=1")


def until_gone(number: int) -> None:
    """Waits until a process has ended."""
    deadline = time.monotonic() + 60
    while not gone(number):
        assert time.monotonic() < deadline, "it outlives its parent"
        time.sleep(0.05)


def test_the_command_is_what_a_user_would_type():
    job = Job.of("m2d", "esc50", "finetune", {"seeds": [43], "lr": 0.5, "partial": True})
    words = torchrun.command(job, Path("out"), processes=4)
    assert words[1:7] == [
        "-c",
        "from evar.sweeping import torchrun; torchrun.agent()",
        str(os.getpid()),
        "--standalone",
        "--nproc_per_node=4",
        "--no-python",
    ]
    assert words[-8:] == [
        "finetune",
        "m2d",
        "esc50",
        "--results=out",
        "--quiet",
        "--lr=0.5",
        "--partial=True",
        "--seeds=43,",
    ]


def test_two_processes_train_what_one_would(clips, command, tmp_path):
    ran = command("sweep", NET, clips.csv, *TUNE, "--dropout=0", "--retries=0", "--results=two")
    logs = [p.read_text() for p in tmp_path.glob("two/sweeps/*/logs/*.log")]
    assert ran.code == 0, (ran, logs)
    (run,) = runs(tmp_path / "two")
    (state,) = states(tmp_path / "two")
    assert (state["status"], state["run"]) == ("done", run.id)
    options = ("--device=cpu", "--seeds=1", "--epochs=1", "--dropout=0", "--results=one")
    assert command("finetune", NET, clips.csv, *options).code == 0
    (alone,) = runs(tmp_path / "one")
    assert alone.id == run.id


def test_processes_end_with_the_torchrun_that_started_them(tmp_path):
    """Which gives them sessions of their own, so that what kills its group spares them."""
    child = (
        "import os, time\n"
        "from evar.sweeping.worker import end_with\n"
        "end_with(os.getppid())\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)"
    )
    parent = (
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', sys.argv[1]], start_new_session=True)"
    )
    line = [sys.executable, "-c", parent, child]
    started = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    number = int(started.stdout.readline())
    started.send_signal(signal.SIGKILL)
    started.wait()
    until_gone(number)


def test_torchrun_ends_with_the_worker_that_started_it(tmp_path):
    """As where a node of Ray dies: nothing is left that could end the worker's child."""
    torchrun_ = (
        "import os, sys, time, types\n"
        "from evar.sweeping import torchrun\n"
        "def main(words): print(os.getpid(), *words, flush=True); time.sleep(60)\n"
        "sys.modules['torch.distributed.run'] = types.SimpleNamespace(main=main)\n"
        "torchrun.agent()"
    )
    worker = (
        "import sys\n"
        "from evar.sweeping import torchrun\n"
        "from evar.sweeping.job import Job\n"
        "made = torchrun.command(Job.of('m2d', 'esc50', 'finetune', {}), 'out', processes=2)\n"
        "torchrun.command = lambda *_, **__: [made[0], '-c', sys.argv[1], *made[3:]]\n"
        "torchrun.run(None, None, processes=2)"
    )
    line = [sys.executable, "-c", worker, torchrun_]
    started = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    number, *words = started.stdout.readline().split()
    assert words[0] == "--standalone"
    started.kill()
    started.wait()
    until_gone(int(number))
