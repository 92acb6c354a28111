"""What a sweep prints at its end: rows of the leaderboard, and the jobs that failed."""

from evar.results import leaderboard, record, render, table
from evar.sweeping.state import DONE, FAILED, Board, counts


def count(board: Board) -> str:
    """Returns how many jobs there are, and how many of each status."""
    return f"{len(board.states)} jobs: {counts(board.states.values())}"


def lines(board: Board) -> list[str]:
    """Rebuilds the tables of the results folder; returns the lines to print."""
    folder = board.folder
    found = list(leaderboard.rebuild(folder.results).problems)
    mine = {board.states[job].run for job in board.of(DONE)}
    runs = [run for run in record.load_runs(folder.results)[0] if run.id in mine]
    rows = table.rows_of_runs(runs)
    if rows:
        _, _, tables = render.markdown(rows).partition("\n## ")
        found.append(f"\n## {tables}")
    found.append(count(board))
    for job in board.of(FAILED):
        found.append(f"failed  {job.name}: {board.states[job].why} (log: {folder.log(job)})")
    return found
