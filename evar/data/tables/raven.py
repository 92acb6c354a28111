"""Brings Raven's selection tables into the form of other tables.

Raven Pro's manual, "Selection tables": cells are separated by tabs; a selection has a row for each
view; with several files opened as one, Begin Time counts from the first of them, and File Offset
is the place in the selection's own file.
"""

from collections.abc import Mapping
from pathlib import Path

from evar.data.tables.dialect import Cells, trimmed
from evar.data.tables.headers import meaning
from evar.errors import UserError

_MEASURES = {
    *("selection", "view", "channel", "begin file", "end file", "begin path", "end path"),
    *("begin date", "begin clock time", "end clock time", "begin date time", "begin hour"),
}


def is_raven(titles: list[str]) -> bool:
    """Returns whether a head is that of a selection table."""
    small = {title.strip().casefold() for title in titles}
    return {"selection", "begin time (s)", "end time (s)"} <= small


def as_table(
    path: Path, cells: Cells, chosen: Mapping[str, str]
) -> tuple[Cells, dict[str, str], list[str]]:
    """Returns the cells with one row a selection and times in its own file; columns; notes.

    The columns are those of `chosen`, the file and the label added: the label is the only column
    that is no measurement of Raven's. Raises UserError where several are.
    """
    titles, *rows = trimmed(cells.rows)
    at = {title.casefold(): i for i, title in enumerate(titles)}
    rows = [row + [""] * (len(titles) - len(row)) for row in rows]
    kept, seen = [], set()
    for row, line in zip(rows, cells.lines[1:], strict=True):
        number = (row[at["selection"]], row[at["begin file"]] if "begin file" in at else "")
        if number not in seen or not number[0]:
            kept.append((_in_its_file(path, row, at), line))
        seen.add(number)
    notes = ["a selection table of Raven"]
    if "file offset (s)" in at:
        notes.append("times are those in each file (File Offset)")
    columns = dict(chosen)
    if "file" not in columns and {"begin path", "begin file"} & set(at):
        columns["file"] = titles[at.get("begin path", at.get("begin file", 0))]
    if "label" not in columns and not any(meaning(title) == "label" for title in titles):
        columns["label"] = _label(path, titles)
    lines = [cells.lines[0], *(line for _, line in kept)]
    return Cells([titles, *(row for row, _ in kept)], lines, cells.separator), columns, notes


def _in_its_file(path: Path, row: list[str], at: Mapping[str, int]) -> list[str]:
    if "file offset (s)" not in at:
        return row
    begin, end = at["begin time (s)"], at["end time (s)"]
    try:
        offset, start, stop = (
            float(row[i].replace(",", ".")) for i in (at["file offset (s)"], begin, end)
        )
    except ValueError as error:
        raise UserError(f"{path}: times of Raven are numbers of seconds ({error})") from error
    row = list(row)
    row[begin], row[end] = f"{offset:.6f}", f"{offset + stop - start:.6f}"
    return row


def _label(path: Path, titles: list[str]) -> str:
    own = [
        title
        for title in titles
        if title and title.casefold() not in _MEASURES and not title.endswith((")", "]"))
    ]
    own = [title for title in own if meaning(title) in ("", "label")]
    if len(own) != 1:
        which = " or ".join(own) if own else "there is none but measurements"
        more = f"Say --column={own[0]}" if own else "Add an annotation column in Raven"
        raise UserError(f"{path}: which column has the labels: {which}? {more}")
    return own[0]
