"""What the benchmarks of a GPU find out, as far as a CPU can show it."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from evar.pretrain.config import Config


@pytest.fixture(scope="module")
def attention():
    path = Path(__file__).parent.parent / "benchmarks/attention.py"
    spec = importlib.util.spec_from_file_location("attention_kernels", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_attentions_are_those_of_a_step(attention):
    found = {shape.name: shape for shape in attention.shapes(Config())}
    patches = Config().patches
    online, target = found["online"], found["target"]
    assert online.tokens + target.tokens == patches + 2  # a class token each
    assert online.trained
    assert not target.trained
    assert (found["embedding"].heads, found["embedding"].width) == (12, 64)


def test_the_kernel_that_is_chosen_is_named(attention):
    shape = attention.Shape("small", 2, 8, 16, False)
    once = attention.pass_of(shape, 2, torch.float32, "cpu")
    assert attention.chosen(once) == "flash_attention_for_cpu"
    with attention.sdpa_kernel([attention.SDPBackend.MATH]):
        assert attention.chosen(once) == "attention_math"


def test_a_kernel_that_refuses_a_shape_has_no_time(attention):
    once = attention.pass_of(attention.Shape("small", 2, 8, 16, True), 2, torch.float32, "cpu")
    found = attention._alone(once, "cpu", 1)
    assert "cudnn -" in found
    assert re.search(r"math \d+\.\d\d ms", found)
