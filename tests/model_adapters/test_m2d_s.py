"""M2D-S, whose patches span all bands, against what the original computes."""

import shutil

import pytest
import torch

from evar import models
from evar.model_adapters.m2d import M2D
from helpers.golden_cases import EXACT, Blank, Case, save

PUBLISHED = {
    "m2d_s_400": ("m2d_s_vit_base-80x400p80x2", "-230201"),
    "m2d_s": ("m2d_s_vit_base-80x608p80x2", "-230220"),
}
EXTRAS = {  # of pre-training: the predictors, of targets of its own and of HuBERT's
    "mask_token": torch.ones(1, 1, 512),
    "decoder_embed.weight": torch.ones(2, 2),
    "target_norm.weight": torch.ones(2),
    "offline_predictor.weight": torch.ones(768, 768),
    "offline_predictor.bias": torch.ones(768),
}


@pytest.fixture(scope="module", params=PUBLISHED)
def case_and_model(request, tmp_path_factory):
    case = Case(PUBLISHED[request.param][0])
    folder = tmp_path_factory.mktemp("weights") / "".join(PUBLISHED[request.param])
    folder.mkdir()
    save({"model": {**case.state(), **EXTRAS}}, folder / "checkpoint-1000.pth")
    with Blank():
        adapter = models.load(request.param, weights=folder).adapter
    shutil.rmtree(folder)  # several hundred megabytes
    return case, adapter


def test_equals_the_original(case_and_model):
    case, model = case_and_model
    assert (model.embed_dim, model.frame_seconds) == (768, 0.02)
    for seconds in case.seconds:
        audio = case.some_audio(seconds, 16000)
        frames, count = model.frames(audio), len(audio)
        assert list(frames.shape[1:]) == case.outputs[f"frames_shape_{seconds}s"][1:].tolist()
        assert case.error(frames[:, :2], f"frames_head_{seconds}s", count) <= EXACT
        assert case.error(frames.mean(dim=1), f"clip_{seconds}s", count) <= EXACT


def test_log_mel_equals_the_original(case_and_model):
    case, model = case_and_model
    logmel = model.logmel(case.audio(1, 16000))
    assert list(logmel[:, None].shape) == case.outputs["logmel_shape_1s"].tolist()
    assert case.error(logmel[:, :, :40], "logmel_1s") <= EXACT


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_sizes_are_those_of_the_published_folder(name):
    config = models.config(name)
    assert config.weights.file == "".join(PUBLISHED[name])
    assert config.options == {"name": PUBLISHED[name][0]}
    model = M2D(**config.options, **M2D.TINY)
    assert model.backbone.patch_size == (80, 2)
    assert model.chunk == int(PUBLISHED[name][0].partition("x")[2].partition("p")[0])
