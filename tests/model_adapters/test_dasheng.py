import sys

import pytest
import torch

from evar import models
from evar.errors import UserError
from evar.model_adapters.dasheng import Dasheng
from helpers.golden_cases import EXACT, Case, assert_steady, build, tiny

CASE = Case("dasheng_base")


@pytest.fixture(scope="module")
def dasheng(tmp_path_factory):
    tables = {"front_end.0.mel_scale.fb": torch.zeros(257, 64)}
    content = {"model": {**CASE.state(), **tables}, "config": {"embed_dim": 768}}
    return build(Dasheng, content, tmp_path_factory.mktemp("dasheng"))


@pytest.mark.parametrize("seconds", CASE.seconds)
def test_equals_the_original(dasheng, seconds):
    features = dasheng.features(CASE.audio(seconds, 16000))
    frames = dasheng.encode(features)
    assert list(frames.shape) == CASE.outputs[f"frames_shape_{seconds}s"].tolist()
    assert CASE.error(frames[:, :2], f"frames_head_{seconds}s") <= EXACT
    assert CASE.error(frames[:, -1], f"frames_tail_{seconds}s") <= EXACT
    assert CASE.error(frames.mean(dim=1), f"clip_{seconds}s") <= EXACT
    if seconds == 1:
        assert CASE.error(features, "features_1s") <= EXACT


def test_loads_without_the_front_end(tmp_path):
    state = tiny(Dasheng).net.state_dict()
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    model = build(Dasheng, {"model": state}, tmp_path, **Dasheng.TINY)
    assert torch.equal(model.net.norm.weight, state["norm.weight"])


def test_steady():
    assert_steady(tiny(Dasheng))


def test_a_remainder_below_one_patch_adds_no_frame():
    model = tiny(Dasheng)
    features = model.features(torch.zeros(1, 1010 * 160))  # 1,011 frames: one chunk and three
    assert model.encode(features).shape[1] == 252


def test_another_size_is_named(tmp_path):
    with pytest.raises(UserError, match=r"not a checkpoint of Dasheng: .*of another shape"):
        build(Dasheng, {"model": CASE.blank()}, tmp_path, **{**Dasheng.TINY, "depth": 12})


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dasheng.pretrained.pretrained", None)
    with pytest.raises(UserError, match="pip install dasheng"):
        tiny(Dasheng)


@pytest.mark.parametrize(("size", "dim"), [("base", 768), ("06b", 1280), ("12b", 1536)])
def test_published_sizes(size, dim):
    assert models.config(f"dasheng_{size}").options["width"] == dim
