"""Makes the pictures of docs/own-recordings.md: `python docs/make_own_recordings.py`.

Runs the commands of the page in a temporary folder and writes what a terminal shows as SVG.
"""

import contextlib
import io
import os
import re
import runpy
import shlex
import sys
import tempfile
from pathlib import Path
from unittest import mock

from rich.console import Console
from rich.text import Text

from evar import cli

PAGE = Path(__file__).resolve().parent / "own-recordings.md"
IMAGES = PAGE.parent / "images"
PICTURES = {"evar table sounds": "own-table", "evar table field --labels=field": "own-field"}
_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # rich names fonts on another server


def steps(page: str) -> list[str]:
    """Returns the commands of a page's `sh` blocks, in order, but for installing."""
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL)).splitlines()
    return [line for line in lines if line and not line.startswith("pip ")]


def write_scripts(page: str) -> None:
    """Writes the page's scripts, whose first line is their name, into the current folder."""
    for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        name = text.partition("\n")[0].removeprefix("# ")
        Path(name).write_text(text, encoding="utf-8")


def run(line: str) -> str:
    """Runs one command of the page in this process; returns what it prints."""
    program, *words = shlex.split(line)
    out = io.StringIO()
    as_typed = mock.patch.object(sys, "argv", [program, *words])
    with contextlib.redirect_stdout(out), as_typed:
        if program == "evar":
            cli.run(words[0], words[1:])
        elif words[0] == "-c":
            _run_text(words[1])
        else:
            runpy.run_path(words[0], run_name="__main__")
    return out.getvalue()


def _run_text(text: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".py", delete=False) as file:
        file.write(text)
    runpy.run_path(file.name)
    Path(file.name).unlink()


def picture(line: str, output: str) -> str:
    """Returns an SVG of a terminal with a command and what it prints."""
    console = Console(record=True, width=100, file=io.StringIO(), color_system="truecolor")
    console.print(Text(f"$ {line}", style="bold"))
    console.print(Text(output.rstrip()))
    return _FONT.sub("", console.export_svg(title="evar", unique_id="evar"))


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.environ["EVAR_CACHE"] = str(Path(folder) / "cache")
        write_scripts(page)
        for line in steps(page):
            output = run(line)
            if line in PICTURES:
                target = IMAGES / f"{PICTURES[line]}.svg"
                target.write_text(picture(line, output), encoding="utf-8")
                print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
