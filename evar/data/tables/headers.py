"""Understands the names of columns: any letter case, common words, never a guess between two."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evar.errors import UserError, unknown

COLUMNS = ("file", "label", "split", "fold", "group", "caption", "start", "end")
_WORDS = {
    "file": """file, files, filename, file name, filepath, file path, path, fname, audio, audio
               file, audio filename, audio path, audio filepath, wav, wav file, wav filename,
               sound, sound file, soundfile, begin file, begin path""",
    "label": """label, labels, class, classes, class name, classname, class label, category,
                species, annotation, event label, tag, tags""",
    "split": "split, subset, set, partition, data split",
    "fold": "fold, folds, cv fold",
    "group": "group, groups, group id",
    "caption": "caption, captions",
    "start": "start, begin, start time, begin time, onset, tmin, start seconds, begin seconds",
    "end": "end, stop, end time, stop time, offset, tmax, end seconds, stop seconds",
}
_MEANT = {word.strip(): name for name, words in _WORDS.items() for word in words.split(",")}
_MEANT = {" ".join(word.split()): name for word, name in _MEANT.items()}
_GROUPS = {  # what a group often is; such a column is left aside, but not without a word
    *("speaker", "speaker id", "recording", "recording id", "recordist", "session", "subject"),
    *("individual", "animal", "site", "station", "location", "device", "machine", "source"),
    *("participant", "singer", "performer", "artist", "take", "src file", "client id"),
}
_UNIT = re.compile(r"[(\[]\s*([^)\]]*?)\s*[)\]]$")
_SECONDS = ("s", "sec", "secs", "second", "seconds")


@dataclass(frozen=True)
class Head:
    """Which columns of a table are meant by which names, and what to say of it.

    at: positions by name in COLUMNS. aside: titles of the others.
    """

    at: Mapping[str, int]
    aside: tuple[str, ...]
    notes: tuple[str, ...]


def meaning(title: str) -> str:
    """Returns the column that a title names, one of COLUMNS, or ""."""
    text, unit = _normal(title)
    name = _MEANT.get(text, "")
    return name if not unit or name in ("start", "end") else ""


def _normal(title: str) -> tuple[str, str]:
    """A title in small letters with single blanks, and the unit in brackets at its end."""
    text = unicodedata.normalize("NFKC", title).casefold().strip()
    unit = _UNIT.search(text)
    if unit:
        text = text[: unit.start()]
    text = re.sub(r"[\s_\-.]+", " ", text).strip()
    return text, unit.group(1) if unit else ""


def understand(titles: Sequence[str], where, *, chosen: Mapping[str, str] | None = None) -> Head:
    """Returns which columns of a table are which.

    chosen: title by name, as a person says with --column. A column of exactly one of our own
    names goes before its synonyms. Raises UserError where two columns could be meant, a title is
    misspelt, given twice, or in another unit than seconds.
    """
    titles = [title.strip() for title in titles]
    at = {name: _position(titles, title, where) for name, title in (chosen or {}).items()}
    for name in COLUMNS:
        if name not in at:
            found = [i for i, title in enumerate(titles) if meaning(title) == name]
            found = _own(titles, found, name)
            if name == "end":
                found = _without_offset(titles, found, at)
            if len(found) > 1:
                raise _which(titles, found, name, where)
            if found and found[0] not in at.values():
                at[name] = found[0]
    rest = [i for i in range(len(titles)) if i not in at.values()]
    for i in rest:
        _refuse_misspelt(titles[i], at, where)
    _require_seconds(titles, at, where)
    return Head(at, tuple(titles[i] for i in rest), _notes(titles, at, rest))


def _position(titles: list[str], title: str, where) -> int:
    alike = [i for i, each in enumerate(titles) if each == title]
    alike = alike or [i for i, each in enumerate(titles) if _normal(each) == _normal(title)]
    if len(alike) != 1:
        raise unknown(f"column of {where}:", title, [t for t in titles if t])
    return alike[0]


def _own(titles: list[str], found: list[int], name: str) -> list[int]:
    """Of several columns those that have our own name for it."""
    exact = [i for i in found if _normal(titles[i])[0] == name]
    return exact or found


def _without_offset(titles: list[str], found: list[int], at: Mapping[str, int]) -> list[int]:
    """ "offset" is an end next to "onset", and a beginning in other tables: then it is neither."""
    onset = "start" in at and _normal(titles[at["start"]])[0] == "onset"
    return [i for i in found if onset or _normal(titles[i])[0] != "offset"]


def _which(titles: list[str], found: list[int], name: str, where) -> UserError:
    names = [titles[i] for i in found]
    if len(set(names)) < len(names):
        return UserError(f"{where}: needs each column once; it has {', '.join(titles)}")
    return UserError(
        f"{where}: which column is the {name}: {' or '.join(names)}? Rename one of them to "
        f"{name!r}, or choose with `evar table FOLDER --labels=TABLE --column={name}={names[0]}`"
    )


def _refuse_misspelt(title: str, at: Mapping[str, int], where) -> None:
    text, _ = _normal(title)
    for name in COLUMNS:
        if name not in at and text not in _MEANT and _almost(text, name):
            raise UserError(
                f"unknown column in {where}: {title!r}; did you mean {name}? Rename or remove it."
            )


def _almost(text: str, name: str) -> bool:
    """Whether a text is a name with one slip: a letter more, less, other, or two exchanged."""
    if sorted(text) == sorted(name) or (len(text) > 1 and text == re.sub("[aeiou]", "", name)):
        return True
    if abs(len(text) - len(name)) > 1:
        return False
    ahead = next((i for i, (a, b) in enumerate(zip(text, name, strict=False)) if a != b), None)
    if ahead is None:
        return True
    one, other = text[ahead:], name[ahead:]
    return one[1:] == other[1:] or one[1:] == other or one == other[1:]


def _require_seconds(titles: list[str], at: Mapping[str, int], where) -> None:
    for name in ("start", "end"):
        unit = _normal(titles[at[name]])[1] if name in at else ""
        if unit and unit not in _SECONDS:
            raise UserError(
                f"{where}: {titles[at[name]]}: times are in seconds here. Convert them."
            )


def _notes(titles: list[str], at: Mapping[str, int], rest: list[int]) -> tuple[str, ...]:
    renamed = [f"{titles[i]!r} is the {name}" for name, i in at.items() if titles[i] != name]
    notes = [", ".join(renamed)] if renamed else []
    aside = [titles[i] or f"column {i + 1} (without a name)" for i in rest]
    if aside:
        notes.append(f"left aside: {', '.join(aside)}")
    groups = [titles[i] for i in rest if _normal(titles[i])[0] in _GROUPS]
    if groups and "group" not in at:
        notes.append(
            f"{groups[0]!r} may be what must not be on both sides of a split: name it 'group' then"
        )
    return tuple(notes)
