"""Names on the Hugging Face hub are read at one commit, which is part of the model."""

import types
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest
from transformers import Wav2Vec2FeatureExtractor

from evar import models
from evar.errors import UserError
from evar.model_adapters import _hub
from evar.model_adapters._text import Tokenizer
from helpers.golden_cases import write_tokenizer
from helpers.transformers_models import save

OLD, NEW = "a" * 40, "b" * 40


class Cache:
    """A stand-in of the hub's cache: commits of names, and what a branch is."""

    def __init__(self, folder: Path):
        self.folder = folder

    def commit(self, name: str, commit: str) -> Path:
        made = self.folder / f"models--{name.replace('/', '--')}" / "snapshots" / commit
        made.mkdir(parents=True)
        return made

    def branch(self, name: str, branch: str, commit: str) -> None:
        file = self.folder / f"models--{name.replace('/', '--')}" / "refs" / branch
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(commit)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return Cache(tmp_path / "hub")


@pytest.fixture
def network(cache):
    """ORG/net in two commits of different width; main is the old one."""
    for commit, width in ((OLD, 16), (NEW, 32)):
        folder = cache.commit("org/net", commit)
        save(folder, intermediate_size=width)
        Wav2Vec2FeatureExtractor().save_pretrained(folder)
    cache.branch("org/net", "main", OLD)
    cache.branch("org/net", "better", NEW)
    return "hf:org/net"


def test_the_commit_of_a_branch_is_part_of_the_model(network, cache):
    before = models.load(network)
    assert before.identity["revision"] == OLD
    cache.branch("org/net", "main", NEW)
    after = models.load(network)
    assert after.identity["revision"] == NEW
    assert after.identity["weights"] != before.identity["weights"]


@pytest.mark.parametrize(("revision", "commit"), [("better", NEW), (OLD, OLD), (NEW, NEW)])
def test_a_revision_can_be_given(revision, commit, network):
    assert models.load(network, revision=revision).identity["revision"] == commit


def test_a_registered_model_may_pin_its_revision(network, monkeypatch):
    options = {"source": "org/net", "revision": NEW}
    spec = models.ModelConfig("net", "hf", options=options)
    monkeypatch.setattr(models, "config", lambda _: spec)
    assert models.load("net").identity["revision"] == NEW


def test_an_unknown_revision_is_refused(network):
    with pytest.raises(UserError, match="org/net@nowhere: cannot be loaded"):
        models.load(network, revision="nowhere")


def test_a_folder_has_no_revision(network, cache):
    folder = cache.folder / "models--org--net/snapshots" / OLD
    assert "revision" not in models.load(f"hf:{folder}").identity
    with pytest.raises(UserError, match="is on the disk: leave --revision=main out"):
        models.load(f"hf:{folder}", revision="main")


def test_the_hub_is_asked_which_commit_a_branch_is(network, monkeypatch):
    asked = []

    class Api:
        def model_info(self, name, *, revision, timeout):
            asked.append((name, revision))
            return types.SimpleNamespace(sha=NEW)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert _hub.pinned("org/net") == f"org/net@{NEW}"
    assert _hub.pinned(f"org/net@{OLD}") == f"org/net@{OLD}"
    assert asked == [("org/net", "main")], "a commit needs no answer"


def test_where_the_hub_does_not_answer_the_cache_does(network, monkeypatch):
    class Api:
        def model_info(self, *_, **__):
            raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert _hub.pinned("org/net") == f"org/net@{OLD}"
    assert _hub.pinned("org/other") == "org/other"


def test_a_tokenizer_is_read_at_one_commit_too(cache):
    folder = cache.commit("org/words", OLD)
    write_tokenizer(folder, "bert")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    cache.branch("org/words", "main", OLD)
    for name in ("org/words", f"org/words@{OLD}"):
        assert Tokenizer(name, 30522, max_length=30).identity()
    with pytest.raises(UserError, match=f"org/words@{NEW}: no tokenizer could be read"):
        Tokenizer(f"org/words@{NEW}", 30522, max_length=30).identity()
