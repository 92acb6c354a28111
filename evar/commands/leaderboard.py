"""`leaderboard`: rebuild the tables and the page from the runs."""

import sys
from pathlib import Path

from fire.decorators import SetParseFns

from evar.errors import UserError


@SetParseFns(results=str)
def leaderboard(*, results=""):
    """Rebuild scores.csv, leaderboard.csv, leaderboard.md and leaderboard.html from the runs.

    usage: leaderboard [options]

    --results=DIR  the results folder; default: $EVAR_RESULTS or results/
    """
    from evar.data import own_sounds
    from evar.pages import board
    from evar.results import leaderboard as leaderboard_

    results = results or own_sounds.usual_results()
    if not Path(results).is_dir():
        raise UserError(f"{results}: no such results folder (--results=DIR)")
    rebuilt = leaderboard_.rebuild(results)
    for path in [*rebuilt.paths, board.write(results)]:
        print(path)
    for problem in rebuilt.problems:
        print(f"skipped: {problem}", file=sys.stderr)
