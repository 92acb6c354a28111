"""Defines the manifest: a data set's clips on this disk, against what it should have."""

import hashlib
import io
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from evar.data import segments
from evar.data.clip_table import MISSING, check_usable
from evar.data.missing import explain
from evar.errors import BadAudio, UserError
from evar.task import Task

if TYPE_CHECKING:
    from evar.data.unhashed import Unhashed

_LONGER = 1.01  # of the unit: encoders of 30-second clips write 30.01 s


@dataclass(frozen=True)
class Unheard:
    """How much of a data set an encoder does not hear, because clips are cut to the task's unit.

    longer: clips that are more than 1 % longer than the unit, of `clips` usable ones. share: part
    of all seconds that lie beyond the unit, in [0, 1]. unit, longest: seconds. own: the unit can
    be set (a user's own sounds).
    """

    longer: int
    clips: int
    share: float
    unit: float
    longest: float
    own: bool

    def __bool__(self) -> bool:
        return self.longer > 0

    def __str__(self) -> str:
        """One sentence with the remedy; "" where every clip is heard whole."""
        if not self:
            return ""
        what = (
            f"{self.longer:,} of {self.clips:,} clips are longer than the unit of {self.unit:g} s: "
            f"{100 * self.share:.0f} % of the audio is not heard"
        )
        if not self.own:
            return f"{what} (the published unit)"
        return f"{what} (--seconds={math.ceil(self.longest)} hears all; or cut them into clips)"


