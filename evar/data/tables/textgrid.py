"""Reads Praat's TextGrids, long and short: the same sequence of numbers, texts and flags.

Praat's manual ("TextGrid file formats"): a reader looks at free-standing numbers, at texts in
double quotes (in which "" is a quote) and at flags in angle brackets, and at nothing else.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from evar.data.tables.dialect import read_text
from evar.errors import UserError

_TOKEN = re.compile(
    r"""
    "((?:[^"]|"")*)"                                    # a text
    | (?<!\S)([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?!\S)  # a free-standing number
    | <(exists|absent)>
    | !.*                                               # a comment
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Tier:
    """One tier: its name and its intervals (start, end, text) in seconds; of points it has none."""

    name: str
    intervals: list[tuple[float, float, str]]
    points: int = 0


def read_textgrid(path) -> tuple[list[Tier], tuple[str, ...]]:
    """Returns the tiers of a TextGrid, and what to say of its encoding.

    Raises UserError for a file that is damaged or no TextGrid.
    """
    text, notes = read_text(path)
    tokens = _tokens(text)
    try:
        if (next(tokens), next(tokens)) != ("ooTextFile", "TextGrid"):
            raise ValueError("it does not begin with ooTextFile, TextGrid")
        _number(tokens), _number(tokens)  # the times of the whole
        if next(tokens) is not True:
            return [], notes
        return [_tier(tokens) for _ in range(_count(tokens))], notes
    except (StopIteration, RuntimeError, ValueError) as error:
        reason = str(error) or "it ends too early"
        raise UserError(f"{path}: not a TextGrid of Praat in text form: {reason}") from error


def _tokens(text: str) -> Iterator[str | float | bool]:
    for found in _TOKEN.finditer(text):
        quoted, number, flag = found.groups()
        if quoted is not None:
            yield quoted.replace('""', '"')
        elif number is not None:
            yield float(number)
        elif flag is not None:
            yield flag == "exists"


def _number(tokens: Iterator) -> float:
    value = next(tokens)
    if not isinstance(value, float):
        raise ValueError(f"{value!r} stands where a number belongs")
    return value


def _text(tokens: Iterator) -> str:
    value = next(tokens)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} stands where a text belongs")
    return value


def _count(tokens: Iterator) -> int:
    value = _number(tokens)
    if not value.is_integer() or value < 0:
        raise ValueError(f"{value:g} is no number of tiers or intervals")
    return int(value)


def _tier(tokens: Iterator) -> Tier:
    kind, name = _text(tokens), _text(tokens).strip()
    _number(tokens), _number(tokens)
    count = _count(tokens)
    if kind == "TextTier":
        for _ in range(count):
            _number(tokens), _text(tokens)
        return Tier(name, [], count)
    if kind != "IntervalTier":
        raise ValueError(f"a tier is an IntervalTier or a TextTier, not {kind!r}")
    intervals = []
    for _ in range(count):
        start, end = _number(tokens), _number(tokens)
        intervals.append((start, end, " ".join(_text(tokens).split())))
    return Tier(name, intervals)


def intervals_of(path, tier: str | None = None) -> tuple[list, tuple[str, ...]]:
    """Returns the intervals of a tier: the one of this name, or the only one that has texts.

    Raises UserError for a tier that is not there, has points only, or is not the only one.
    """
    tiers, notes = read_textgrid(path)
    names = ", ".join(repr(each.name) for each in tiers) or "none"
    if tier is not None:
        named = [each for each in tiers if each.name == tier]
        if len(named) != 1:
            raise UserError(
                f"{path}: {len(named)} tiers are called {tier!r} (--tier); it has {names}"
            )
        if named[0].points:
            raise UserError(f"{path}: the tier {tier!r} has points: they have no length to hear")
        return named[0].intervals, notes
    filled = [each for each in tiers if any(text for _, _, text in each.intervals)]
    if len(filled) > 1:
        which = " or ".join(repr(each.name) for each in filled)
        raise UserError(f"{path}: which tier has the labels: {which}? Say --tier={filled[0].name}")
    return (filled[0].intervals if filled else []), notes
