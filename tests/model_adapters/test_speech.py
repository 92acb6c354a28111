import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCTC

from evar import models
from evar.check import check
from evar.errors import UserError
from evar.model_adapters.speech import Speech
from helpers import standin
from helpers.golden_cases import EXACT, frozen, tiny
from helpers.transformers_models import AUDIO, normalised, save

FAMILIES = ("wav2vec2", "hubert", "wavlm", "data2vec")


@pytest.mark.parametrize("architecture", FAMILIES)
def test_steady(architecture):
    model = tiny(Speech, architecture=architecture)
    assert [str(finding) for finding in check(model) if not finding.ok] == []
    assert model.frames(AUDIO).shape == (2, 49, 16)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_the_last_layer_is_the_output(tmp_path, norm):
    """Models with `do_stable_layer_norm` give a last hidden state that lacks the final norm."""
    changes = {"feat_extract_norm": norm, "do_stable_layer_norm": norm == "layer"}
    published = save(tmp_path, **changes)
    with torch.inference_mode():
        expected = published(normalised(AUDIO)).last_hidden_state.mean(dim=1)
    for layers in (None, -1, 2):
        model = frozen(Speech(tmp_path, layers=layers))
        assert standin.relative_error(model.embed(AUDIO), expected) <= EXACT


def test_layers_are_chosen_stacked_and_averaged(tmp_path):
    published = save(tmp_path)
    with torch.inference_mode():
        states = published(normalised(AUDIO), output_hidden_states=True).hidden_states
    clips = np.stack([state.mean(dim=1).numpy() for state in states])  # (3, B, D)

    def error(expected, **options):
        model = frozen(Speech(tmp_path, **options))
        assert model.embed_dim == expected.shape[1]
        return standin.relative_error(model.embed(AUDIO), expected)

    assert error(clips[1], layers=1) <= EXACT
    assert error(np.concatenate(clips[[0, 2]], axis=1), layers=(0, 2)) <= EXACT
    assert error(np.concatenate(clips[[2, 1]], axis=1), layers=[-1, 1]) <= EXACT
    assert error(clips[[0, 2]].mean(axis=0), layers=(0, 2), combine="mean") <= EXACT
    assert error(clips.mean(axis=0), layers="mean") <= EXACT
    assert error(np.concatenate(clips, axis=1), layers="all") <= EXACT


@pytest.mark.parametrize("layers", [3, -4, "last", (0, 7), (), 1.5])
def test_a_layer_that_does_not_exist_is_named(layers):
    with pytest.raises(UserError, match="layers 0 .before the first block. to 2"):
        tiny(Speech, layers=layers)


def test_loads_a_model_with_a_head(tmp_path):
    published = save(tmp_path, kind=AutoModelForCTC)
    model = Speech(tmp_path)
    ours = model.net.state_dict()
    assert all(torch.equal(ours[k], v) for k, v in published.wav2vec2.state_dict().items())


def test_what_differs_is_named(tmp_path):
    save(tmp_path / "hubert", "hubert")
    with pytest.raises(UserError, match="holds a hubert model, not wavlm"):
        Speech(tmp_path / "hubert", architecture="wavlm")
    with pytest.raises(UserError, match=r"must hold config.json"):
        Speech(tmp_path)
    with pytest.raises(UserError, match="known are wav2vec2, hubert"):
        Speech(architecture="whisper")
    with pytest.raises(UserError, match="stack or mean"):
        tiny(Speech, combine="sum")


def test_a_folder_that_lacks_weights_is_named(tmp_path):
    from safetensors.torch import load_file, save_file

    save(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["encoder.layers.1.final_layer_norm.bias"]
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"not a whole Wav2Vec2Model: 1 missing \(encoder.layers.1"):
        Speech(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("num_hidden_layers", 1, r"16 of layers too many \(encoder.layers.1"),
        ("num_hidden_layers", 3, r"16 missing \(encoder.layers.2"),
        ("intermediate_size", 8, r"6 of another shape \(encoder.layers.0.feed_forward"),
    ],
)
def test_a_configuration_of_another_model_is_named(key, value, problem, tmp_path):
    save(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {key: value}))
    with pytest.raises(UserError, match=f"not a whole Wav2Vec2Model: {problem}"):
        Speech(tmp_path)


def test_a_file_in_place_of_its_folder_is_named(tmp_path):
    save(tmp_path)
    with pytest.raises(UserError, match=r"safetensors: cannot be loaded .*the folder that it lies"):
        Speech(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", FAMILIES)
def test_configurations_name_their_architecture(name):
    assert models.config(name).options["architecture"] == name
