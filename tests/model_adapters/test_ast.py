import pytest
import torch
from transformers import ASTConfig, ASTModel

from evar.errors import UserError
from evar.model_adapters.ast import Ast
from helpers import standin
from helpers.golden_cases import EXACT, Case, assert_steady, build, frozen, noise, tiny

CASE = Case("ast")
TINY_CONFIG = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


@pytest.fixture(scope="module")
def ast(tmp_path_factory):
    heads = {"module.mlp_head.0.weight": torch.ones(768), "module.v.head.bias": torch.ones(1000)}
    heads["module.v.head_dist.bias"] = torch.ones(1000)
    model = build(Ast, {**CASE.state(), **heads}, tmp_path_factory.mktemp("ast"))
    mean, std = CASE.outputs["norm_stats"].tolist()
    model.fitted({"mean": mean, "std": std})
    return model


@pytest.mark.parametrize("seconds", CASE.seconds)
def test_equals_the_original(ast, seconds):
    audio = CASE.some_audio(seconds, 16000)
    assert CASE.error(ast.embed(audio), f"clip_{seconds}s", len(audio)) <= EXACT
    times = int(CASE.outputs[f"tokens_{seconds}s"]) // 12
    positions = ast.positions(times)
    assert positions.shape[1] == 2 + 12 * times
    expected = CASE.outputs[f"pos_embed_sum_{seconds}s"]
    assert float(positions.double().abs().sum()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seconds", CASE.seconds)
def test_equals_the_original_on_padded_clips(ast, monkeypatch, seconds):
    monkeypatch.setattr(ast, "length", 1024)
    clip = ast.embed(CASE.audio(seconds, 16000)[:1])  # of two: a second of work each
    expected = CASE.outputs[f"clip_pad1024_{seconds}s"][:1]
    assert standin.relative_error(clip, expected) <= EXACT


def test_filter_bank_equals_the_original(ast):
    logmel = ast.logmel(CASE.audio(1, 16000)).mT
    assert list(logmel.shape) == CASE.outputs["features_shape_1s"].tolist()
    assert CASE.error(logmel[:, :40], "features_1s") <= EXACT


def test_statistics_are_the_tasks():
    model = tiny(Ast)
    assert model.fit_clips > 0
    audio = noise(4, 16000)
    model.fitted(model.fit(iter([audio])))
    features = model.features(audio)
    assert features.mean().abs() < 1e-4  # of what it was fitted to
    assert features.std().item() == pytest.approx(0.5, rel=1e-3)
    assert tiny(Ast, statistics="audioset").fit_clips == 0
    with pytest.raises(UserError, match="task or audioset"):
        tiny(Ast, statistics="imagenet")


def test_loads_a_transformers_folder(tmp_path):
    with torch.random.fork_rng():
        published = ASTModel(ASTConfig(**TINY_CONFIG))
        torch.nn.init.normal_(published.embeddings.position_embeddings)
    published.save_pretrained(tmp_path)
    model = frozen(Ast(tmp_path, frames=1024))
    audio = noise(2, 32000)
    with torch.inference_mode():
        expected = published.eval()(model.features(audio).mT).pooler_output
        torch.testing.assert_close(model.embed(audio), expected, rtol=1e-4, atol=1e-5)


def test_steady():
    assert_steady(tiny(Ast))
    assert_steady(tiny(Ast, frames=1024))


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"not a checkpoint of ASTModel: .*missing \(embeddings"):
        build(Ast, Case("ced_base").blank(), tmp_path, **Ast.TINY)


def test_fewer_frames_than_a_patch_are_refused():
    with pytest.raises(UserError, match="--frames=0: must be a whole number of 16"):
        tiny(Ast, frames=0)


def test_a_model_fine_tuned_on_shorter_clips_keeps_its_positions(tmp_path):
    """Speech Commands' model has positions for 128 frames, 12 steps of time."""
    config = ASTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_length=128,
        layer_norm_eps=1e-6,
    )
    torch.manual_seed(0)
    published = frozen(ASTModel(config))
    torch.save({f"module.{k}": v for k, v in published.state_dict().items()}, tmp_path / "a.pth")
    model = frozen(Ast(tmp_path / "a.pth", **Ast.TINY))
    features = torch.randn(2, 128, 128)
    expected = published(features.transpose(1, 2)).last_hidden_state
    torch.testing.assert_close(model.tokens(features), expected)
