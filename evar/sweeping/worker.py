"""A worker process of the local engine.

Receives groups of jobs and sends events, both as JSON; what models print goes to a log file per
job.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path

from evar.sweeping.job import Job
from evar.sweeping.logs import Logs, redirect

_WATCH_SECONDS = 0.5


def main(channel: Connection, how: Mapping, environment: Mapping[str, str]) -> None:
    """Works until the channel is closed, or until its driver has died.

    how: the folders `results` and `folder` (of the sweep), `device`, `sharing` and `gpus`.
    environment: the driver's, with this worker's GPUs.
    """
    os.setsid()  # so that Ctrl-C reaches the driver alone
    os.environ.clear()
    os.environ.update(environment)
    end_with(os.getppid())  # the server that the driver forks workers from ends with it
    redirect(Path(how["folder"]) / "workers.log")
    logs = Logs(Path(how["folder"]) / "logs")
    from evar.sweeping.shelf import Shelf
    from evar.sweeping.work import Exhausted, Worker

    def send(**event) -> None:
        channel.send_bytes(json.dumps(event).encode())

    def report(event: str, job: Job, **details) -> None:
        if event == "at":
            logs.switch(job)
        send(event=event, job=job.id, **details)
        if event == "failed":
            print(details["why"], file=sys.stderr, flush=True)

    shelf = Shelf(how["device"], sharing=how["sharing"])
    worker = Worker(Path(how["results"]), report, shelf, gpus=how["gpus"])
    try:
        while True:
            worker.do([Job.from_json(data) for data in json.loads(channel.recv_bytes())])
            send(event="idle")
    except (Exhausted, EOFError):  # the first has been reported; a fresh process goes on
        return


def end_with(parent: int) -> None:
    """Ends this process, the leader of its group, and those of the group soon after its parent."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_SECONDS)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=look, daemon=True).start()
