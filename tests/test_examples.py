"""The notebooks in examples/ run from the first cell to the last one."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
_SHOW = """
for value in shown:
    (getattr(value, "_repr_html_", None) or value.__repr__)()
"""


def as_script(notebook: Path) -> str:
    """The code of all cells; what a cell would display is appended to the list `shown`."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    body: list[ast.stmt] = []
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        statements = ast.parse("".join(cell["source"])).body
        if isinstance(statements[-1], ast.Expr):
            call = ast.Call(ast.parse("shown.append", mode="eval").body, [statements[-1].value], [])
            statements[-1] = ast.Expr(call)
        body += statements
    module = ast.fix_missing_locations(ast.Module(body, []))
    return f"shown = []\n{ast.unparse(module)}\n{_SHOW}"


@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda p: p.stem)
def test_a_notebook_runs(notebook, tmp_path):
    script = tmp_path / "cells.py"
    script.write_text(as_script(notebook), encoding="utf-8")
    here = os.environ | {"PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env=here,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "results" / "runs").glob("*.json"))


@pytest.mark.parametrize("notebook", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda p: p.stem)
def test_a_notebook_is_kept_without_outputs(notebook):
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
