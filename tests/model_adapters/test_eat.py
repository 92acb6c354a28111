"""EAT against what the original computes with stand-in weights."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from evar import models
from evar.errors import UserError
from evar.model_adapters._vit import sincos_positions
from evar.model_adapters.eat import Eat
from helpers.standin import GOLDEN, audio, relative_error, state_dict


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "eat_base.npz")


@pytest.fixture(scope="module")
def eat(tmp_path_factory, golden):
    state = state_dict("eat_base", int(golden["seed"]))
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file({k: torch.from_numpy(np.asarray(v)).contiguous() for k, v in state.items()}, path)
    adapter = models.load("eat", weights=path).adapter
    path.unlink()  # several hundred megabytes
    return adapter


@pytest.mark.parametrize("seconds", ["1", "5", "11"])
def test_embeddings_are_the_originals(eat, golden, seconds):
    x = torch.from_numpy(audio(float(seconds), 16000))
    with torch.inference_mode():
        tokens = eat.tokens(eat.features(x))
    assert list(tokens.shape) == golden[f"frames_shape_{seconds}s"].tolist()
    assert relative_error(tokens[:, :2], golden[f"frames_head_{seconds}s"]) < 1e-4
    assert relative_error(tokens.mean(1), golden[f"clip_{seconds}s"]) < 1e-4


def test_front_end_is_the_original(eat, golden):
    ours = eat.features(torch.from_numpy(audio(1, 16000))).transpose(1, 2)[:, :40]
    bank = ours * 2 * 4.569 - 4.268  # the case has it before standardisation
    assert relative_error(bank, golden["features_1s"]) < 1e-4


def test_positions_are_the_originals(eat, golden):
    assert eat.positions.shape == tuple(golden["pos_embed_shape"])
    small = sincos_positions(48, 768, 8)[0, 1:25]
    np.testing.assert_allclose(small, golden["pos_embed_sincos_head"], atol=1e-6)


def test_missing_tensors_are_named(tmp_path):
    state = {f"model.{k}": v for k, v in Eat(**Eat.TINY).model.state_dict().items()}
    del state["model.pre_norm.bias"]
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"missing \(pre_norm.bias\)"):
        Eat(tmp_path / "x.safetensors", **Eat.TINY)


def test_a_clip_alone_is_what_it_is_in_a_batch():
    adapter = Eat(**Eat.TINY).eval()
    for seconds in (0.01, 2.5, 60):
        x = torch.from_numpy(audio(seconds, 16000)) * torch.tensor([[0.01], [1.0]])
        with torch.inference_mode():
            together = adapter.embed(x)
            assert relative_error(adapter.embed(x[:1]), together[:1]) < 1e-4
