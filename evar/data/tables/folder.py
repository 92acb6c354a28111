"""Lists the recordings of a folder, with labels and groups from subfolders or from names."""

import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pandas as pd

from evar.data import packed
from evar.errors import UserError

FIELDS = ("label", "group", "split", "fold")
_SPLITS = {"train", "training", "valid", "validation", "val", "dev", "test", "testing", "eval"}
_PLACE = re.compile(r"\{(\w+)\}|(\*\*|\*)|([^{*]+|\{)")
_LAST = re.compile(r"[\s_.-]+([^\s_.-]*\d[^\s_.-]*)$")


@dataclass(frozen=True)
class Listing:
    """The sounds below a folder, sorted, relative to it; what else is there is counted.

    hidden: files and folders whose names begin with a dot (macOS writes such next to others).
    others: all other files. shards: where there are no sound files, those that hold sounds.
    """

    files: list[str]
    hidden: int
    others: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)


def list_sounds(folder, endings: Collection[str]) -> Listing:
    """Returns the sounds below a folder, or the shards that hold them; UserError without any."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    names: list[str] = []
    others: list[str] = []
    hidden = 0
    for place, folders, files in os.walk(folder, followlinks=False):
        hidden += sum(name.startswith(".") for name in [*folders, *files])
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n != "__MACOSX")
        for name in files:
            if name.startswith("."):
                continue
            path = Path(place, name)
            sound = path.suffix.lower() in endings and path.is_file()
            (names if sound else others).append(path.relative_to(folder).as_posix())
    if not names and (shards := [name for name in others if name.lower().endswith(packed.ENDINGS)]):
        return Listing([], hidden, sorted({*others} - {*shards}), sorted(shards))
    if not names:
        there = f"; it has {by_ending(others)}" if others else ""
        raise UserError(f"{folder}: no sound files there ({', '.join(endings)}){there}")
    return Listing(sorted(names), hidden, sorted(others))


def by_ending(names: Sequence[str]) -> str:
    """Returns how many files have which ending, as text: ".jpg 3, .txt 1"."""
    endings = (PurePosixPath(name).suffix.lower() or "without an ending" for name in names)
    counts = sorted(Counter(endings).items())
    return ", ".join(f"{ending} {count:,}" for ending, count in counts)


def by_subfolder(files: Sequence[str], folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """Returns file and label, the first subfolder of each, and the files that lie in none.

    Raises UserError for a folder without subfolders, and for subfolders that are a split.
    """
    parts = [PurePosixPath(name).parts for name in files]
    rows = [(name, p[0]) for name, p in zip(files, parts, strict=True) if len(p) > 1]
    loose = [name for name, p in zip(files, parts, strict=True) if len(p) == 1]
    classes = {label for _, label in rows}
    if not rows:
        raise UserError(
            f"{folder}: which label has {loose[0]}? There are no subfolders: say how names are "
            "made (--pattern='{label}_*') or where labels are (--labels=FILE)"
        )
    if {name.casefold() for name in classes} <= _SPLITS:
        raise UserError(
            f"{folder}: its subfolders ({', '.join(sorted(classes))}) are a split, not classes: "
            "say --pattern='{split}/{label}/*'"
        )
    return pd.DataFrame(rows, columns=["file", "label"]), loose


def by_pattern(files: Sequence[str], pattern: str) -> tuple[pd.DataFrame, list[str]]:
    """Returns file and the fields that a pattern finds in names, and the files it does not fit.

    pattern: text with the fields {label}, {group}, {split}, {fold}, and * for anything; with "/"
    it is of the path below the folder, else of the file's name. Raises UserError for a pattern
    without fields, and for a name that it fits in more than one way.
    """
    short, long = _compiled(pattern, "+?"), _compiled(pattern, "+")
    rows, others = [], []
    for name in files:
        text = name if "/" in pattern else PurePosixPath(name).name
        found = short.fullmatch(text)
        if found is None:
            others.append(name)
            continue
        other = long.fullmatch(text)
        if other is not None and other.groupdict() != found.groupdict():
            raise UserError(
                f"--pattern={pattern!r} fits {text} in two ways: {_said(found)}, or {_said(other)}."
                " Make it say where a part ends."
            )
        rows.append({"file": name, **found.groupdict()})
    if not rows:
        raise UserError(f"--pattern={pattern!r} fits no file; the first is {files[0]}")
    return pd.DataFrame(rows), others


def _said(found: re.Match) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in found.groupdict().items())


def _compiled(pattern: str, repeat: str) -> re.Pattern:
    parts, seen = [], set()
    for name, stars, text in _PLACE.findall(pattern):
        if name in seen or (name and name not in FIELDS):
            raise UserError(
                f"--pattern={pattern!r}: fields are {', '.join(map('{{{}}}'.format, FIELDS))}, "
                "each once, and * for anything else"
            )
        if name:
            seen.add(name)
            parts.append(f"(?P<{name}>[^/]{repeat})")
        else:
            any_ = ".*?" if stars == "**" else "[^/]*?"
            parts.append(any_ if stars else re.escape(text))
    if not seen:
        raise UserError(f"--pattern={pattern!r}: it has no field, such as {{label}}")
    return re.compile("".join(parts), re.IGNORECASE)


def guessed_groups(files: Sequence[str]) -> list[str]:
    """Returns a group for each file: its name without the last part, where that has a digit.

    "anna_012.wav" is of the group "anna"; a name of one part is a group of its own.
    """
    stems = [PurePosixPath(name).stem for name in files]
    return [_LAST.sub("", stem) or stem for stem in stems]
