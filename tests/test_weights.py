"""Checkpoints: read without running them, loaded strictly, identified by their tensors."""

import argparse
import json
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


def named(module, prefix=""):
    return {prefix + name: value.clone() for name, value in module.state_dict().items()}


class Net(nn.Module):
    """Blocks and positions, as encoders have them."""

    def __init__(self, width=4, depth=2, steps=5):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, steps, width))
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))


OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": []}
WRAPPED = {
    "plain": lambda s: s,
    "DataParallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "torch.compile": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "compiled inside": lambda s: {
        k.replace("blocks.", "blocks._orig_mod."): v for k, v in s.items()
    },
    "both": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    "Lightning": lambda s: {
        "state_dict": {f"model.{k}": v for k, v in s.items()},
        "epoch": 3,
        "optimizer_states": [OPTIMIZER],
    },
    "trainer": lambda s: {"model": s, "optimizer": OPTIMIZER, "args": argparse.Namespace(lr=1)},
    "trainer and average": lambda s: {
        "model_ema": {k: v + 1 for k, v in s.items()},
        "model": s,
        "step": 7,
    },
    "average alone": lambda s: {"ema": s, "step": 7},
    "nested": lambda s: {
        "checkpoint": {"model_state_dict": {f"module.{k}": v for k, v in s.items()}}
    },
    "its own key": lambda s: {"audio_tower_v2": s, "step": 7},
    "DDP of a part": lambda s: {f"model.encoder.{k}": v for k, v in s.items()},
    "classifier": lambda s: {
        **s,
        "head.weight": torch.ones(9, 4),
        "classifier.0.bias": torch.ones(9),
    },
    "wrapped classifier": lambda s: {
        **{f"module.backbone.{k}": v for k, v in s.items()},
        "module.head.weight": torch.ones(9, 4),
    },
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_what_training_wraps_around_is_taken_off(kind, tmp_path):
    net, other = Net(), Net()
    torch.save(WRAPPED[kind](named(net)), tmp_path / "a.pt")
    weights.load_strict(other, weights.load_checkpoint(tmp_path / "a.pt"), "a.pt")
    assert weights.state_hash(other) == weights.state_hash(net)


def test_a_network_that_is_named_like_a_wrapper_is_not_unwrapped():
    net = nn.ModuleDict({"module": Net(), "head": nn.Linear(2, 2)})
    other = nn.ModuleDict({"module": Net(), "head": nn.Linear(2, 2)})
    weights.load_strict(other, named(net), "a.pt")
    assert weights.state_hash(other) == weights.state_hash(net)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(kind, tmp_path):
    net, other = Net(), Net()
    save_file({k: v.to(kind) for k, v in named(net).items()}, tmp_path / "a.safetensors")
    weights.load_strict(other, weights.load_checkpoint(tmp_path / "a.safetensors"), "a")
    for ours, given in zip(other.parameters(), net.parameters(), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, given, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["eat", "cnn14", "byola", "dasheng_base", "vggish"])
def test_half_precision_gives_the_embedding_within_rounding(name, kind, tmp_path):
    from evar import models

    cls = models.adapter_class(models.config(name).adapter)
    torch.manual_seed(0)
    single = cls(**cls.TINY).eval()
    net = single.model if name == "eat" else single.net
    prefix = "model." if name == "eat" else ""
    torch.save({prefix + k: v.to(kind) for k, v in named(net).items()}, tmp_path / "half.pt")
    half = cls(tmp_path / "half.pt", **cls.TINY).eval()
    audio = 0.1 * torch.randn(2, single.sample_rate, generator=torch.Generator().manual_seed(1))
    for adapter in (single, half):
        if adapter.fit_clips:
            adapter.fitted(single.fit(iter([audio])))
    with torch.inference_mode():
        ours, given = half.embed(audio), single.embed(audio)
    assert ours.dtype == torch.float32
    assert (ours - given).norm() / given.norm() < 16 * 2.0 ** -(11 if kind == torch.float16 else 8)


def shards(folder, suffix, write, state):
    names = sorted(state)
    places = {n: f"model-0000{1 + i % 2}-of-00002{suffix}" for i, n in enumerate(names)}
    for part in set(places.values()):
        write({n: state[n] for n in names if places[n] == part}, folder / part)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    path = folder / f"model{suffix}.index.json"
    path.write_text(json.dumps(index))
    return path


@pytest.mark.parametrize(("suffix", "write"), [(".safetensors", save_file), (".bin", torch.save)])
def test_a_model_in_parts_is_read_whole(suffix, write, tmp_path):
    net, other = Net(), Net()
    index = shards(tmp_path, suffix, write, named(net))
    if suffix == ".bin":
        index = index.rename(tmp_path / "pytorch_model.bin.index.json")
    given = [index, tmp_path]
    if suffix == ".safetensors":
        given.append(tmp_path / "model-00002-of-00002.safetensors")
    for path in given:
        weights.load_strict(other, weights.load_checkpoint(path), path)
        assert weights.state_hash(other) == weights.state_hash(net)


def test_parts_that_lack_something_are_named(tmp_path):
    index = shards(tmp_path, ".safetensors", save_file, named(Net()))
    second = tmp_path / "model-00002-of-00002.safetensors"
    content = second.read_bytes()
    second.unlink()
    with pytest.raises(UserError, match="model-00002-of-00002.safetensors: no such file"):
        weights.load_checkpoint(index)
    second.write_bytes(content)
    index.unlink()
    with pytest.raises(UserError, match="one part of 2, without model.safetensors.index.json"):
        weights.load_checkpoint(second)
    with pytest.raises(UserError, match="holds none of model.safetensors"):
        weights.load_checkpoint(tmp_path)


@pytest.mark.parametrize("place", ["../model.safetensors", "/etc/passwd", "a/b.bin", 3])
def test_an_index_stays_in_its_folder(place, tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"weight": place}}))
    with pytest.raises(UserError, match="index"):
        weights.load_checkpoint(path)


@pytest.mark.parametrize("text", ["[]", "{", '{"weight_map": []}', '{"weight_map": 3}', "null"])
def test_a_damaged_index_is_named(text, tmp_path):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    with pytest.raises(UserError, match="not an index of weights"):
        weights.load_checkpoint(path)


def lora(state):
    return {f"base_model.model.{k}.lora_A.weight": torch.ones(2, 4) for k in ("a", "b")}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (lora({}), "LoRA adapters without their base"),
        ({**named(Net()), "blocks.0.weight": torch.ones(4, 4).char()[:2]}, "quantised"),
        (named(Net(steps=9)), "Its positions are 9 where this network has 5"),
        (named(Net(width=8)), "of another size: 8 channels where this network has 4"),
        (named(Net(depth=3)), r"It has 3 of blocks\.N where this network has 2"),
        (
            {"conv.weight": torch.ones(2), "conv.bias": torch.ones(2)},
            r"holds 2 tensors: conv \(2\)",
        ),
        ({"optimizer": OPTIMIZER, "epoch": 3}, "It holds"),
        ({"epoch": 3}, "It holds no tensors with names"),
    ],
)
def test_the_error_says_what_the_file_holds(state, words):
    with pytest.raises(UserError, match=words):
        weights.load_strict(Net(), state, "a.pt")
