"""M2D, MSM-MAE and M2D-CLAP against what the originals compute with stand-in weights."""

import argparse

import numpy as np
import pytest
import torch
from standin import GOLDEN, audio, relative_error, state_dict

from evar import models
from evar.errors import UserError
from evar.model_adapters._vit import sincos_positions
from evar.model_adapters.m2d import M2D, M2DCLAP, Published

CLAP = "m2d_clap_vit_base-80x608p16x16"
MSM = "msm_mae_80x608"
TINY_CLAP = M2DCLAP.TINY


def write(folder, name, state, **beside):
    path = folder / name
    path.mkdir()
    torch.save({"model": state, **beside}, path / "checkpoint-300.pth")
    return path


def tensors(case):
    seed = int(np.load(GOLDEN / f"{case}.npz")["seed"])
    return {k: torch.from_numpy(np.asarray(v)) for k, v in state_dict(case, seed).items()}


@pytest.fixture(scope="module")
def golden_clap():
    return np.load(GOLDEN / f"{CLAP}.npz")


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    """Loaded from a full training checkpoint: predictor, target network and arguments beside."""
    state = tensors(CLAP)
    state |= {"mask_token": torch.zeros(1, 1, 768), "logit_scale": torch.tensor(2.6)}
    state |= {"decoder_embed.weight": torch.zeros(2, 2), "target_norm.weight": torch.zeros(2)}
    folder = tmp_path_factory.mktemp("weights")
    path = write(folder, f"{CLAP}-240128", state, args=argparse.Namespace(lr=1), epoch=300)
    adapter, config = models.load("m2d_clap", weights=path)
    assert config.lr == 3e-5
    return adapter


@pytest.mark.parametrize("seconds", ["1", "2.5", "6.08", "10", "14.3"])
def test_clap_embeddings_are_the_originals(clap, golden_clap, seconds):
    x = torch.from_numpy(audio(float(seconds), 16000))
    with torch.inference_mode():
        tokens = clap.tokens(clap.features(x))
        stack = tokens.transpose(1, 2).flatten(2)
        assert relative_error(stack.mean(1), golden_clap[f"clip_stack_{seconds}s"]) < 1e-4
        assert list(stack.shape) == golden_clap[f"frames_shape_stack_{seconds}s"].tolist()
        assert relative_error(tokens.mean((1, 2)), golden_clap[f"clip_flat_{seconds}s"]) < 1e-4
        joint = clap.audio_proj(tokens.mean((1, 2)))
        assert relative_error(joint, golden_clap[f"clap_audio_{seconds}s"]) < 1e-4


def test_embed_is_the_stack_and_the_front_end_the_originals(clap, golden_clap):
    x = torch.from_numpy(audio(1, 16000))
    with torch.inference_mode():
        assert relative_error(clap.logmel(x)[:, None], golden_clap["logmel_1s"]) < 1e-4
        assert relative_error(clap.embed(x), golden_clap["clip_stack_1s"]) < 1e-4
        assert relative_error(clap.embed_joint(x), golden_clap["clap_audio_1s"]) < 1e-4
    assert (clap.embed_dim, clap.joint_dim) == (3840, 768)


def test_msm_mae_embeddings_are_the_originals(tmp_path):
    golden = np.load(GOLDEN / f"{MSM}.npz")
    state = tensors(MSM)
    path = write(tmp_path, "msm_mae_vit_base-80x608p16x16-220924-mr75", state)
    adapter, _ = models.load("msm_mae", weights=path)
    with torch.inference_mode():
        for seconds in ("1", "5", "11"):
            x = torch.from_numpy(audio(float(seconds), 16000))
            frames = adapter.frames(x)
            assert relative_error(frames.mean(1), golden[f"clip_{seconds}s"]) < 1e-4
            assert relative_error(frames[:, :2], golden[f"frames_head_{seconds}s"]) < 1e-4


def test_positions_are_the_originals():
    golden = np.load(GOLDEN / f"{MSM}.npz")["pos_embed_sincos_head"]  # of a width of 24
    np.testing.assert_allclose(sincos_positions(24, 5, 38)[0, :40], golden, atol=1e-6)


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return M2DCLAP(**TINY_CLAP).eval()


def tiny_state(adapter):
    projector = adapter.audio_proj.state_dict()
    return {
        **adapter.backbone.state_dict(),
        **{f"audio_proj.{name}": value for name, value in projector.items()},
    }


def test_statistics_of_the_checkpoint_count(tiny, tmp_path):
    state = tiny_state(tiny) | {"norm_stats": torch.tensor([-5.0, 2.0])}
    path = write(tmp_path, "m2d_clap_vit_x-80x608p16x16-1", state)
    loaded = M2DCLAP(path, **TINY_CLAP)
    x = torch.from_numpy(audio(1, 16000))
    torch.testing.assert_close(loaded.features(x), (tiny.logmel(x) + 5) / 2)


