"""What is part of a model's identity: its code and libraries, not how the code is written."""

import ast
import hashlib
import importlib
import linecache
import shutil
import sys
import types

import pytest
import torch

from evar import identity, models, registry
from evar.adapter import Adapter
from evar.sources import canonical, module_sources

CODE = '''
"""A module."""
import math  # for pi


class Net:
    """A class."""

    size = 3  # in bins
    """What a bare string after an attribute says is documentation as well."""

    def turn(self, x, *, by: float = math.pi):
        """Turn."""
        match x:
            case None | 0:
                return f"{by:.{self.size}f} turns" u" done"
        return {**x}, -1e-3, b"\\0", x[1:, None]
'''


def code_of(text: str) -> bytes:
    return canonical(ast.parse(text))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""', '"""Another text."""'),
        ('"""A module."""', ""),
        ("# for pi", "# for the circle"),
        ('"""A class."""', "# a comment instead"),
        ('"""Turn."""', "'''Rotate\n\n        x.'''"),
        ('"""What a bare string after an attribute says is documentation as well."""', ""),
        ('" turns" u" done"', '" turns done"'),
        ("(self, x, *, by: float = math.pi)", "(\n        self, x, *, by: float = math.pi,\n    )"),
    ],
)
def test_wording_and_layout_are_not_part_of_the_code(old, new):
    assert old in CODE or old == '" turns" u" done"'
    assert code_of(CODE.replace(old, new)) == code_of(CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("size = 3", "size = 4"),
        ("size = 3", "size = 3.0"),
        ("size = 3", "size = '3'"),
        ("None | 0", "True | 0"),
        ("-1e-3", "1e-3"),
        ("x[1:, None]", "x[:1, None]"),
        ("{**x}", "{x: x}"),
        (" turns", " turn"),
        (".{self.size}f", ".{self.size}e"),
        ("*, by", "by"),
        ('b"\\0"', '"\\0"'),
        ("import math", "import cmath as math"),
    ],
)
def test_code_is(old, new):
    assert old in CODE
    assert code_of(CODE.replace(old, new)) != code_of(CODE)


def test_a_string_that_is_used_is_no_docstring():
    assert code_of("def f():\n    return 'a'\n") != code_of("def f():\n    return 'b'\n")
    assert code_of("f('a')") != code_of("f('b')")


def test_the_canonical_form_is_the_same_in_every_python_version():
    """Computed once with Python 3.11. If this fails, each cached embedding is computed again."""
    assert hashlib.sha256(code_of(CODE)).hexdigest()[:16] == "f52caaff9c5c95aa"


def test_nesting_beyond_the_recursion_limit_is_read():
    terms = 2 * sys.getrecursionlimit()
    assert code_of(" + ".join(["x"] * terms)).count(b"BinOp(") == terms - 1


