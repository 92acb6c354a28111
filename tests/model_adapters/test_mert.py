"""MERT in its published layout, against transformers' HubertModel."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import HubertConfig, HubertModel

from evar import models
from evar.errors import UserError
from evar.model_adapters.mert import Mert
from helpers import standin
from helpers.golden_cases import EXACT, frozen, noise

CONFIG = Mert.TINY["config"]


def publish(folder, normalises=True, **changes):
    """A folder as the hub has it, with code that must not run; returns the network in it."""
    torch.manual_seed(1)
    net = frozen(HubertModel(HubertConfig(**CONFIG)))
    names = {"original0": "weight_g", "original1": "weight_v"}
    state = {}
    for name, value in net.state_dict().items():
        for new, old in names.items():
            name = name.replace(f"parametrizations.weight.{new}", old)
        state[name] = value.clone()
    assert any(name.endswith("conv.weight_g") for name in state)
    save_file(state, folder / "model.safetensors")
    content = {**net.config.to_dict(), "model_type": "mert_model", "feature_extractor_cqt": False}
    content |= {"auto_map": {"AutoModel": "modeling_MERT.MERTModel"}, "attention_relax": 32.0}
    (folder / "config.json").write_text(json.dumps(content | changes))
    (folder / "modeling_MERT.py").write_text("raise SystemExit('this code was run')")
    front = {"do_normalize": normalises, "sampling_rate": 24000}
    (folder / "preprocessor_config.json").write_text(json.dumps(front))
    return net


@pytest.mark.parametrize("normalises", [True, False])
def test_equals_hubert(tmp_path, normalises):
    net = publish(tmp_path, normalises)
    audio = noise(2, 24000) + 0.05
    heard = audio
    if normalises:
        centred = audio - audio.mean(dim=1, keepdim=True)
        heard = centred / centred.square().mean(dim=1, keepdim=True).sqrt()
    states = net(heard, output_hidden_states=True).hidden_states
    model = frozen(Mert(tmp_path))
    assert (model.sample_rate, model.embed_dim) == (24000, 16)
    assert model.frames(audio).shape[1] == 74
    assert standin.relative_error(model.frames(audio), states[-1]) <= EXACT
    assert (
        standin.relative_error(frozen(Mert(tmp_path, layers=1)).frames(audio), states[1]) <= EXACT
    )


def test_what_hubert_cannot_compute_is_refused(tmp_path):
    publish(tmp_path, feature_extractor_cqt=True)
    with pytest.raises(UserError, match="a MERT with feature_extractor_cqt"):
        Mert(tmp_path)
    publish(tmp_path, model_type="wavlm")
    with pytest.raises(UserError, match="holds a wavlm model, not MERT"):
        Mert(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="Give the published folder"):
        Mert(tmp_path)


def test_published_sizes():
    assert models.config("mert").weights.file == "MERT-v1-95M"
    assert models.config("mert_330m").options["config"]["hidden_size"] == 1024
