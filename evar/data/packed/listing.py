"""Lists the sounds of a folder of shards, with labels and splits, as a table of clips."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from evar import files
from evar.data.containers.stream import Damaged
from evar.data.own_sounds import SOUNDS
from evar.data.packed import ENDINGS, parquet, tar
from evar.errors import UserError, unknown

LABELS = ("label", "labels", "class", "category")  # names that columns of labels usually have
_SPLITS = {"train": "train", "test": "test"} | dict.fromkeys(
    ("validation", "valid", "val"), "valid"
)
_SPLITS |= {"dev": "valid", "eval": "test", "training": "train", "testing": "test"}
_CHOICES = ("label", "group", "file")  # what --column can name in a shard
_NAMES = {"label": "label", "group": "group", "sound": "file"}


def find(folder) -> list[Path]:
    """Returns the Parquet files and tar shards in a folder and below, sorted by name."""
    return sorted(
        path
        for path in Path(folder).rglob("*")
        if path.suffix.lower() in ENDINGS and path.is_file() and not path.name.startswith(".")
    )


def table(folder, *, columns: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Returns the sounds in a folder of shards: columns file, label, split and perhaps group.

    columns: which column of a Parquet file, or of a tar which ending (cls, txt) or key in a
    sample's JSON, holds the `label`, the `group`, and the `file` (the sound), where several do. The
    default label is the only one of the usual names, or the only column that the datasets library
    calls a ClassLabel. A split is what a shard's name begins with or its folder is called; without
    any, the column is left out. Several labels of a clip are joined by commas; a comma within the
    name of a class becomes "/".

    Raises UserError for what is ambiguous or absent, and names the choices.
    """
    folder, columns = Path(folder), columns or {}
    if strange := sorted({*columns} - {*_CHOICES}):
        raise unknown("name in --column=NAME=TITLE of shards:", strange[0], _CHOICES)
    label, group, sound = (columns.get(name, "") for name in _CHOICES)
    shards = find(folder)
    if not shards:
        raise UserError(f"{folder}: no Parquet files or tar shards there")
    rows: list[dict[str, str]] = []
    splits = {shard: _split_of(shard.relative_to(folder)) for shard in shards}
    if any(splits.values()) and not all(splits.values()):
        odd = next(shard for shard, split in splits.items() if not split)
        raise UserError(
            f"{odd}: its name begins with no split ({', '.join(sorted(set(_SPLITS)))}), and names "
            "of others do. Rename it or move it away."
        )
    for shard in shards:
        with files.reading(shard):
            found = _of_shard(shard, label=label, group=group, sound=sound)
            where = shard.relative_to(folder).as_posix()
            for member, values in found:
                split = {"split": splits[shard]} if splits[shard] else {}
                rows.append({"file": f"{where}/{member}", **values, **split})
    if not rows:
        raise UserError(f"{folder}: its shards hold no sounds ({', '.join(SOUNDS)})")
    return pd.DataFrame(rows)


def sounds(shard) -> list[str]:
    """Returns the places of all sounds in a shard, without labels.

    Raises UserError for a shard that is damaged or cannot be read.
    """
    shard = Path(shard)
    with files.reading(shard):
        try:
            if shard.suffix.lower() == ".tar":
                return [n for n in tar.members(shard) if n.lower().endswith(SOUNDS)]
            file = parquet.open_file(shard)
        except Damaged as error:
            raise UserError(f"{shard}: {error}. Get the file again.") from error
    rows = [parquet.name_of(row, file.rows) for row in range(file.rows)]
    return [f"{column}/{row}" for column in file.columns for row in rows]


def _split_of(shard: Path) -> str:
    """The split that a shard's name ("train-00000-of-00004") or a folder above it says."""
    words = [shard.stem.replace("_", "-").replace(".", "-").split("-")[0], *shard.parts[-2::-1]]
    return next((_SPLITS[word.lower()] for word in words if word.lower() in _SPLITS), "")


def _of_shard(shard: Path, **wanted: str) -> list[tuple[str, dict[str, str]]]:
    of = _of_tar if shard.suffix.lower() == ".tar" else _of_parquet
    try:
        return list(of(shard, **wanted))
    except Damaged as error:
        raise UserError(f"{shard}: {error}. Get the file again.") from error


