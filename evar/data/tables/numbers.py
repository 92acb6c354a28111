"""Reads seconds as spreadsheets write them: with a decimal point or a decimal comma."""

import math
import re
from collections.abc import Sequence

from evar.errors import UserError

_POINT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?")
_THOUSAND = re.compile(r"[1-9]\d{0,2},\d{3}")  # 1,234: a comma of thousands, or of decimals?


def seconds(
    texts: Sequence[str], where: Sequence[str], name: str, separator: str = ""
) -> list[float]:
    """Returns the numbers that a column of texts says; NaN for those that are empty.

    A comma is a decimal comma where the cells are separated by semicolons, as German Excel does,
    or where another cell of the column shows it ("0,5"). where: of each text, what an error says.
    Raises UserError for what is no number, for "1,234" that might be a thousand, and for a column
    that has both commas and points.
    """
    commas = [text for text in texts if "," in text]
    shown = separator == ";" or any(not _THOUSAND.fullmatch(text) for text in commas)
    points = any("." in text for text in texts)
    found = []
    for text, place in zip(texts, where, strict=True):
        if not text:
            found.append(math.nan)
        elif _POINT.fullmatch(text):
            found.append(float(text))
        elif _COMMA.fullmatch(text) and not points and shown:
            found.append(float(text.replace(",", ".")))
        elif _COMMA.fullmatch(text):
            why = "the column has points as well" if points else "a thousand, or decimals?"
            raise UserError(f"{place}: {name} {text}: {why} Write seconds with a decimal point.")
        else:
            raise UserError(f"{place}: {name} {text!r} is no number of seconds")
    return found
