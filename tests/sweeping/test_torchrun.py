"""The command line of a job that several GPUs train."""

from pathlib import Path

from evar.sweeping import torchrun
from evar.sweeping.job import Job


def test_the_command_is_what_a_user_would_type():
    job = Job.of("m2d", "esc50", "finetune", {"seeds": [43], "lr": 0.5, "partial": True})
    words = torchrun.command(job, Path("out"), processes=4)
    assert words[1:6] == [
        "-m",
        "torch.distributed.run",
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
