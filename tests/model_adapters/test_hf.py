import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModel, Wav2Vec2FeatureExtractor

from evar import models
from evar.check import check
from evar.errors import UserError
from evar.model_adapters.hf import HfModel
from evar.model_adapters.whisper import Whisper
from helpers import standin
from helpers.golden_cases import EXACT, frozen, noise
from helpers.transformers_models import AUDIO, WHISPER, normalised, save

BLOCKS = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
HTSAT = {
    "patch_embeds_hidden_size": 24,
    "hidden_size": 192,
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 4, 8],
    "enable_fusion": True,
}
TEXT = {**BLOCKS, "vocab_size": 50}


def write(folder, config, extractor):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        AutoModel.from_config(config).save_pretrained(folder)
    extractor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wav2vec2")
    save(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def ast(tmp_path_factory):
    config = transformers.ASTConfig(**BLOCKS, max_length=200)
    extractor = transformers.ASTFeatureExtractor(max_length=200)
    return write(tmp_path_factory.mktemp("ast"), config, extractor)


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    config = transformers.ClapConfig(audio_config=HTSAT, text_config=TEXT)
    extractor = transformers.ClapFeatureExtractor(truncation="fusion")
    return write(tmp_path_factory.mktemp("clap"), config, extractor)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    config = transformers.WhisperConfig(**WHISPER)
    extractor = transformers.WhisperFeatureExtractor(feature_size=8)
    return write(tmp_path_factory.mktemp("whisper"), config, extractor)


def test_equals_transformers(wav2vec2):
    model = frozen(HfModel(wav2vec2))
    with torch.inference_mode():
        expected = AutoModel.from_pretrained(wav2vec2).eval()(normalised(AUDIO)).last_hidden_state
    assert (model.sample_rate, model.embed_dim) == (16000, 16)
    assert standin.relative_error(model.frames(AUDIO), expected) <= EXACT
    assert standin.relative_error(model.embed(AUDIO), expected.mean(dim=1)) <= EXACT
    assert frozen(HfModel(wav2vec2, layers="all")).embed(AUDIO).shape == (2, 48)


def test_equals_the_whisper_adapter(whisper):
    """Windows of 30 s, the encoder alone, and frames that answer to padding cut off."""
    ours, named = frozen(HfModel(whisper)), frozen(Whisper(Path(whisper)))
    for seconds in (0.02, 2.5, 35):
        audio = noise(2, int(16000 * seconds))
        frames = ours.frames(audio)
        assert frames.shape == (2, seconds * 50, 16)
        assert standin.relative_error(frames, named.frames(audio)) <= EXACT


@pytest.mark.parametrize("kind", ["wav2vec2", "ast", "clap", "whisper"])
def test_steady(kind, request):
    model = frozen(HfModel(request.getfixturevalue(kind)))
    assert [str(finding) for finding in check(model) if not finding.ok] == []


def test_longer_clips_are_taken_in_windows(ast):
    model = frozen(HfModel(ast))
    assert model.window == 400 + 199 * 160
    audio = noise(1, 2 * model.window)
    expected = (model.embed(audio[:, : model.window]) + model.embed(audio[:, model.window :])) / 2
    torch.testing.assert_close(model.embed(audio), expected)
    assert HfModel(ast, seconds=0.5).window == 8000
    with pytest.raises(UserError, match="--seconds=0: it is a number of 0.1 or more"):
        HfModel(ast, seconds=0)


def test_pooler(ast, wav2vec2):
    model = frozen(HfModel(ast, pooling="pooler"))
    output, _ = model._output(AUDIO, False)
    torch.testing.assert_close(model.embed(AUDIO), output.pooler_output)
    with pytest.raises(UserError, match="Wav2Vec2Model has no pooler"):
        HfModel(wav2vec2, pooling="pooler")
    with pytest.raises(UserError, match="mean or pooler"):
        HfModel(ast, pooling="max")


def test_layers_of_different_shapes_are_refused(clap):
    with pytest.raises(UserError, match="differ in shape"):
        HfModel(clap, layers="mean")


def test_folders_that_cannot_be_used_are_named(tmp_path, wav2vec2):
    with pytest.raises(UserError, match="hf download nobody/nothing"):
        HfModel("nobody/nothing")
    with pytest.raises(UserError, match="It must hold config.json"):
        HfModel(str(tmp_path))


def test_code_in_a_folder_is_not_run(tmp_path):
    (tmp_path / "model.py").write_text("raise SystemExit('this code was run')")
    (tmp_path / "config.json").write_text(
        '{"model_type": "new", "auto_map": {"AutoConfig": "model.C", "AutoModel": "model.M", '
        '"AutoFeatureExtractor": "model.F"}}'
    )
    (tmp_path / "preprocessor_config.json").write_text(
        '{"feature_extractor_type": "New", "auto_map": {"AutoFeatureExtractor": "model.F"}}'
    )
    with pytest.raises(UserError, match="cannot be loaded"):
        HfModel(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [("preprocessor_config.json", "do_normalize", False), ("config.json", "layer_norm_eps", 0.1)],
)
def test_settings_beside_the_weights_are_part_of_the_model(file, key, value, wav2vec2, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(wav2vec2, folder)
    identity = models.load(f"hf:{folder}").identity
    assert identity["weights"] == models.load(f"hf:{wav2vec2}").identity["weights"]
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | {key: value}))
    assert models.load(f"hf:{folder}").identity["weights"] != identity["weights"]


def test_named_by_its_prefix(wav2vec2):
    loaded = models.load(f"hf:{wav2vec2}", layers=1)
    adapter, config = loaded.adapter, loaded.config
    assert isinstance(adapter, HfModel)
    assert adapter.layers == [1]
    assert config.name == f"hf:{wav2vec2}"


@pytest.mark.parametrize("folder", ["wav2vec2", "ast", "clap", "whisper"])
def test_can_be_trained_after_it_was_evaluated(folder, request):
    model = HfModel(request.getfixturevalue(folder))
    with torch.inference_mode():
        model.eval().embed(AUDIO)
    layers = model.layer_parameters()
    model.train().embed(AUDIO).square().sum().backward()
    moved = {p for p in model.parameters() if p.grad is not None}
    assert len(layers) > 2
    assert moved <= {p for layer in layers for p in layer}
    assert all(p.grad.isfinite().all() for p in moved)


def test_chance_in_training_is_that_of_torch_alone(wav2vec2):
    """No masks of transformers' own, which would ask NumPy's generator, and no layers left out."""
    model = HfModel(wav2vec2).train()

    def embedded(seed):
        torch.manual_seed(seed)
        return model.embed(AUDIO)

    assert not torch.equal(embedded(0), embedded(1)), "dropout is part of training"
    assert torch.equal(embedded(0), embedded(0))
    assert model.net.config.layerdrop == 0
