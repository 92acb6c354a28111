"""Checks values of command line options."""

import math
import os
from pathlib import Path

from evar.errors import UserError


def whole(name: str, value: object) -> int:
    """Returns a whole number of 1 or more; UserError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"--{name} must be a whole number of 1 or more, not {value!r}")
    return value


def part(text: str | None) -> tuple[int, int]:
    """Returns (I, N) of the text of --part=I/N, (0, 1) of None; UserError for anything else."""
    if text is None:
        return 0, 1
    number, slash, total = text.partition("/")
    if not slash or not number.isdecimal() or not total.isdecimal() or int(number) >= int(total):
        raise UserError(f"--part={text}: write I/N with I from 0 to N - 1, as in --part=0/4")
    return int(number), int(total)


def path(name: str, value: object) -> Path:
    """Returns the path that a value is; UserError for what is none."""
    if not isinstance(value, (str, os.PathLike)) or "\0" in str(value):
        raise UserError(f"--{name} must be a path, not {value!r}")
    return Path(value)


def existing_folder(name: str, value: object) -> Path | None:
    """Returns the path of a folder that must be there, None of None; UserError for any other."""
    if value is None:
        return None
    found = path(name, value)
    if not found.is_dir():
        raise UserError(
            f"{found}: no such folder (--{name}). Check its name; `evar prepare` and `mkdir` make "
            "new ones"
        )
    return found


def number(name: str, value, *, above: float, optional: bool = False) -> float | None:
    """Returns a finite number of `above` or more, or None where that is `optional`.

    Raises UserError for anything else.
    """
    if value is None and optional:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not value >= above or math.isinf(value):
        raise UserError(f"--{name} must be a number of {above:g} or more, not {value!r}")
    return float(value)
