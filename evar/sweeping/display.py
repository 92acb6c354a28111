"""Shows a sweep while it runs: a live table in a terminal, lines elsewhere."""

import importlib.util
import sys
import time
from typing import Any

from evar.sweeping.job import Job
from evar.sweeping.state import BLOCKED, DONE, FAILED, RUNNING, WAITING, Board, State, counts

_SHOWN = 20  # running and failed jobs in the live table


class Display:
    """Prints one line per job that ends; `Live` overrides both methods."""

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *exception) -> None:
        pass

    def update(self, board: Board) -> None:
        """Shows the present state; called twice a second and after every event."""

    def note(self, board: Board, job: Job, event: str) -> None:
        """Tells of one event of a job."""
        state = board.states[job]
        if event == "done":
            print(f"done  {job.name}  ({_left(board)})", flush=True)
        elif event == "failed":
            again = "; will be tried again" if state.status == WAITING else ""
            print(f"failed  {job.name}: {state.why}{again}", flush=True)


class Silent(Display):
    """Shows nothing."""

    def note(self, board: Board, job: Job, event: str) -> None:
        pass


class Live(Display):
    """A table that is redrawn in place, by rich."""

    def __init__(self) -> None:
        from rich.live import Live as RichLive

        self.live = RichLive(refresh_per_second=2, transient=True)

    def __enter__(self) -> "Live":
        self.live.start()
        return self

    def __exit__(self, *exception) -> None:
        self.live.stop()

    def update(self, board: Board) -> None:
        self.live.update(_table(board))

    def note(self, board: Board, job: Job, event: str) -> None:
        self.update(board)


def display(*, quiet: bool = False) -> Display:
    """Returns what suits the terminal and the packages that are installed."""
    if quiet:
        return Silent()
    if sys.stdout.isatty() and importlib.util.find_spec("rich"):
        return Live()
    return Display()


def _left(board: Board) -> str:
    states = list(board.states.values())
    due = [s for s in states if s.status != BLOCKED]
    ended = sum(s.status in (DONE, FAILED) for s in due)
    text = f"{ended} of {len(due)}"
    if ended and ended < len(due):
        seconds = (time.time() - board.started) / ended * (len(due) - ended)
        text += f", about {_duration(seconds)} left"
    return text


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else "a minute"


def _table(board: Board) -> Any:
    from rich.markup import escape
    from rich.table import Table

    title = f"{counts(board.states.values())} ({_left(board)})"
    table = Table("", "model", "task", "protocol", "", title=title, title_justify="left")
    shown = [*board.of(RUNNING), *board.of(FAILED)][:_SHOWN]
    for job in shown:
        state = board.states[job]
        words = (state.status, job.model, job.task, job.protocol, _activity(state))
        table.add_row(*map(escape, words))
    return table


def _activity(state: State) -> str:
    if state.status == FAILED:
        return state.why
    if not state.count:
        return state.stage
    total = f" of {state.total:,}" if state.total else ""
    return f"{state.stage}: {state.count:,}{total} {state.unit}s"
