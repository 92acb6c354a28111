"""`leaderboard`: rebuild the tables from the runs."""

from pathlib import Path

from fire.decorators import SetParseFns

from evar.errors import UserError


@SetParseFns(results=str)
def leaderboard(*, results="results"):
    """Rebuild scores.csv, leaderboard.csv and leaderboard.md from the runs.

    usage: leaderboard [options]

    --results=DIR  the results folder; default: results/
    """
    from evar.results import leaderboard as leaderboard_

    if not Path(results).is_dir():
        raise UserError(f"{results}: no such results folder (--results=DIR)")
    for path in leaderboard_.rebuild(results):
        print(path)
