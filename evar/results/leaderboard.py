"""Rebuilds the tables of a results folder: scores.csv, leaderboard.csv, leaderboard.md."""

from dataclasses import dataclass
from pathlib import Path

from evar import files, locks
from evar.results import record, render, table


@dataclass(frozen=True)
class Rebuilt:
    """The tables that were written, and one line for each file in runs/ that is no result."""

    paths: list[Path]
    problems: list[str]


def rebuild(folder) -> Rebuilt:
    """Rewrites the tables from the runs in a folder and its published.csv, or the checkout's.

    Other processes may do the same at the same time: the last one to write has read all runs.
    Raises UserError where the folder cannot be written or published.csv is no such table.
    """
    folder = files.make_folder(folder)
    with files.writing(folder), locks.lock(folder / ".leaderboard.lock"):
        runs, problems = record.load_runs(folder)
        rows = [*table.rows_of_runs(runs), *table.rows_published(folder / "published.csv")]
        tables = {
            "scores.csv": render.scores_csv(runs),
            "leaderboard.csv": render.csv_table(rows),
            "leaderboard.md": render.markdown(rows),
        }
        for name, content in tables.items():
            files.write_atomic(folder / name, content)
    return Rebuilt([folder / name for name in tables], problems)
