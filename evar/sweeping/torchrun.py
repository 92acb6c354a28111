"""Runs one job as the command line that a user would type under torchrun."""

import os
import subprocess
import sys
from pathlib import Path

from evar.errors import UserError
from evar.sweeping.job import Job
from evar.sweeping.worker import end_with


def command(job: Job, results: Path, *, processes: int) -> list[str]:
    """Returns the arguments of torchrun and of the job's own command."""
    options = [f"--{name}={_text(value)}" for name, value in job.options]
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc_per_node={processes}", "--no-python"),
        *(sys.executable, "-c", "from evar.sweeping import torchrun; torchrun.process()"),
        *(job.protocol, job.model, job.task, f"--results={results}", "--quiet", *options),
    ]


def run(job: Job, results: Path, *, processes: int) -> None:
    """Runs a job in several processes and waits. Raises UserError where they fail."""
    here = str(Path(__file__).parents[2])  # this copy of the package, wherever it was started
    path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    ended = subprocess.run(
        command(job, results, processes=processes),
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    if ended.returncode:
        raise UserError(f"torchrun ended with exit code {ended.returncode}; the log shows why")


def process() -> None:
    """Runs the command of this process' arguments: one of those that torchrun starts.

    torchrun gives each a session of its own, so that they outlive it where a sweep that is
    interrupted kills it: they look after that themselves.
    """
    from evar import cli

    end_with(os.getppid())
    cli.main()


def _text(value: object) -> str:
    return ",".join(map(str, value)) + "," if isinstance(value, tuple) else str(value)