def _of_parquet(
    shard: Path, *, label: str, group: str, sound: str
) -> Iterator[tuple[str, dict[str, str]]]:
    file = parquet.open_file(shard)
    column = _one(shard, "sound", sound, file.columns, file.columns)
    others = [name for name in file.names if name not in file.columns]
    classes = [n for n in others if _kind(file.features.get(n)) == "ClassLabel"]
    usual = [name for name in others if name.lower() in LABELS]
    chosen = _one(shard, "label", label, classes or usual, others)
    values = {"label": [_text(v, file.features.get(chosen)) for v in file.values(chosen)]}
    if group:
        _one(shard, "group", group, (), others)
        values["group"] = [_text(v, file.features.get(group)) for v in file.values(group)]
    for row in range(file.rows):
        yield (
            f"{column}/{parquet.name_of(row, file.rows)}",
            {key: cells[row] for key, cells in values.items()},
        )


def _of_tar(
    shard: Path, *, label: str, group: str, sound: str
) -> Iterator[tuple[str, dict[str, str]]]:
    samples: dict[str, dict[str, str]] = {}  # WebDataset: all files of one stem are one sample
    for name in tar.members(shard):
        folder, _, last = name.rpartition("/")
        key, _, ending = last.partition(".")
        samples.setdefault(f"{folder}/{key}", {})[ending.lower()] = name
    for fields in samples.values():
        sounds = [ending for ending in fields if f".{ending}" in SOUNDS]
        if not sounds:
            continue
        member = fields[_one(shard, "sound", sound, sounds, sounds)]
        yield member, _fields_of(shard, member, fields, label, group)


def _fields_of(
    shard: Path, member: str, fields: dict[str, str], label: str, group: str
) -> dict[str, str]:
    """Label and group of one sample, from its text files or its JSON."""
    known: dict[str, Any] = {}
    if "json" in fields:
        try:
            known = json.loads(tar.read(shard, fields["json"]))
        except ValueError as error:
            raise Damaged(f"{fields['json']} is no JSON ({error})") from error
        if not isinstance(known, dict):
            raise Damaged(f"{fields['json']} is no JSON object")
    texts = [ending for ending in fields if ending in ("cls", "txt")]

    def value(what: str, given: str, usual: list[str]) -> str:
        choice = _one(shard, what, given, usual, [*texts, *known])
        if choice in texts:
            return tar.read(shard, fields[choice]).decode("utf-8", "replace").strip()
        return _text(known[choice], None)

    usual = ["cls"] if "cls" in texts else [key for key in known if key.lower() in LABELS]
    found = {"label": value("label", label, usual)}
    return found | ({"group": value("group", group, [])} if group else {})


def _one(shard: Path, what: str, given: str, usual, known) -> str:
    """The field that holds `what`: the given one, else the only usual one."""
    if given:
        if given not in known:
            raise unknown(f"{what} in {shard}:", given, list(known))
        return given
    if len(usual) == 1:
        return usual[0]
    there = ", ".join(usual or known) or "no other field"
    many = "several fields could be it" if usual else "no field is surely it"
    option = "" if what == "label" else f"{_NAMES[what]}="
    raise UserError(f"{shard}: {many}, the {what}: name one (--column={option}NAME) of: {there}")


def _kind(feature: dict | None) -> str:
    return str((feature or {}).get("_type", ""))


def _text(value: Any, feature: dict | None) -> str:
    """A label as the table holds it: a class by its name, several joined by commas."""
    if isinstance(value, (list, tuple)):
        inner = feature.get("feature") if feature else None
        parts = [_text(each, inner if isinstance(inner, dict) else None) for each in value]
        return ",".join(parts) or "-"  # a clip in which none of the classes is heard
    names = (feature or {}).get("names")
    if isinstance(names, list) and isinstance(value, int) and 0 <= value < len(names):
        value = names[value]
    return "" if value is None else re.sub(r"\s*,\s*", "/", str(value).strip())
