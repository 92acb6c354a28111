"""A worker process of the local engine: `python -m evar.sweeping.worker`.

Reads lines of JSON from stdin: first how to work, then groups of jobs. Writes events as lines of
JSON to what was its stdout; what models print goes to a log file per job.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from evar.sweeping.job import Job
from evar.sweeping.logs import Logs

_WATCH_SECONDS = 0.5


def main() -> None:
    """Works until stdin is closed, or until its driver has died."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    _watch(os.getppid())
    how = json.loads(sys.stdin.readline())
    logs = Logs(Path(how["logs"]))
    from evar.sweeping.shelf import Shelf
    from evar.sweeping.work import Exhausted, Worker

    def report(event: str, job: Job, **details) -> None:
        if event == "at":
            logs.switch(job)
        channel.write(json.dumps({"event": event, "job": job.id, **details}) + "\n")
        if event == "failed":
            print(details["why"], file=sys.stderr, flush=True)

    shelf = Shelf(how["device"], sharing=how["sharing"])
    worker = Worker(Path(how["results"]), report, shelf, gpus=how["gpus"])
    for line in sys.stdin:
        try:
            worker.do([Job.from_json(data) for data in json.loads(line)])
        except Exhausted:  # has been reported; a fresh process goes on
            return
        channel.write(json.dumps({"event": "idle"}) + "\n")


def _watch(parent: int) -> None:
    """Ends this process and those that it started soon after its driver has died."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_SECONDS)
        os.killpg(0, signal.SIGKILL)  # the driver made this process the leader of its own group

    threading.Thread(target=look, daemon=True).start()


if __name__ == "__main__":
    main()
