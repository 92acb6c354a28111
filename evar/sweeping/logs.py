"""Sends what a process prints to one log file per job."""

import os
import sys
from pathlib import Path

from evar.sweeping.job import Job


class Logs:
    """Points stdout and stderr of this process at <folder>/<job id>.log, which is appended to."""

    def __init__(self, folder: Path):
        self.folder, self.current = folder, ""

    def switch(self, job: Job) -> None:
        """Prints to the log of this job from now on."""
        if job.id == self.current:
            return
        self.current = job.id
        redirect(self.folder / f"{job.id}.log")


def redirect(path: Path) -> None:
    """Appends to a file what this process prints from now on, below the level of Python too."""
    sys.stdout.flush()
    sys.stderr.flush()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
