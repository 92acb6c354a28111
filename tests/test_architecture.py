"""The import graph of evar/: which module may know of which."""

import ast
import functools
import importlib.util
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Folders whose modules are evar.<name>; evar/<name> is a link to them.
LINKED = ("tasks", "model_adapters", "pretrain")
# What contributors import, what everybody stands on and public entry points. A module that only one
# folder needs belongs into that folder.
ROOT_MODULES = {
    "__main__": "python -m evar",
    "adapter": "the base class of encoders",
    "alias": "one module under one name in a checkout",
    "callable_module": "evar.models() and evar.tasks()",
    "check": "python -m evar.check",
    "cli": "the command lines",
    "described": "values and code as text that hashes",
    "errors": "UserError",
    "export": "any model as a HEAR module",
    "extract": "embeddings without a score",
    "files": "atomic writes, hashes",
    "fingerprint": "what a model computes of fixed sounds",
    "identity": "what makes a model itself",
    "leaving": "the end of a command's process",
    "locks": "locks between processes",
    "models": "from a name to a model",
    "opened_files": "the files that a model reads",
    "options": "checks of option values",
    "parallel": "several processes",
    "precision": "float32 products",
    "progress": "progress bars",
    "protocol": "the declaration of a protocol",
    "registry": "found by file name or entry point",
    "run": "evaluate",
    "runtime": "how an evaluation runs",
    "sources": "the code that a model runs",
    "task": "the declaration of a task",
    "trained_on": "what checkpoints were trained on",
    "unwrap": "what training wraps around tensors",
    "weights": "reading checkpoints",
    "yaml_files": "reading YAML within limits",
}


def _files() -> dict[str, Path]:
    """All modules of the package by name."""
    found = {}
    for folder, package in [(ROOT / "evar", "evar"), *((ROOT / n, f"evar.{n}") for n in LINKED)]:
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            is_data = package == "evar.tasks" and parts[0] == "data"
            if is_data or (package == "evar" and parts[0] in LINKED):
                continue
            names = [package, *parts]
            found[".".join(names[:-1] if names[-1] == "__init__" else names)] = path
    return found


FILES = _files()


def _statements(node: ast.AST, *, at_import: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements; `at_import`: only those that run while the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue  # annotations alone
        elif at_import and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        else:
            yield from _statements(child, at_import=at_import)


@functools.cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def _imports(name: str, *, at_import: bool) -> set[str]:
    """The modules of this package that a module imports."""
    path = FILES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in _statements(_parsed(path), at_import=at_import):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        base = "." * node.level + (node.module or "")
        base = importlib.util.resolve_name(base, package) if node.level else base
        names = {f"{base}.{alias.name}" for alias in node.names}
        found |= {n if n in FILES else base for n in names}
    return {n for n in found if n in FILES and n != name}


@functools.cache  # and not while tests are collected: parsing all files takes seconds
def _graph(*, at_import: bool) -> dict[str, set[str]]:
    return {name: _imports(name, at_import=at_import) for name in FILES}


def _folder(module: str) -> str:
    """Returns "data" for evar.data and evar.data.audio, "" for a module in the root of evar/."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and _is_package(f"evar.{parts[1]}") else ""


def _is_package(module: str) -> bool:
    return FILES[module].name == "__init__.py"


def importers_of(folder: str) -> dict[str, set[str]]:
    """Modules outside a folder that import something of it, at any time."""
    return {
        name: found
        for name, imports in _graph(at_import=False).items()
        if _folder(name) != folder and (found := {i for i in imports if _folder(i) == folder})
    }


def test_the_graph_is_drawn():
    """Known edges, so that the tests below do not pass on an empty graph."""
    assert "evar.errors" in _graph(at_import=True)["evar.adapter"]
    assert (
        "evar.model_adapters._frontend" in _graph(at_import=True)["evar.model_adapters.laion_clap"]
    )
    assert "evar.models" in _graph(at_import=False)["evar.run"]
    assert _folder("evar.data.audio") == _folder("evar.data") == "data"
    assert _folder("evar.models") == _folder("evar") == ""
    assert importers_of("embedding")


def test_no_module_imports_itself_on_the_way():
    TopologicalSorter(_graph(at_import=True)).prepare()  # raises CycleError, which names the cycle


def test_folders_depend_on_each_other_in_one_direction():
    """Imports inside functions count too: the walk of the data never returns to a folder."""
    graph: dict[str, set[str]] = {}
    for name, imports in _graph(at_import=False).items():
        here = _folder(name)
        graph.setdefault(here, set()).update({_folder(i) for i in imports} - {here})
    del graph[""]  # the root: what everybody stands on, and entry points to everything
    TopologicalSorter({k: v - {""} for k, v in graph.items()}).prepare()


PROTOCOLS = [n for n in FILES if _folder(n) == "protocols" and not _is_package(n)]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_knows_neither_commands_nor_results_nor_another_protocol(name):
    public = {n for n in PROTOCOLS if not n.rpartition(".")[2].startswith("_")}
    assert {
        i for i in _imports(name, at_import=False) if _folder(i) in ("commands", "results")
    } == set()
    assert _imports(name, at_import=False) & (public - {name}) == set()


def test_nothing_imports_the_commands():
    assert importers_of("commands") == {}
    texts = {n: p.read_text(encoding="utf-8") for n, p in FILES.items()}
    by_name = {n for n, text in texts.items() if "evar.commands" in text}
    assert {n for n in by_name if _folder(n) != "commands"} == {"evar.cli"}


def test_the_root_holds_what_others_import_or_run():
    found = {p.stem for p in (ROOT / "evar").glob("*.py")} - {"__init__"}
    assert found == set(ROOT_MODULES)


def test_a_wheel_has_every_package():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = {p.parent for p in (ROOT / "evar").rglob("__init__.py")}
    there = {".".join(("evar", *f.relative_to(ROOT / "evar").parts)) for f in folders}
    there |= {f"evar.{name}" for name in LINKED}
    assert set(listed["tool"]["setuptools"]["packages"]) >= there


@pytest.mark.parametrize("name", [n for n in FILES if _folder(n) == "tasks"])
def test_a_task_knows_the_ground_and_other_tasks_alone(name):
    allowed = {"alias", "callable_module", "errors", "files", "task"}
    others = {i for i in _imports(name, at_import=False) if _folder(i) != "tasks"}
    assert others <= {"evar", *(f"evar.{module}" for module in allowed)}


@pytest.mark.parametrize("name", [n for n in FILES if _folder(n) == "model_adapters"])
def test_an_adapter_knows_what_contributors_import(name):
    allowed = {
        "adapter",
        "alias",
        "callable_module",
        "errors",
        "files",
        "sources",
        "task",
        "unwrap",
        "weights",
    }
    others = {i for i in _imports(name, at_import=False) if _folder(i) != "model_adapters"}
    assert others <= {"evar", *(f"evar.{module}" for module in allowed)}


def test_a_wheel_holds_every_folder_of_code():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    plain = {name for name, path in FILES.items() if path.name != "__init__.py"}
    assert {name.rpartition(".")[0] for name in plain} == set(listed)
