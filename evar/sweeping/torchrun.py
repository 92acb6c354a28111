"""Runs one job as the command line that a user would type under torchrun."""

import subprocess
import sys
from pathlib import Path

from evar.errors import UserError
from evar.sweeping.job import Job


def command(job: Job, results: Path, *, processes: int) -> list[str]:
    """Returns the arguments of torchrun and of the job's own command."""
    options = [f"--{name}={_text(value)}" for name, value in job.options]
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc_per_node={processes}", "--no-python"),
        *(sys.executable, "-c", "from evar.cli import main; main()"),
        *(job.protocol, job.model, job.task, f"--results={results}", "--quiet", *options),
    ]


def run(job: Job, results: Path, *, processes: int) -> None:
    """Runs a job in several processes and waits. Raises UserError where they fail."""
    ended = subprocess.run(
        command(job, results, processes=processes), stdin=subprocess.DEVNULL, check=False
    )
    if ended.returncode:
        raise UserError(f"torchrun ended with exit code {ended.returncode}; the log shows why")


def _text(value: object) -> str:
    return ",".join(map(str, value)) + "," if isinstance(value, tuple) else str(value)
