"""Pages that are generated agree with the registry; examples in pages run."""

import re
import sys
from pathlib import Path

import pytest

from evar import cli, models
from evar.data import indexing
from helpers.miniatures import sound, table

DOCS = Path(__file__).parent.parent / "docs"
README = DOCS.parent / "README.md"
sys.path.append(str(DOCS))

import make_models  # noqa: E402
import make_tasks  # noqa: E402


def block(page: Path, containing: str) -> str:
    """The one code block of a page that contains a text."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [b for b in blocks if containing in b]
    return found


def test_tasks_page_is_that_of_the_registry():
    assert make_tasks.PAGE.read_text(encoding="utf-8") == make_tasks.page(), (
        "run python docs/make_tasks.py"
    )


def test_models_page_is_that_of_the_registry():
    """All but the sizes, which are measured: those of the page itself."""
    written = make_models.PAGE.read_text(encoding="utf-8")
    sizes = make_models.written_sizes(written)
    assert written == make_models.page(sizes), "run python docs/make_models.py"
    assert set(sizes) == set(models.names())


@pytest.mark.parametrize(
    ("page", "containing", "name"),
    [(DOCS / "add-a-model.md", "class Bands", "Bands"), (README, "class Mine", "Mine")],
)
def test_example_of_a_model_runs(page, containing, name, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(block(page, containing))
    cli.run("check", [f"{path}:{name}"])
    places = [f"--results={tmp_path}/results", "--quiet", "--epochs=2"]
    cli.run("lineareval", [f"{path}:{name}", "demo", *places])
    assert f"{name}  demo  linear  accuracy" in capsys.readouterr().out


def test_example_of_a_task_runs(tmp_path):
    namespace: dict = {"__name__": "birds"}
    exec(compile(block(DOCS / "add-a-task.md", "birds"), "birds.py", "exec"), namespace)
    rows = []
    for i, part in enumerate(("train", "train", "valid", "test")):
        for species in ("wren", "robin"):
            sound(tmp_path / f"wav/{species}{i}.wav", 16000)
            rows.append((f"{species}{i}.wav", species, f"{species} hunter {i}", part))
    table(tmp_path / "birds.csv", ["recording", "species", "recordist", "part"], rows)
    manifest = indexing.build(namespace["TASK"], tmp_path)
    assert not manifest.partial
    assert manifest.counts() == {"train": 4, "valid": 2, "test": 2}
