"""Runs one job as the command line that a user would type under torchrun."""

import os
import subprocess
import sys
from pathlib import Path

from evar.errors import UserError
from evar.sweeping.job import Job
from evar.sweeping.worker import end_with


def command(job: Job, results: Path, *, processes: int) -> list[str]:
    """Returns the arguments of `agent`, of torchrun, and of the job's own command."""
    options = [f"--{name}={_text(value)}" for name, value in job.options]
    return [
        *(sys.executable, "-c", "from evar.sweeping import torchrun; torchrun.agent()"),
        *(str(os.getpid()), "--standalone", f"--nproc_per_node={processes}", "--no-python"),
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
        start_new_session=True,  # `agent` leads it, and ends it
    )
    if ended.returncode:
        raise UserError(f"torchrun ended with exit code {ended.returncode}; the log shows why")


def agent() -> None:
    """Is torchrun, and ends with the process whose number is the first argument.

    A worker of Ray takes no child processes along when it dies together with its node's manager.
    """
    from torch.distributed.run import main

    end_with(int(sys.argv[1]))
    main(sys.argv[2:])


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
