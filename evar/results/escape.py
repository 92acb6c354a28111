"""Makes names and labels safe in each medium that shows them.

They are users' text: a model, label or file may be called `=1+1`, `<b>`, or hold line feeds and
escape sequences.
"""

import html as _html
import unicodedata

_FORMULA = ("=", "+", "-", "@")  # what spreadsheets evaluate
_MARKDOWN = {"\\": "\\\\", "|": "\\|", "*": "\\*", "`": "\\`", "](": "]\\("}


def terminal(text: str) -> str:
    """Returns one line without control characters, which could move the cursor or hide text.

    They, line feeds and marks that reverse the direction of writing are shown as "\\x1b".
    """
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    kind = unicodedata.category(character)
    if kind in ("Cc", "Cs", "Zl", "Zp") or (kind == "Cf" and character not in "\u200c\u200d"):
        return character.encode("unicode_escape").decode("ascii")
    return character


def csv(value: object) -> object:
    """Returns a cell that no spreadsheet takes for a formula; numbers stay numbers."""
    if not isinstance(value, str):
        return value
    text = terminal(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def markdown(text: str) -> str:
    """Returns text for a cell of a Markdown table: no bar, tag, link, emphasis or line feed."""
    text = _html.escape(terminal(text), quote=False)
    for mark, escaped in _MARKDOWN.items():
        text = text.replace(mark, escaped)
    return text


def html(text: str) -> str:
    """Returns text for an element or a quoted attribute of HTML."""
    return _html.escape(terminal(text))
