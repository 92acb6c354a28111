"""Checkpoints: read without running them, loaded strictly, identified by their tensors."""

import argparse
import pickle
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from evar import weights
from evar.errors import UserError

STATE = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.zeros(2)}


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.pth", "a.ckpt", "no_suffix"])
def test_reads_safetensors_and_pytorch(name, tmp_path):
    write = save_file if name.endswith("safetensors") else torch.save
    write(STATE, tmp_path / name)
    read = weights.load_checkpoint(tmp_path / name)
    assert read.keys() == STATE.keys()
    assert all(torch.equal(read[key], STATE[key]) for key in STATE)


def test_reads_the_oldest_format(tmp_path):
    torch.save(STATE, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(weights.load_checkpoint(tmp_path / "a.pt")["weight"], STATE["weight"])


def test_reads_what_published_checkpoints_hold_besides(tmp_path):
    beside = {"args": argparse.Namespace(lr=0.1), "best": np.float64(0.5), "n": np.int64(3)}
    torch.save({"model": STATE, **beside}, tmp_path / "a.pt")
    assert weights.load_checkpoint(tmp_path / "a.pt")["best"] == 0.5


class Evil:
    def __reduce__(self):
        return eval, ("__import__('pathlib').Path('harm').touch()",)


def evil_globals(path):
    torch.save({"weight": Evil()}, path)


def evil_pickle(path):
    path.write_bytes(pickle.dumps(Evil(), protocol=2))


def evil_old_format(path):
    torch.save({"weight": Evil()}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [evil_globals, evil_pickle, evil_old_format])
def test_code_in_a_checkpoint_is_refused_and_never_run(write, tmp_path):
    write(tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"evil\.pt: refused.*convert it"):
        weights.load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle_of_any_protocol_is_run(protocol, tmp_path):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"weight": Evil()}, protocol=protocol))
    with pytest.raises(UserError, match=r"evil\.pt"), warnings.catch_warnings(action="ignore"):
        weights.load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("kind", ["garbage", "text", "empty", "cut", "html"])
def test_a_damaged_checkpoint_is_named_for_what_it_is(kind, name, tmp_path):
    path = tmp_path / name
    (save_file if name.endswith("safetensors") else torch.save)(STATE, path)
    content = {
        "garbage": bytes(range(256)) * 9,
        "text": b"not found\n",
        "empty": b"",
        "cut": path.read_bytes()[:-90],
        "html": b"<!DOCTYPE html><html><body>404</body></html>",
    }
    path.write_bytes(content[kind])
    with pytest.raises(UserError, match="not a readable checkpoint.*Download it again") as error:
        weights.load_checkpoint(path)
    assert name in str(error.value)
    assert "refused" not in str(error.value)


@pytest.mark.parametrize("content", [[torch.zeros(2)], torch.zeros(2), 3])
def test_something_else_than_named_tensors(content, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match="not named tensors"):
        weights.load_checkpoint(tmp_path / "a.pt")


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match=r"gone\.pt: no such checkpoint file"):
        weights.load_checkpoint(tmp_path / "gone.pt")


def test_load_strict_takes_what_fits_and_ignores_on_request():
    layer = nn.Linear(3, 2)
    weights.load_strict(layer, {**STATE, "head.bias": torch.ones(1)}, "a.pt", ignore=["head."])
    assert torch.equal(layer.weight, STATE["weight"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bias": None}, "1 missing .bias."),
        ({"other": torch.ones(1)}, "1 unexpected .other."),
        ({"weight": torch.ones(3, 2)}, r"weight is \(3, 2\), expected \(2, 3\)"),
        ({"bias": None, "x": torch.ones(1)}, "1 missing .bias.; 1 unexpected .x."),
        ({"bias": {"deeper": 1}}, "bias"),
    ],
)
def test_load_strict_names_what_differs_and_changes_nothing(change, words):
    layer = nn.Linear(3, 2)
    before = weights.state_hash(layer)
    state = {k: v for k, v in {**STATE, **change}.items() if v is not None}
    with pytest.raises(UserError, match=rf"a\.pt: not a checkpoint of Linear.*{words}"):
        weights.load_strict(layer, state, "a.pt")
    assert weights.state_hash(layer) == before


def test_the_hash_is_of_names_shapes_types_and_values():
    def hashed(**tensors):
        module = nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return weights.state_hash(module)

    a = torch.arange(4.0)
    usual = hashed(a=a)
    assert usual == hashed(a=a.clone()) == hashed(a=torch.arange(8.0)[:4])
    others = [
        hashed(b=a),
        hashed(a=a.view(2, 2)),
        hashed(a=a.view(torch.int32)),
        hashed(a=a + 1e-6),
        hashed(a=a, b=torch.zeros(0)),
        hashed(a=torch.tensor(1.0)),
        hashed(a=a.bfloat16()),
        hashed(),
    ]
    assert len({usual, *others}) == len(others) + 1


def test_the_folder_of_weights_follows_the_environment(tmp_path, monkeypatch):
    assert weights.weights_folder() == tmp_path / "weights"
    monkeypatch.delenv("EVAR_WEIGHTS")
    assert str(weights.weights_folder()) == "weights"
