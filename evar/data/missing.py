"""Explains why listed files are not found: what was looked for, what lies there, what differs."""

import os
import unicodedata
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path

from evar.files import printable

_LISTED = 5000  # entries of a folder that are compared
_SHOWN = 3  # names in one message

# How a name may be spelled otherwise, and what the difference is called.
_SPELLINGS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("a blank at its beginning or end", str.strip),
    ("its Unicode form (NFC or NFD) differs", lambda name: unicodedata.normalize("NFC", name)),
    ("the letter case differs", lambda name: unicodedata.normalize("NFC", name.strip()).casefold()),
    ("the ending differs", lambda name: Path(name).stem.casefold()),
)


def explain(root: Path, names: Iterable[str]) -> str:
    """Returns a sentence on files (relative to `root`) that are not there.

    It names what was looked for, what the nearest folder holds instead, and the likely cause.
    """
    names = list(dict.fromkeys(names))  # segments share a file
    root, name = Path(root), names[0]
    looked = f"looked for {', '.join(map(printable, names[:_SHOWN]))}{_more(len(names))} in {root}"
    forward = name.replace("\\", "/")
    if forward != name and (root / forward).exists():
        return f"{looked}: the names are written with backslashes; write {forward}"
    folder, wanted = _nearest(root, name)
    place = folder.relative_to(root).as_posix()
    place = "that folder" if place == "." else printable(place)
    entries = _entries(folder)
    if not entries:
        return f"{looked}: {place} is empty"
    below = "" if folder == root else folder.relative_to(root).as_posix() + "/"
    for cause, spelled in _SPELLINGS:
        for entry in entries:
            if spelled(entry) == spelled(wanted):
                return f"{looked}: {printable(below + entry)} is there ({cause})"
    if found := _elsewhere(root, name):
        return f"{looked}: {printable(found)} is there (another folder)"
    held = f"{place} holds {', '.join(map(printable, entries[:_SHOWN]))}{_more(len(entries))}"
    if close := get_close_matches(wanted, entries, n=1, cutoff=0.6):
        return f"{looked}: {held}; did you mean {printable(below + close[0])}?"
    return f"{looked}: {held}"


def _more(count: int) -> str:
    return f", ... ({count:,} in all)" if count > _SHOWN else ""


def _nearest(root: Path, name: str) -> tuple[Path, str]:
    """Returns the deepest folder on the way to a file that exists, and the next part of the way."""
    folder = root
    parts = [part for part in name.split("/") if part not in ("", ".")]
    for part in parts[:-1]:
        if not (folder / part).is_dir():
            return folder, part
        folder /= part
    return folder, parts[-1] if parts else name


def _entries(folder: Path) -> list[str]:
    """Names in a folder, sorted, without hidden ones; at most a few thousand."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    found.append(entry.name)
                if len(found) == _LISTED:
                    break
    except OSError:
        return []
    return sorted(found)


def _elsewhere(root: Path, name: str) -> str:
    """Returns where a file of that name is instead, one or two levels below, or ""."""
    last = name.rpartition("/")[2]
    if (root / last).is_file():
        return last
    folders = [entry for entry in _entries(root) if (root / entry).is_dir()]
    for folder in folders[:100]:
        for file in (f"{folder}/{last}", f"{folder}/{name}"):
            if (root / file).is_file():
                return file
    return ""
