"""EAT and SSLAM against what the originals compute with stand-in weights."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from evar import models
from evar.errors import UserError
from evar.model_adapters._vit import sincos_positions
from evar.model_adapters.eat import Eat
from helpers.golden_cases import EXACT, Blank, Case, build
from helpers.standin import GOLDEN, audio, relative_error, state_dict

SSLAM = Case("sslam_base")
FAIRSEQ = {  # what the authors' own files hold apart from the encoder
    "modality_encoders.IMAGE.fixed_positional_encoder.positions": torch.zeros(1, 9, 768),
    "modality_encoders.IMAGE.decoder.blocks.0.0.weight": torch.ones(2, 2),
    "modality_encoders.IMAGE.decoder.proj.bias": torch.ones(2),
    "cls_proj.weight": torch.ones(768, 768),
    "recon_proj.bias": torch.ones(256),
    "center": torch.ones(1, 1, 768),
}


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "eat_base.npz")


@pytest.fixture(scope="module")
def eat(tmp_path_factory, golden):
    state = state_dict("eat_base", int(golden["seed"]))
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file({k: torch.from_numpy(np.asarray(v)).contiguous() for k, v in state.items()}, path)
    with Blank():
        adapter = models.load("eat", weights=path).adapter
    path.unlink()  # several hundred megabytes
    return adapter


@pytest.mark.parametrize("seconds", ["1", "5", "11"])
def test_embeddings_are_the_originals(eat, golden, seconds):
    count = 2 if seconds == "1" else 1  # of two: the longer ones take a second each
    x = torch.from_numpy(audio(float(seconds), 16000))[:count]
    with torch.inference_mode():
        tokens = eat.tokens(eat.features(x))
    assert list(tokens.shape[1:]) == golden[f"frames_shape_{seconds}s"][1:].tolist()
    assert relative_error(tokens[:, :2], golden[f"frames_head_{seconds}s"][:count]) < 1e-4
    assert relative_error(tokens.mean(1), golden[f"clip_{seconds}s"][:count]) < 1e-4


@pytest.fixture(scope="module")
def sslam(tmp_path_factory):
    """Loaded from the authors' own (fairseq) layout, with the teacher and the losses."""
    state = {**SSLAM.state(), **FAIRSEQ}
    content = {"cfg": {"model": {"depth": 12}}, "args": None, "model": {**state, "_ema": {"a": 1}}}
    return build(Eat, content, tmp_path_factory.mktemp("sslam"))


def test_sslam_is_the_original(sslam):
    for seconds in SSLAM.seconds:
        x = SSLAM.some_audio(seconds, 16000)
        with torch.inference_mode():
            tokens = sslam.tokens(sslam.features(x))
        assert list(tokens.shape[1:]) == SSLAM.outputs[f"frames_shape_{seconds}s"][1:].tolist()
        for name, ours in (
            ("frames_head", tokens[:, :3, ::4]),
            ("clip", tokens.mean(1)),
            ("clip_cls", tokens[:, 0]),
            ("clip_patches", tokens[:, 1:].mean(1)),
        ):
            assert SSLAM.error(ours, f"{name}_{seconds}s", len(x)) <= EXACT, name


@pytest.mark.parametrize("kind", ["pre-trained", "fine-tuned"])
def test_the_authors_own_layout_holds_the_same_tensors(kind, tmp_path):
    """Small: that a network of full size in this layout is the original is SSLAM's case above."""
    adapter = Eat(**Eat.TINY)
    state = dict(FAIRSEQ)
    for name, value in adapter.model.state_dict().items():
        if not name.startswith("blocks."):
            name = name.replace("pre_norm", "context_encoder.norm")
            name = f"modality_encoders.IMAGE.{name}"
        state[name] = value
    if kind == "fine-tuned":
        state = {f"model.{name}": value for name, value in state.items()}
        state |= {"head.weight": torch.ones(527, 16), "head.bias": torch.ones(527)}
    loaded = build(Eat, {"cfg": {}, "model": state}, tmp_path, **Eat.TINY)
    audio_1s = torch.from_numpy(audio(1, 16000))
    with torch.inference_mode():
        assert torch.equal(loaded.embed(audio_1s), adapter.eval().embed(audio_1s))
    assert all(
        torch.equal(value, loaded.model.state_dict()[name])
        for name, value in adapter.model.state_dict().items()
    )


def test_sslam_in_the_hubs_layout_loads(tmp_path):
    state = {f"model.{k}": v for k, v in Eat(**Eat.TINY).model.state_dict().items()}
    save_file(state, tmp_path / "x.safetensors")
    loaded = models.load("sslam", weights=tmp_path / "x.safetensors", **Eat.TINY)
    own = loaded.adapter.model.state_dict()
    assert torch.equal(own["pre_norm.bias"], state["model.pre_norm.bias"])
    assert loaded.config.adapter == "eat:Eat"


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
    for seconds in (0.01, 2.5, 31):
        x = torch.from_numpy(audio(seconds, 16000)) * torch.tensor([[0.01], [1.0]])
        with torch.inference_mode():
            together = adapter.embed(x)
            assert relative_error(adapter.embed(x[:1]), together[:1]) < 1e-4
