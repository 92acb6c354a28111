"""`report`: one run as a page."""

import sys
from pathlib import Path

from fire.decorators import SetParseFns

from evar.errors import UserError

_TEXT = ("run", "task", "results", "data", "cache", "audio", "protocol")


@SetParseFns(**dict.fromkeys(_TEXT, str))
def report(run, task="", *, results="", data="", cache="", audio="", protocol=""):
    """Write the report of a run as one HTML file that opens without a network.

    usage: report RUN [options]
           report MODEL TASK [options]

    RUN is an id in results/runs/ or the beginning of one; of MODEL and TASK the newest run
    without overrides counts, else the newest.

    --protocol=NAME  of MODEL and TASK, the newest run of this protocol
    --audio=HOW      embed: sounds inside the page, compressed; link: played from this disk; none.
                     Default: embed where the licence of the task allows it or the sounds are your
                     own, else link
    --data=DIR       data sets and manifests, for sounds and the map; default: $EVAR_DATA or data/
    --cache=DIR      embeddings, for the map; default: $EVAR_CACHE or the user's cache folder
    --results=DIR    the results folder; default: $EVAR_RESULTS or results/, beside TASK
                     if that is a table
    """
    from evar.data import own_sounds
    from evar.pages import board, finding
    from evar.pages import report as report_
    from evar.results import escape

    if audio not in ("", "embed", "link", "none"):
        raise UserError(f"--audio={audio}: not one of embed, link, none")
    results = results or own_sounds.usual_results(task)
    runs = finding.load(results)
    found = finding.run_of(runs, run, task, protocol=protocol)
    if task and (said := finding.chosen_of(found, runs)):
        print(escape.terminal(said), file=sys.stderr)
    path = report_.write(found, results, data=data or None, cache=cache or None, audio=audio)
    if (Path(results) / board.NAME).is_file():
        board.write(results)  # its cell leads to the report from now on
    print(path)
    print(f"open it in a browser: {path.resolve().as_uri()}", file=sys.stderr)
