"""From a model's name to a loaded adapter and its identity."""

import os
import sys
from importlib.metadata import version

import pytest
import torch

from evar import identity, models, registry
from evar.errors import UserError

RANDOM = """
import torch
from evar import Adapter


class Random(Adapter):
    sample_rate, embed_dim = 16000, 2

    def __init__(self, weights=None, width: int = 3):
        super().__init__(weights)
        self.net = torch.nn.Linear(width, 2)
        self.drop = torch.nn.Dropout()
"""


def source_hash(cls):
    return identity.source_hash(identity.sources_of(cls))


@pytest.mark.parametrize("name", models.names())
def test_every_registered_model_has_a_configuration_and_a_class_file(name):
    spec = models.config(name)
    assert spec.name == name
    assert spec.adapter.partition(":")[0] in registry.module_names(models.KIND)
    assert spec.weights is None or spec.weights.file


def test_names_are_all_yamls_and_lone_class_files():
    names = models.names()
    assert "logmel" in names
    assert names == sorted(set(names))
    assert not {n for n in names if n.startswith("_")}
    assert not set(models.PREFIXES) & set(names)


def test_an_unknown_name_is_answered_with_close_ones():
    with pytest.raises(UserError, match="unknown model 'logmell'; did you mean logmel"):
        models.config("logmell")


def test_a_file_without_a_class_name_says_how_it_is_written(tmp_path):
    (tmp_path / "mine.py").write_text(RANDOM)
    with pytest.raises(UserError, match=r"mine\.py:ClassName"):
        models.config(str(tmp_path / "mine.py"))


