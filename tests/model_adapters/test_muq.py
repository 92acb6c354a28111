"""MuQ against the parts of the package muq."""

import json
import sys

import pytest
import torch
from safetensors.torch import save_file

from evar.errors import UserError
from evar.model_adapters.muq import Muq
from helpers import standin
from helpers.golden_cases import EXACT, frozen, noise

CONFIG = {
    **Muq.TINY["config"],
    "stat": {"melspec_2048_mean": -5.0, "melspec_2048_std": 12.0},
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    muq_model = pytest.importorskip("muq.muq.models.muq_model", reason="needs the package muq")
    from transformers import Wav2Vec2ConformerConfig

    folder = tmp_path_factory.mktemp("muq")
    usual = Wav2Vec2ConformerConfig().to_dict() | {"_attn_implementation": "eager"}
    usual = {k: v for k, v in usual.items() if not isinstance(v, dict)}
    torch.manual_seed(0)
    net = muq_model.MuQModel(
        **{**CONFIG, "w2v2_config": {**usual, **CONFIG["w2v2_config"]}},
    )
    state = {f"model.{name}": value.contiguous() for name, value in net.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder, frozen(net)


def test_equals_the_package(published):
    folder, net = published
    model = frozen(Muq(folder))
    audio = noise(2, 48000)
    features = net.normalize(net.preprocessing(audio, features=["melspec_2048"]))["melspec_2048"]
    assert standin.relative_error(model.features(audio), features) <= EXACT
    expected = net.conformer(net.conv(features)).last_hidden_state
    assert model.frames(audio).shape == (2, 50, 16)
    assert standin.relative_error(model.frames(audio), expected) <= EXACT
    assert frozen(Muq(folder, layers="all")).embed_dim == 48
    first = frozen(Muq(folder, layers=-1))
    assert standin.relative_error(first.frames(audio), expected) <= EXACT


def test_what_is_missing_is_named(published, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="not a configuration of MuQ"):
        Muq(tmp_path)
    monkeypatch.setitem(sys.modules, "muq.muq.models.muq_model", None)
    with pytest.raises(UserError, match="pip install muq"):
        Muq(**Muq.TINY)
