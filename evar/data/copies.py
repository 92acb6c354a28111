"""Finds equal sounds on both sides of a split, in any container, and segments that overlap."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from evar.data import audio, segments
from evar.errors import UserError
from evar.task import Task


def check_copies(task: Task, root: Path, good: pd.DataFrame) -> None:
    """Refuses a user's set in which the same sound is in training and in test.

    Neither may segments of one recording overlap there.

    Sounds are the same where their decoded mono samples are: a WAV and its copy in FLAC, another
    bit depth that loses nothing, other tags. Lossy copies (MP3 of a WAV) are not noticed.
    Published sets keep their published clips, copies included: papers score them.
    """
    if task.counts:
        return
    sides = good[task.column]
    if segments.are_in(good):
        _refuse_overlaps(task, good)
    else:
        _refuse_across(task, good, sides, good.fingerprint)
    # Only clips of equal rate and length can be copies; then of equal beginnings.
    for function in (audio.head_digest, audio.digest):
        good = _shared(good, sides, [good.sample_rate, good.frames, *_known(good)])
        if good.empty:
            return
        good = good.assign(**{function.__name__: _digests(root, good, function)})
    _refuse_across(task, good, sides.loc[good.index], good[audio.digest.__name__])


def _known(good: pd.DataFrame) -> list[pd.Series]:
    return [good[audio.head_digest.__name__]] if audio.head_digest.__name__ in good else []


def _shared(good: pd.DataFrame, sides: pd.Series, keys: list[pd.Series]) -> pd.DataFrame:
    """Returns the clips whose keys are found on more than one side."""
    return good[sides.loc[good.index].groupby(keys).transform("nunique") > 1]


def _digests(root: Path, good: pd.DataFrame, function) -> list[str]:
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        found = pool.map(
            lambda clip: _digest(root / clip[0], clip[1], function),
            zip(good.file.tolist(), segments.spans(good), strict=True),
        )
        return list(found)


def _digest(path: Path, span: tuple[int, int] | None, function) -> str:
    """Returns the digest of a clip's samples; one of its own where there are none or only zeros."""
    try:
        return function(path, span) or f"{path} {span}"
    except UserError:
        return f"{path} {span}"  # embedding it names the problem


def _refuse_overlaps(task: Task, good: pd.DataFrame) -> None:
    """Refuses clips of one recording, under any name, that share time and not a side."""
    names, sides = segments.names(good), good[task.column]
    whole = [(0, frames) for frames in good.frames]
    spans = pd.Series(segments.spans(good), index=good.index, dtype=object)
    spans = spans.where(spans.notna(), pd.Series(whole, index=good.index, dtype=object))
    for _, rows in good.index.to_series().groupby(good.fingerprint):
        last: dict[str, int] = {}  # of each side, the clip that has lasted longest so far
        for row in sorted(rows, key=lambda row: spans[row]):
            side, (begin, end) = sides[row], spans[row]
            for other in last.values():
                if sides[other] != side and spans[other][1] > begin:
                    raise UserError(
                        f"{task.name}: {names[other]} and {names[row]} overlap, and are on both "
                        "sides of a split. Move or remove one of them."
                    )
            if side not in last or spans[last[side]][1] < end:
                last[side] = row


def _refuse_across(task: Task, good: pd.DataFrame, sides: pd.Series, digests: pd.Series) -> None:
    crossing = sides.loc[good.index].groupby(digests).transform("nunique") > 1
    for _, rows in good.index.to_series()[crossing].groupby(digests[crossing]):
        first = rows.iloc[0]
        for row in rows:
            if sides[row] != sides[first]:
                names = segments.names(good)
                raise UserError(
                    f"{task.name}: {names[first]} and {names[row]} are the same sound on "
                    "both sides of a split. Remove one of them."
                )