@pytest.mark.parametrize("key", ["lerning_rate: 1", "name: x", "weight: {file: a}"])
def test_an_unknown_key_of_a_configuration_is_refused(key, tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text(f"adapter: logmel\n{key}\n")
    monkeypatch.setattr(registry, "folder", lambda kind: tmp_path)
    with pytest.raises(UserError, match=r"mine\.yaml"):
        models.config("mine")


def test_loaded_models_are_frozen_and_evaluating(new_adapter):
    loaded = models.load(new_adapter(RANDOM, "Random"))
    adapter, config = loaded.adapter, loaded.config
    assert not adapter.training
    assert not adapter.drop.training
    assert not any(p.requires_grad for p in adapter.parameters())
    assert config.name == "Random"
    assert config.lr == 3e-4


def test_random_weights_are_always_the_same_and_leave_other_chance_alone(new_adapter):
    model = new_adapter(RANDOM, "Random")
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = models.load(model).adapter
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(2)
    second = models.load(model, weights="random").adapter
    assert torch.equal(first.net.weight, second.net.weight)


def test_options_reach_the_adapter_and_its_identity(new_adapter):
    model = new_adapter(RANDOM, "Random")
    loaded = models.load(model, width=5)
    adapter = loaded.adapter
    assert adapter.net.in_features == 5
    identity = loaded.identity
    assert identity["options"] == {"width": 5}
    assert identity != models.load(model).identity


def test_an_unknown_option_is_answered_with_the_known(new_adapter):
    with pytest.raises(UserError, match="width"):
        models.load(new_adapter(RANDOM, "Random"), widht=5)


def test_a_users_file_runs_once(new_adapter, tmp_path):
    """Libraries refuse to register the same operator twice; files may be slow to import."""
    log = tmp_path / "imports"
    model = new_adapter(f"open({str(log)!r}, 'a').write('x')\n{RANDOM}", "Random")
    models.config(model)
    loaded = models.load(model)
    assert loaded.identity["source"]
    assert log.read_text() == "x"


def test_an_edited_file_is_another_model_at_once(new_adapter, tmp_path):
    """Even where size and time are the same, which is all that Python's own cache looks at."""
    first = models.load(new_adapter(RANDOM, "Random")).adapter
    status = (tmp_path / "mine.py").stat()
    model = new_adapter(RANDOM.replace("embed_dim = 16000, 2", "embed_dim = 16000, 7"), "Random")
    os.utime(tmp_path / "mine.py", ns=(status.st_atime_ns, status.st_mtime_ns))
    second = models.load(model).adapter
    assert (first.embed_dim, second.embed_dim) == (2, 7)
    assert source_hash(type(first)) != source_hash(type(second))


@pytest.mark.parametrize("library", ["timm", "transformers", "torchaudio"])
def test_the_identity_does_not_depend_on_what_else_was_imported(library, new_adapter, monkeypatch):
    """A sweep in one process must find the embeddings, and give the ids, of single runs."""
    model = new_adapter(RANDOM, "Random")
    monkeypatch.setitem(sys.modules, library, sys)
    with_it = models.load(model).identity
    monkeypatch.delitem(sys.modules, library)
    assert models.load(model).identity == with_it


def test_the_identity_is_that_of_the_content_not_of_the_folder(new_adapter, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    here, there = (new_adapter(RANDOM, "Random", file=f) for f in ("a.py", "elsewhere/b.py"))
    assert models.load(here).identity == models.load(there).identity


@pytest.mark.parametrize("edited", ["helper", "base", "own"])
def test_the_source_covers_bases_and_helpers_among_the_adapters(edited, tmp_path, monkeypatch):
    """A private helper module changes the identity of every model that is built on it."""
    texts = {"_helper": "def double(x):\n    return 2 * x\n"}
    texts["base"] = "from evar.adapter import Adapter\n\n\nclass Base(Adapter):\n    pass\n"
    texts["own"] = (
        "from evar.model_adapters._helper import double\n"
        "from evar.model_adapters.base import Base\n\n\nclass Own(Base):\n    two = double(1)\n"
    )
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, f"evar.model_adapters.{name}", raising=False)
    monkeypatch.setattr(sys.modules["evar.model_adapters"], "__path__", [str(tmp_path)])
    cls = models.adapter_class("own")
    before = source_hash(cls)
    edited = tmp_path / f"{'_helper' if edited == 'helper' else edited}.py"
    edited.write_text(edited.read_text() + "EDITED = 1\n")
    assert source_hash(cls) != before
    for name in texts:
        del sys.modules[f"evar.model_adapters.{name}"]


@pytest.fixture
def with_helper(new_adapter, tmp_path, monkeypatch):
    """A function that writes an adapter and the file beside it that it imports."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(helper: str, statement: str):
        for name in [*sys.modules]:
            if name.startswith(("evar_test_helper", "evar_user_")):
                monkeypatch.delitem(sys.modules, name)  # as in a new process
        (tmp_path / "evar_test_helper.py").write_text(helper)
        text = RANDOM.replace("import torch\n", f"import torch\n{statement}\n")
        return new_adapter(text, "Random")

    return write


@pytest.mark.parametrize(
    "statement",
    [
        "from evar_test_helper import SIZE",
        "import evar_test_helper as helper",
        "def later():\n    from evar_test_helper import SIZE\n",  # not imported before embed()
    ],
)
def test_a_file_beside_the_users_file_is_part_of_the_model(statement, with_helper):
    def source(helper):
        return models.load(with_helper(helper, statement)).identity["source"]

    assert source("SIZE = 1\n") == source("SIZE = 1\n") != source("SIZE = 2\n")


def test_what_a_file_beside_the_users_file_imports_is_not_all_source(with_helper):
    model = with_helper("import json\nimport torch\n", "import evar_test_helper")
    loaded = models.load(model)
    adapter = loaded.adapter
    assert len(identity.sources_of(type(adapter))) == 2
    assert set(loaded.identity["libraries"]) == {"torch"}


def test_every_library_that_is_imported_is_known_by_its_version(new_adapter):
    statements = "import numpy as np\ndef later():\n    import sklearn.svm, nowhere_to_be_found\n"
    loaded = models.load(new_adapter(f"{statements}\n{RANDOM}", "Random"))
    versions = loaded.identity["libraries"]
    assert versions == {n: version(n) for n in ("numpy", "scikit-learn", "torch")}


def test_a_file_that_an_option_names_is_part_of_the_model(new_adapter, tmp_path):
    text = RANDOM.replace("width: int = 3", "width: int = 3, stats: str = 'none'")
    model, stats = new_adapter(text, "Random"), tmp_path / "stats.txt"
    found = []
    for content in ("1.0", "1.0", "2.0"):
        stats.write_text(content)
        loaded = models.load(model, stats=str(stats))
        found.append(loaded.identity)
    assert found[0] == found[1] != found[2]
    assert models.load(model).identity["files"] == {}


def test_an_adapter_that_reads_no_weights_refuses_them(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"")
    with pytest.raises(UserError, match="logmel has no weights"):
        models.load("logmel", weights=tmp_path / "w.pt")


def test_an_adapter_that_inherits_its_beginning_has_no_weights(new_adapter, tmp_path):
    with pytest.raises(UserError, match="has no weights to load"):
        models.load(new_adapter(), weights=tmp_path / "w.pt")
    assert models.load(new_adapter()).config.checkpoint == ""


def test_a_configuration_names_weights_for_a_class_that_takes_them_only(tmp_path, monkeypatch):
    monkeypatch.setattr(
        models,
        "config",
        lambda _: models.ModelConfig("bands", "logmel", weights=models.Weights("bands.pt")),
    )
    with pytest.raises(UserError, match=r"bands.yaml names weights, but LogMel takes none"):
        models.load("bands")


def test_weights_in_their_folder_are_compared_with_their_checksum(
    new_adapter, monkeypatch, tmp_path
):
    model, file = new_adapter(RANDOM, "Random"), tmp_path / "weights/net.pt"
    file.parent.mkdir()
    file.write_bytes(b"tensors")
    weights = models.Weights("net.pt", url="https://localhost/net.pt", md5="0" * 32)
    monkeypatch.setattr(
        models, "config", lambda _: models.ModelConfig("random", model, weights=weights)
    )
    with pytest.raises(UserError, match=r"net\.pt: its md5 is .* instead of 0{32}"):
        models.load("random")


def test_missing_weights_say_where_to_get_them(tmp_path):
    with pytest.raises(UserError, match="byola: weights not found at .*weights/.*--weights=PATH"):
        models.load("byola")
    with pytest.raises(UserError, match="gone: no such weights file"):
        models.load("byola", weights="gone")


@pytest.mark.parametrize("model", [3, None, object, len])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(UserError, match="is no model"):
        models.load(model)
