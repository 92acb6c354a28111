"""Checks of values read from JSON: each returns the value or raises ValueError naming the field."""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

_HEX = re.compile(r"[0-9a-f]{6,128}")


def parse(content: bytes) -> object:
    """Returns the value of a JSON file. Raises ValueError for NaN, infinity and broken text."""
    try:
        return _plain(json.loads(content.decode(), parse_constant=_refuse), "")
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse(name: str):
    raise ValueError(f"{name} is not a JSON number")


def _plain(value, where: str):
    """Refuses numbers out of range (1e999) and text that no file can hold (lone surrogates)."""
    if isinstance(value, dict):
        for key, inside in value.items():
            _plain(key, where)
            _plain(inside, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, inside in enumerate(value):
            _plain(inside, f"{where}[{number}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: a number out of range")
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{where}: not valid Unicode text") from error
    return value


@dataclass(frozen=True)
class Fields:
    """The fields of one JSON object; `where` is its own place in the file ("score")."""

    values: Mapping[str, object]
    where: str = ""

    @classmethod
    def of(cls, value: object, where: str = "") -> "Fields":
        if not isinstance(value, dict):
            raise ValueError(f"{where or 'the file'}: not an object with fields")
        return cls(value, where)

    def name(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def __call__(self, key: str, check: Callable, *default):
        """Returns a field's checked value, or `default` where it is missing and there is one."""
        if key not in self.values:
            if default:
                return default[0]
            raise ValueError(f"{self.name(key)}: missing")
        return check(self.values[key], self.name(key))

    def inside(self, key: str) -> "Fields":
        return self(key, Fields.of)

    def without(self, known) -> dict[str, object]:
        return {key: value for key, value in self.values.items() if key not in known}


def text(value, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where}: not text")
    return value


def name(value, where: str) -> str:
    if not text(value, where).strip():
        raise ValueError(f"{where}: empty")
    return value


def digest(value, where: str) -> str:
    if not _HEX.fullmatch(text(value, where)):
        raise ValueError(f"{where}: not a hash in hexadecimal digits")
    return value


def flag(value, where: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{where}: neither true nor false")
    return value


def number(value, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{where}: not a number")
    if (isinstance(value, int) and abs(value) > 2**63) or not math.isfinite(value):
        raise ValueError(f"{where}: a number out of range")
    return value


def at_least(low: float) -> Callable:
    def check(value, where: str) -> float:
        if number(value, where) < low:
            raise ValueError(f"{where}: {value} is below {low:g}")
        return value

    return check


def above_zero(value, where: str) -> float:
    if number(value, where) <= 0:
        raise ValueError(f"{where}: {value} is not positive")
    return value


def whole(low: int = 0) -> Callable:
    def check(value, where: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f"{where}: not a whole number of {low} or more")
        return int(number(value, where))

    return check


def optional(check: Callable) -> Callable:
    return lambda value, where: None if value is None else check(value, where)


def one_of(*allowed: str) -> Callable:
    def check(value, where: str) -> str:
        if value not in allowed:
            raise ValueError(f"{where}: not one of {', '.join(allowed)}")
        return value

    return check


def many(check: Callable) -> Callable:
    def check_all(value, where: str) -> tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where}: not a list")
        return tuple(check(v, f"{where}[{i}]") for i, v in enumerate(value))

    return check_all


def mapping(check: Callable) -> Callable:
    def check_all(value, where: str) -> dict:
        return {k: check(v, f"{where}.{k}") for k, v in Fields.of(value, where).values.items()}

    return check_all


def anything(value, where: str):
    return value


def moment(value, where: str) -> str:
    """A date and time as in ISO 8601."""
    try:
        instant(text(value, where))
    except ValueError as error:
        raise ValueError(f"{where}: not a date and time as in ISO 8601") from error
    return value


def instant(value: str) -> datetime:
    """Returns the moment of an ISO 8601 text; without a zone it is UTC."""
    found = datetime.fromisoformat(value)
    return found if found.tzinfo else found.replace(tzinfo=UTC)