@dataclass(frozen=True)
class Manifest:
    """Describes one data set on this disk.

    `table` has one row a clip, sorted by `file`: file, label, split or fold, group, sample_rate
    (Hz), frames (samples per channel), bytes, fingerprint (of the content), problem ("" for a good
    clip, "missing", or why it cannot be read). Where clips are segments of recordings, `start` and
    `end` (seconds) follow the group, `frames` are those of the segment, and `file_frames` those of
    the file. `decoder` names what decodes a clip, in a set with clips that soundfile does not read.
    `sha256` identifies its content on any machine, unless the content of some files has not been
    hashed yet (`unhashed`): then `hashed` returns the manifest that it does. `provisional` is the
    `sha256` from before that, under which an earlier run may have kept embeddings.
    """

    task: Task
    root: Path
    table: pd.DataFrame
    sha256: str
    stamps: np.ndarray  # (N, 3) size in bytes and times of change in ns, as seen on this disk
    altered: tuple[str, ...] = ()  # tables of the data set that are not the published ones
    unhashed: "Unhashed | None" = field(default=None, compare=False, repr=False)
    provisional: str = field(default="", compare=False)

    def __post_init__(self):
        if self.task.seconds is None and self.task.longest is not None:
            object.__setattr__(self, "task", replace(self.task, seconds=self.usual_seconds()))

    @property
    def good(self) -> pd.DataFrame:
        """Returns the clips that can be read; the row numbers of `table` stay as index."""
        return self.table[self.table.problem == ""]

    @property
    def clips(self) -> pd.Series:
        """Returns what each row of `table` is called: its file, with the times of a segment."""
        return segments.names(self.table)

    def span(self, row: int) -> tuple[int, int] | None:
        """Returns the frames of its file that a clip is, [first, last); None for a whole file."""
        if not segments.are_in(self.table):
            return None
        columns = (self.table[c][row] for c in ("start", "sample_rate", "frames"))
        return segments.span(*columns)

    @property
    def missing(self) -> pd.DataFrame:
        return self.table[self.table.problem == MISSING]

    @property
    def bad(self) -> pd.DataFrame:
        """Returns the clips that are there but cannot be read."""
        return self.table[~self.table.problem.isin(["", MISSING])]

    @property
    def expected(self) -> int:
        """Returns how many clips a complete copy has."""
        return sum(self.task.counts.values()) if self.task.counts else len(self.table)

    @property
    def partial(self) -> str:
        """Returns "N of M clips" where clips are absent, else ""."""
        here = len(self.table) - len(self.missing)
        found = self.counts()
        whole = all(found.get(side) == count for side, count in self.task.counts.items())
        reasons = (
            [] if whole and here == self.expected else [f"{here:,} of {self.expected:,} clips"]
        )
        if reasons and self.task.comparable:
            reasons.append("not comparable")
        return ", ".join(reasons + [f"{path} altered" for path in self.altered])

    def counts(self) -> dict[str, int]:
        """Counts the clips on this disk in each split or fold, readable or not."""
        here = self.table[self.table.problem != MISSING]
        return {str(k): int(n) for k, n in here[self.task.column].value_counts().items()}

    def usual_seconds(self) -> float | None:
        """Returns the unit length by default: the task's own, or the longest readable clip.

        The latter is rounded up to milliseconds, and at most `task.longest`.
        """
        if self.task.longest is None:
            return self.task.seconds
        good = self.good
        longest = float((good.frames / good.sample_rate).max()) if len(good) else 0.0
        return min(self.task.longest, max(round(longest + 0.0005, 3), 0.001))

    def unheard(self) -> Unheard:
        """Returns how many clips are longer than the task's unit, and how much is left out."""
        good, own = self.good, not self.task.counts
        unit = None if self.task.windows else self.task.seconds  # windows hear all
        seconds = good.frames.to_numpy(float) / np.maximum(good.sample_rate.to_numpy(float), 1)
        if unit is None or not seconds.sum():
            return Unheard(0, len(good), 0.0, unit or 0.0, seconds.max(initial=0.0), own)
        beyond = np.clip(seconds - unit, 0, None)
        longer = int((seconds > _LONGER * unit).sum())
        share = float(beyond.sum() / seconds.sum())
        return Unheard(longer, len(good), share, unit, float(seconds.max()), own)

    def test_side(self) -> "Manifest":
        """Returns the manifest of the test clips alone (with folds: of all clips).

        Zero-shot classification and retrieval score this; no other clip counts for completeness
        or identity.
        """
        if self.task.folds:
            return self
        kept = (self.table.split == "test").to_numpy()
        counts = {side: count for side, count in self.task.counts.items() if side == "test"}
        table = self.table[kept].reset_index(drop=True)
        return replace(
            self,
            task=replace(self.task, counts=counts, trains=False),
            table=table,
            sha256=table_hash(table),
            stamps=self.stamps[kept],
        )

    def hashed(self, progress=None) -> "Manifest":
        """Returns the manifest with the fingerprints of all files; reads those not hashed yet.

        progress(iterable, total=n) wraps the files. Errors are those of `Unhashed.hashing`.
        """
        if self.unhashed is None:
            return self
        table = self.table.assign(fingerprint=self.unhashed.fingerprints(self.table, progress))
        return replace(
            self,
            table=table,
            sha256=table_hash(table),
            unhashed=None,
            provisional=self.sha256,
        )

    def require_usable(self, *, partial: bool = False, skip_bad: bool = False) -> None:
        """Refuses an incomplete data set unless `partial`, unreadable clips unless `skip_bad`.

        Raises UserError or BadAudio that names the first file.
        """
        task = self.task
        if self.partial and not partial:
            gone = self.missing.file
            first = ""
            if len(gone):
                first = f"; first missing: {gone.iloc[0]}; {explain(self.root, gone)}"
            raise UserError(
                f"{task.name}: not complete, {self.partial} in {self.root}{first}. Complete it "
                "(then `python prepare.py` again, for a registered task), or accept a score that "
                "says so with --partial."
            )
        if len(self.bad) and not skip_bad:
            file, problem = self.bad[["file", "problem"]].iloc[0]
            raise BadAudio(self.root / file, problem)

    def without(self, bad: dict[int, str]) -> "Manifest":
        """Returns the manifest with clips (row: reason) marked bad that could not be decoded."""
        if not bad:
            return self
        table = self.table.copy()
        for row, reason in bad.items():
            table.loc[row, "problem"] = reason
        check_usable(self.task, self.root, table)
        return replace(self, table=table)


def to_csv(table: pd.DataFrame) -> bytes:
    """Returns the table as the CSV that is kept on disk and hashed."""
    text = io.StringIO()
    table.to_csv(text, index=False, lineterminator="\n")
    return text.getvalue().encode()


def table_hash(table: pd.DataFrame) -> str:
    """Returns the SHA-256 of a table's CSV: the same on any machine."""
    return hashlib.sha256(to_csv(table)).hexdigest()