@pytest.mark.parametrize("content", [b"def (:\n", b"\xff\xfe\0", b"x = 1\0"])
def test_what_is_not_python_counts_by_its_bytes(content, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evar_test_unreadable.py").write_bytes(content)
    (source,) = module_sources(["evar_test_unreadable"])
    assert source.code == content
    assert source.imports == frozenset()


@pytest.fixture
def adapters_copy(tmp_path, monkeypatch):
    """A copy of model_adapters/ that is imported instead of it."""
    folder = shutil.copytree(registry.folder(models.KIND), tmp_path / "model_adapters")
    for name in [n for n in sys.modules if n.startswith("evar.model_adapters.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys.modules["evar.model_adapters"], "__path__", [str(folder)])
    yield folder
    for name in [n for n in sys.modules if n.startswith("evar.model_adapters.")]:
        del sys.modules[name]


def test_a_reworded_shared_front_end_keeps_a_models_identity(adapters_copy):
    """laion_clap stands on _htsat.py and _frontend.py, which many others import too."""
    cls = models.adapter_class("laion_clap")

    def source_hash() -> str:
        return identity.source_hash(identity.sources_of(cls))

    before, frontend = source_hash(), adapters_copy / "_frontend.py"
    text = frontend.read_text()
    assert text.startswith('"""')
    frontend.write_text('"""Reworded. ' + text.removeprefix('"""') + "# a comment\n")
    assert source_hash() == before
    frontend.write_text(text + "FACTOR = 2\n")
    assert source_hash() != before


def test_a_reworded_file_of_the_user_is_the_same_model(new_adapter):
    hashes = []
    for wording, dim in [('"""One."""', 2), ("# two", 2), ("", 3)]:
        body = (
            f"class Mine(evar.Adapter):\n    {wording}\n    sample_rate, embed_dim = 16000, {dim}"
        )
        cls = models.adapter_class(new_adapter(f"import evar\n\n\n{body}\n", "Mine"))
        hashes.append(identity.source_hash(identity.sources_of(cls)))
    assert hashes[0] == hashes[1] != hashes[2]


def typed_class(text: str, is_kept: bool) -> type:
    """A class as a notebook makes it, where linecache keeps each cell, or as a console does."""
    name = f"<cell {hashlib.sha256(text.encode()).hexdigest()}>"
    if is_kept:
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    namespace: dict = {"__name__": "evar_test_notebook"}
    exec(compile(text, name, "exec"), namespace)
    return namespace["Mine"]


@pytest.fixture
def notebook(monkeypatch):
    monkeypatch.setitem(sys.modules, "evar_test_notebook", types.ModuleType("evar_test_notebook"))


@pytest.mark.parametrize("text_is_kept", [True, False])
@pytest.mark.parametrize("base", ["evar.Adapter", "LogMel"])
def test_a_class_in_a_notebook_counts_by_its_code(base, text_is_kept, notebook):
    """Also one that is derived from an adapter of the registry, whose file has a source."""
    hashes = []
    for doc, value in [("One.", 1), ("Two.", 1), ("Two.", 2)]:
        text = (
            "import evar\nfrom evar.model_adapters.logmel import LogMel\n\n"
            f"class Mine({base}):\n    '''{doc}'''\n    def embed(self, audio):\n"
            f"        return [(lambda x: {value} * x)(a) for a in audio]\n"
        )
        hashes.append(identity.source_hash(identity.sources_of(typed_class(text, text_is_kept))))
    assert hashes[1] != hashes[2]
    assert hashes[0] == hashes[1]


def test_all_modules_of_a_plug_in_are_part_of_its_models(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "evar_test_plugin"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    imports = "import evar\nfrom evar_test_plugin.net import WIDTH\n"
    (package / "adapter.py").write_text(f"{imports}\n\nclass Mine(evar.Adapter):\n    pass\n")
    monkeypatch.syspath_prepend(package.parent)
    hashes = []
    for width in (1, 1, 2):
        (package / "net.py").write_text(f"WIDTH = {width}\n")
        cls = importlib.import_module("evar_test_plugin.adapter").Mine
        hashes.append(identity.source_hash(identity.sources_of(cls)))
    assert hashes[0] == hashes[1] != hashes[2]
    for name in [n for n in sys.modules if n.startswith("evar_test_plugin")]:
        del sys.modules[name]


HELPED = """
import torch
import evar

SCALE = {scale}
def level(audio):
    return {level}
class Mine(evar.Adapter):
    sample_rate, embed_dim = 16000, 1
    weights = {listed}
    @staticmethod
    def scaled(x):
        return {scaled}
    def embed(self, audio):
        return self.scaled(SCALE * level(audio))
"""


@pytest.mark.parametrize("text_is_kept", [True, False])
def test_what_a_class_in_a_notebook_uses_is_part_of_it(text_is_kept, notebook):
    """Embeddings of one cell would otherwise be taken for those of an edited other cell."""
    usual = {"scale": "1", "level": "audio.mean(1, True)", "listed": "[1]", "scaled": "x"}

    def source_hash(**changed) -> str:
        cls = typed_class(HELPED.format(**{**usual, **changed}), text_is_kept)
        return identity.source_hash(identity.sources_of(cls))

    edits = [{}, {"scale": "2"}, {"level": "audio.std(1, True)"}, {"listed": "[2]"}]
    hashes = [source_hash(**edit) for edit in [*edits, {"scaled": "-x"}]]
    assert len(set(hashes)) == len(hashes)
    assert source_hash() == hashes[0]


def test_a_class_of_a_console_has_no_file(monkeypatch):
    """`python - <<EOF` calls its file "<stdin>"."""
    module = types.ModuleType("evar_test_notebook")
    module.__file__ = "<stdin>"
    monkeypatch.setitem(sys.modules, "evar_test_notebook", module)
    text = "import evar\nclass Mine(evar.Adapter):\n    pass\n"
    assert identity.sources_of(typed_class(text, is_kept=False))


class Scaled(Adapter):
    sample_rate, embed_dim = 16000, 1

    def __init__(self, scale, seen=None):
        super().__init__()
        self.scale, self.seen = scale, seen

    def embed(self, audio):
        return self.scale * audio.mean(1, keepdim=True)


def test_an_instance_counts_by_its_attributes():
    """Nobody knows the options that it was built with."""

    def of(adapter) -> dict:
        return dict(models.load(adapter).identity)

    assert of(Scaled(1)) == of(Scaled(1)) != of(Scaled(2))
    assert of(Scaled({"a": [1]})) == of(Scaled({"a": [1]})) != of(Scaled({"a": [2]}))
    assert of(Scaled(torch.ones(2))) == of(Scaled(torch.ones(2))) != of(Scaled(torch.zeros(2)))
    endless: list = []
    endless.append(endless)
    assert of(Scaled(endless)) == of(Scaled(endless))


def test_an_instance_that_fits_statistics_stays_the_same_model():
    adapter = Scaled(1)
    adapter.fit_clips = 5
    before = models.load(adapter).identity
    adapter.seen = 0.5  # as `fitted` would
    assert models.load(adapter).identity == before


def test_classes_that_a_function_makes_differ_by_what_it_was_given():
    def made(scale):
        class Made(Adapter):
            sample_rate, embed_dim = 16000, 1

            def embed(self, audio):
                return scale * audio.mean(1, keepdim=True)

        return Made

    one, same, two = (identity.source_hash(identity.sources_of(made(n))) for n in (1, 1, 2))
    assert one == same != two