def test_fine_tuned_and_encoder_only_layouts_load(tiny, tmp_path):
    encoder = tiny.backbone.state_dict()
    tuned = {f"module.ar.runtime.backbone.{k}": v for k, v in encoder.items()}
    tuned["module.head.norm.running_mean"] = torch.zeros(3)
    x = torch.from_numpy(audio(1, 16000))
    expected = tiny.embed(x)
    for name, state in (("tuned", tuned), ("enconly", encoder)):
        path = write(tmp_path, f"m2d_vit_x-80x608p16x16-{name}", state)
        torch.testing.assert_close(M2D(path, **M2D.TINY).eval().embed(x), expected)


def test_the_last_epoch_of_a_folder_is_taken(tiny, tmp_path):
    path = write(tmp_path, "m2d_vit_x-80x608p16x16-1", {"wrong": torch.zeros(1)})
    (path / "checkpoint-300.pth").rename(path / "checkpoint-99.pth")
    torch.save({"model": tiny.backbone.state_dict()}, path / "checkpoint-300.pth")
    M2D(path, **M2D.TINY)


def test_another_models_checkpoint_is_named(tiny, tmp_path):
    state = tiny_state(tiny)
    del state["blocks.0.norm1.weight"]
    state["blocks.9.norm1.weight"] = torch.zeros(24)
    path = write(tmp_path, "m2d_clap_vit_x-80x608p16x16-1", state)
    with pytest.raises(UserError, match=r"1 missing \(blocks.0.norm1.weight\).*blocks.9"):
        M2DCLAP(path, **TINY_CLAP)
    plain = write(tmp_path, "m2d_vit_x-80x608p16x16-1", tiny.backbone.state_dict())
    with pytest.raises(UserError, match="missing"):
        M2DCLAP(plain, **TINY_CLAP)


def test_projector_of_2025_is_refused_by_name(tiny, tmp_path):
    state = tiny_state(tiny) | {"audio_proj.sem_token": torch.zeros(1, 1, 24)}
    path = write(tmp_path, "m2d_clap_vit_x-80x608p16x16-1", state)
    with pytest.raises(UserError, match="2025"):
        M2DCLAP(path, **TINY_CLAP)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("m2d_vit_base-80x608p16x16-221006-mr7", ((80, 608), (16, 16), 16000)),
        ("m2d_vit_base-80x608p16x16p32k-240413-mr7", ((80, 608), (16, 16), 32000)),
        ("m2d_clap_vit_base-80x1001p16x16p16kpA-x", ((80, 1001), (16, 16), 16000)),
        ("m2d_clap_vit_base-80x1001p16x16p16kpBpTI-x", ((80, 1001), (16, 16), 16000)),
        ("m2d_vit_base-80x200p16x4-221006", ((80, 200), (16, 4), 16000)),
    ],
)
def test_folder_names_tell_the_size(name, expected):
    got = Published.parse(name)
    assert (got.input_size, got.patch_size, got.sample_rate) == expected


@pytest.mark.parametrize("name", ["checkpoints", "m2d_vit_base-80x608p16x16p48k-x"])
def test_other_folder_names_are_refused(name):
    with pytest.raises(UserError, match=name):
        Published.parse(name)


def test_32_khz_has_the_same_frames_a_second():
    adapter = M2D(name="m2d_vit_base-80x608p16x16p32k", **M2D.TINY)
    assert adapter.sample_rate == 32000
    assert adapter.features(torch.zeros(1, 32000)).shape == (1, 80, 101)


def test_longer_input_interpolates_positions_in_time(tiny):
    longer = tiny.backbone.positions(76)
    assert longer.shape == (1, 5 * 76, 24)
    torch.testing.assert_close(longer[0, 0], tiny.backbone.pos_embed[0, 1])
    torch.testing.assert_close(tiny.backbone.positions(7)[0, 7], tiny.backbone.pos_embed[0, 1 + 38])


def test_captions_are_averaged_over_their_tokens(tiny, tmp_path):
    from golden_cases import write_tokenizer
    from transformers import BertConfig, BertModel

    write_tokenizer(tmp_path, "bert")
    bert = BertModel(
        BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    ).eval()
    bert.save_pretrained(tmp_path)
    adapter = M2DCLAP(text_encoder=str(tmp_path), **TINY_CLAP)
    with torch.inference_mode():
        together = adapter.embed_text(["a dog", "the rain can be heard"])
        alone = adapter.embed_text(["a dog"])
        tokenizer = adapter.sentences._parts[1]
        by_hand = bert(**tokenizer(["a dog"], return_tensors="pt")).last_hidden_state.mean(1)
    torch.testing.assert_close(together[:1], alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone, by_hand, atol=1e-5, rtol=1e-4)


def test_no_sentence_encoder_is_said(tmp_path):
    adapter = M2DCLAP(text_encoder=str(tmp_path / "none"), **TINY_CLAP)
    with pytest.raises(UserError, match="--text_encoder"):
        adapter.embed_text(["a dog"])
