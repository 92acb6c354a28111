"""Finds equal sounds on both sides of a split, in any container."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from evar.data import audio
from evar.errors import UserError
from evar.task import Task


def check_copies(task: Task, root: Path, good: pd.DataFrame) -> None:
    """Refuses a user's set in which the same sound is in training and in test.

    Sounds are the same where their decoded mono samples are: a WAV and its copy in FLAC, another
    bit depth that loses nothing, other tags. Lossy copies (MP3 of a WAV) are not noticed.
    Published sets keep their published clips, copies included: papers score them.
    """
    if task.counts:
        return
    sides = good[task.column]
    _refuse_across(task, good, sides, good.fingerprint)
    # Only clips of equal rate and length can be copies; then of equal beginnings.
    for function in (audio.head_digest, audio.digest):
        good = _shared(good, sides, [good.sample_rate, good.frames, *_known(good)])
        if good.empty:
            return
        good = good.assign(**{function.__name__: _digests(root, good.file, function)})
    _refuse_across(task, good, sides.loc[good.index], good[audio.digest.__name__])


def _known(good: pd.DataFrame) -> list[pd.Series]:
    return [good[audio.head_digest.__name__]] if audio.head_digest.__name__ in good else []


def _shared(good: pd.DataFrame, sides: pd.Series, keys: list[pd.Series]) -> pd.DataFrame:
    """The clips whose keys are found on more than one side."""
    return good[sides.loc[good.index].groupby(keys).transform("nunique") > 1]


def _digests(root: Path, names: pd.Series, function) -> list[str]:
    with ThreadPoolExecutor(min(16, 4 * (os.cpu_count() or 1))) as pool:
        return list(pool.map(lambda name: _digest(root / name, function), names))


def _digest(path: Path, function) -> str:
    """The digest of a file's samples; one of its own where they cannot be decoded or are silent."""
    try:
        return function(path) or str(path)
    except UserError:
        return str(path)  # embedding it names the problem


def _refuse_across(task: Task, good: pd.DataFrame, sides: pd.Series, digests: pd.Series) -> None:
    crossing = sides.loc[good.index].groupby(digests).transform("nunique") > 1
    for _, rows in good.index.to_series()[crossing].groupby(digests[crossing]):
        first = rows.iloc[0]
        for row in rows:
            if sides[row] != sides[first]:
                raise UserError(
                    f"{task.name}: {good.file[first]} and {good.file[row]} are the same sound on "
                    "both sides of a split. Remove one of them."
                )
