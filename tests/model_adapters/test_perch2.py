"""Perch 2.0's adapter on a small ONNX network with the published names and shapes."""

import sys

import numpy as np
import pytest
import torch

from evar.check import check
from evar.errors import UserError
from evar.model_adapters.perch2 import Perch2
from helpers.golden_cases import noise

pytest.importorskip("onnxruntime", reason="needs the optional package onnxruntime")
onnx = pytest.importorskip("onnx", reason="writes its network with the package onnx")

WIDTH = 6


@pytest.fixture
def network(tmp_path):
    """A window's 16 x 4 stretches of 2,500 samples, each with its own projection: (N, 16, 4, 6)."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).standard_normal((2500, WIDTH)).astype(np.float32) / 50
    shape = np.array([-1, 16, 4, 2500], dtype=np.int64)
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["inputs", "shape"], ["stretches"]),
            helper.make_node("MatMul", ["stretches", "weights"], ["spatial_embedding"]),
            helper.make_node(
                "ReduceMean", ["spatial_embedding", "axes"], ["embedding"], keepdims=0
            ),
        ],
        "perch",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["batch", 160_000])],
        [
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", WIDTH]),
            helper.make_tensor_value_info(
                "spatial_embedding", TensorProto.FLOAT, ["batch", 16, 4, WIDTH]
            ),
        ],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(shape, "shape"),
            numpy_helper.from_array(np.array([1, 2], dtype=np.int64), "axes"),
        ],
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    onnx.save(model, tmp_path / "perch_v2.onnx")
    return tmp_path / "perch_v2.onnx", torch.from_numpy(weights)


def test_windows_are_centred_and_brought_to_their_level(network):
    path, weights = network
    model = Perch2(path).eval()
    audio = noise(2, 160_000 + 40_000) + 0.2
    windows = torch.stack([audio[:, :160_000], torch.zeros(2, 160_000)], dim=1)
    windows[:, 1, :40_000] = audio[:, 160_000:]
    windows -= windows.mean(dim=2, keepdim=True)
    windows *= 0.25 / windows.abs().amax(dim=2, keepdim=True)
    expected = (windows.unflatten(2, (16, 4, 2500)) @ weights).mean(dim=3).flatten(1, 2)
    assert model.embed_dim == WIDTH
    assert model.frames(audio).shape == (2, 32, WIDTH)
    torch.testing.assert_close(model.frames(audio), expected)
    torch.testing.assert_close(model.embed(audio), expected.mean(dim=1))


def test_conforms(network):
    assert [str(finding) for finding in check(Perch2(network[0]).eval()) if not finding.ok] == []


def test_what_is_missing_is_named(network, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="none can be random"):
        Perch2()
    other = tmp_path / "other.onnx"
    other.write_bytes(b"no network")
    with pytest.raises(UserError, match=r"other\.onnx: not an ONNX file that can be run"):
        Perch2(other)
    model = onnx.load(network[0])
    del model.graph.output[1]
    onnx.save(model, other)
    with pytest.raises(UserError, match="an output spatial_embedding"):
        Perch2(other)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'evar\[perch\]'"):
        Perch2(network[0])
