"""LaTeX tables with booktabs: the best of a column bold, what no test separates underlined."""

from collections.abc import Sequence

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "→": r"$\to$",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
}


def escape(text: str) -> str:
    """Returns text that LaTeX sets as it is; control characters become spaces.

    >>> escape("50% of a_b\\\\input{x}")
    '50\\\\% of a\\\\_b\\\\textbackslash{}input\\\\{x\\\\}'
    """
    visible = (c if c.isprintable() else " " for c in text)
    return "".join(_SPECIAL.get(c, c) for c in visible)


def cell(text: str, interval: str = "", *, rank: int = 0, best: bool = False, marks: str = ""):
    """Returns a cell: bold for the best value, underlined for those that share its rank."""
    value = text
    if best:
        value = rf"\textbf{{{value}}}"
    elif rank == 1:
        value = rf"\underline{{{value}}}"
    if marks:
        value += f"$^{{{''.join(_MARKS.get(m, m) for m in marks)}}}$"
    return value + (rf" {{\footnotesize {escape(interval)}}}" if interval else "")


_MARKS = {"†": r"\dagger", "‡": r"\ddagger", "§": r"\mathsection", "*": "*"}


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str) -> str:
    """Returns a table environment; head and cells are LaTeX already, the caption is plain text.

    Needs \\usepackage{booktabs}.
    """
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"
