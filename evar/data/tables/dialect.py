"""Reads the cells of a table in any dialect that spreadsheets write: encoding, separator, quotes.

Nothing is taken from the first lines by majority: the encoding is what the bytes allow, and the
separator is the one under which the head of the table has names of columns.
"""

import csv
import io
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from evar import files
from evar.errors import UserError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
WORKBOOK = ".xlsx"
_MARKS = (  # byte-order marks; that of UTF-32 begins like that of UTF-16
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_STATED = re.compile('"?sep=([^\r\n])"?(?:\r\n|\r|\n|$)', re.IGNORECASE)
_ALLOWED = "\t\n\r\f"  # control characters that a text may have
_INFLATED = 1 << 29  # bytes that a workbook may unpack to
_DAMAGED = (  # what zipfile, the XML parser and openpyxl raise for bytes that are no workbook
    *(zipfile.BadZipFile, zlib.error, ElementTree.ParseError, EOFError, RuntimeError),
    *(ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError),
)
_CELL = 1 << 20  # characters of a cell; the csv module's own limit is 128 KiB


@dataclass(frozen=True)
class Cells:
    """The rows of a table as texts, and how they were read.

    lines: of each row, the line of the file that it begins on (of a workbook: its row). notes:
    what was understood that a person should know, as phrases. separator: "" in a workbook.
    """

    rows: list[list[str]]
    lines: list[int]
    separator: str
    notes: tuple[str, ...] = ()


def read_cells(path, known: Callable[[str], bool], *, sheet: str | None = None) -> Cells:
    """Returns the cells of a table in a text file or a workbook, without rows that are blank.

    known: whether a text is the name of a column; it decides between separators. sheet: which one
    of a workbook's. Cells are as written, blanks around them included.
    Raises UserError for what is no table, and for a separator that cannot be known.
    """
    path = Path(path)
    if path.suffix.lower() == WORKBOOK:
        return _workbook(path, sheet)
    text, notes = read_text(path)
    separator, text, skipped = _announced(text)
    if separator is None:
        separator = _separator(path, text, known)
    rows, lines = _parsed(path, text, separator)
    lines = [line + skipped for line in lines]
    if separator != ",":
        notes = (*notes, f"cells are separated by {SEPARATORS.get(separator, repr(separator))}")
    return Cells(rows, lines, separator, notes)


def read_text(path) -> tuple[str, tuple[str, ...]]:
    """Returns the text of a file in UTF-8, UTF-16, UTF-32 or Windows-1252, and what to say of it.

    A file without a byte-order mark is UTF-8 where its bytes are; Windows-1252 is what is left,
    and is said. Raises UserError for bytes that are no text in any of them.
    """
    with files.reading(path):
        content = Path(path).read_bytes()
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    try:
        if encoding is not None:
            return _plain(path, content.decode(encoding)), _said(encoding)
        wide = _unmarked_utf16(content)
        if wide:
            return _plain(path, content.decode(wide)), _said("utf-16")
        try:
            return _plain(path, content.decode("utf-8")), ()
        except UnicodeDecodeError:
            return _plain(path, content.decode("cp1252")), ("its encoding is read as Windows-1252",)
    except ValueError as error:
        raise UserError(
            f"{path}: not a CSV: it is no text in UTF-8, UTF-16 or Windows-1252 ({error})"
        ) from error


def _said(encoding: str) -> tuple[str, ...]:
    return () if encoding == "utf-8-sig" else (f"its encoding is {encoding.upper()}",)


def _unmarked_utf16(content: bytes) -> str:
    """Which UTF-16 a text without a mark is in: Latin letters have a zero as every other byte."""
    head = content[:4096]
    if len(content) % 2 or b"\0" not in head:
        return ""
    low, high = head[::2].count(0), head[1::2].count(0)
    if max(low, high) < len(head) / 4 or min(low, high):
        return ""
    return "utf-16-le" if high else "utf-16-be"


def _plain(path, text: str) -> str:
    """Returns a text, or raises UserError where it has control characters, as sounds have."""
    text = text.removeprefix("\ufeff")
    for character in set(text):
        if (character < " " and character not in _ALLOWED) or character == "\x7f":
            line = text.count("\n", 0, text.index(character)) + 1
            what = f"line {line} holds the control character {character!r}"
            raise UserError(f"{path}: {what}: it is no text")
    return text


def _announced(text: str) -> tuple[str | None, str, int]:
    """The separator that Excel's first line "sep=;" names, the rest, and the lines skipped."""
    stated = _STATED.match(text)
    return (stated.group(1), text[stated.end() :], 1) if stated else (None, text, 0)


def _separator(path: Path, text: str, known: Callable[[str], bool]) -> str:
    """The separator under which the first row has most names of columns."""
    found = {}
    for separator in SEPARATORS:
        head = _head(text, separator)
        found[separator] = (sum(known(cell) for cell in head), len(head) > 1)
    best = max(found.values())
    likely = [separator for separator, value in found.items() if value == best]
    if len(likely) > 1 and best > (0, False) and best[1]:
        names = " or ".join(SEPARATORS[each] for each in likely)
        raise UserError(
            f'{path}: separated by {names}? Say so in its first line, as in "sep={likely[0]}", '
            "or rename the columns"
        )
    return likely[0]


def _head(text: str, separator: str) -> list[str]:
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        return next((row for row in rows if any(map(str.strip, row))), [])
    except csv.Error:
        return []


def _parsed(path: Path, text: str, separator: str) -> tuple[list[list[str]], list[int]]:
    try:
        return _rows(text, separator, csv.QUOTE_MINIMAL)
    except csv.Error as error:
        if separator == "\t":  # Raven and Audacity quote nothing: a quote is a quote
            return _rows(text, separator, csv.QUOTE_NONE)
        raise UserError(f"{path}: not a CSV ({error})") from error


def _rows(text: str, separator: str, quoting) -> tuple[list[list[str]], list[int]]:
    before = csv.field_size_limit(_CELL)
    try:
        reader = csv.reader(
            io.StringIO(text, newline=""), delimiter=separator, quoting=quoting, strict=True
        )
        rows, lines, line = [], [], 1
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append(row)
                lines.append(line)
            line = reader.line_num + 1
        return rows, lines
    finally:
        csv.field_size_limit(before)


def _workbook(path: Path, sheet: str | None) -> Cells:
    try:
        import openpyxl
    except ImportError as error:
        raise UserError(
            f"{path}: workbooks need openpyxl: pip install 'evar[xlsx]', or save the sheet as CSV"
        ) from error
    try:
        with files.reading(path), zipfile.ZipFile(path) as packed:
            if sum(part.file_size for part in packed.infolist()) > _INFLATED:
                raise UserError(f"{path}: larger than a table of clips can be; save it as CSV")
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        sheets = {each.title: _cells_of(each) for each in book.worksheets}
        book.close()
    except _DAMAGED as error:
        raise UserError(f"{path}: not a workbook of Excel (.xlsx): {error}") from error
    filled = {title: cells for title, cells in sheets.items() if cells[0]}
    if sheet is not None and sheet not in filled:
        raise UserError(f"{path}: no filled sheet {sheet!r}; it has {', '.join(filled)}")
    if sheet is None and len(filled) > 1:
        raise UserError(
            f"{path}: which sheet? {', '.join(filled)} hold cells. Keep one, or name it: "
            f"`evar table FOLDER --labels={path.name} --sheet={next(iter(filled))}`"
        )
    title = sheet or next(iter(filled), "")
    rows, lines = filled.get(title, ([], []))
    return Cells(rows, lines, "", (f"it is the sheet {title!r}",) if len(sheets) > 1 else ())


def _cells_of(sheet) -> tuple[list[list[str]], list[int]]:
    rows, lines = [], []
    for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
        cells = [_as_text(value) for value in row]
        if any(cell.strip() for cell in cells):
            rows.append(cells)
            lines.append(number)
    return rows, lines


def _as_text(value: object) -> str:
    """A cell as the sheet shows it: all numbers of a workbook are floats, 3.0 is 3."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def trimmed(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Returns rows of cells without the blanks around them."""
    return [[cell.strip() for cell in row] for row in rows]
