"""ATST-Clip and ATST-Frame against what the originals compute with stand-in weights."""

import argparse

import numpy as np
import pytest
import torch

from evar import models
from evar.errors import UserError
from evar.model_adapters.atst import AtstClip, AtstFrame
from helpers.golden_cases import Blank, save
from helpers.standin import GOLDEN, audio, relative_error, state_dict

SECONDS = ("1", "5", "11")


def tensors(case):
    seed = int(np.load(GOLDEN / f"{case}.npz")["seed"])
    return {k: torch.from_numpy(np.asarray(v)) for k, v in state_dict(case, seed).items()}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    state = {f"module.backbone.{k}": v for k, v in tensors("atst_clip").items()}
    state["module.head.mlp.0.weight"] = torch.zeros(2, 2)
    path = tmp_path_factory.mktemp("weights") / "base.ckpt"
    save({"teacher": state, "student": {}, "args": argparse.Namespace(arch="base")}, path)
    with Blank():
        adapter = models.load("atst_clip", weights=path).adapter
    path.unlink()  # several hundred megabytes
    return adapter


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    state = {f"model.teacher.encoder.{k}": v for k, v in tensors("atst_frame").items()}
    state["model.student.encoder.norm_frame.weight"] = torch.zeros(768)
    path = tmp_path_factory.mktemp("weights") / "atstframe_base.ckpt"
    save({"state_dict": state, "hyper_parameters": {"patch_embed": "Linear"}}, path)
    with Blank():
        loaded = models.load("atst_frame", weights=path)
    adapter, config = loaded.adapter, loaded.config
    assert config.lr == 3e-5
    path.unlink()
    return adapter


@pytest.mark.parametrize("seconds", SECONDS)
def test_clip_is_the_original(clip, seconds):
    golden = np.load(GOLDEN / "atst_clip.npz")
    x = torch.from_numpy(audio(float(seconds), 16000))
    with torch.inference_mode():
        features = clip.features(x)
        tokens = clip.tokens(clip.chunks(features)[0])
        assert relative_error(clip.embed(x), golden[f"clip_{seconds}s"]) < 1e-4
    assert list(tokens.shape) == golden[f"frames_shape_{seconds}s"].tolist()
    assert relative_error(tokens[:, :3], golden[f"frames_head_{seconds}s"]) < 1e-4


@pytest.mark.parametrize("seconds", SECONDS)
def test_frame_is_the_original(frame, seconds):
    golden = np.load(GOLDEN / "atst_frame.npz")
    x = torch.from_numpy(audio(float(seconds), 16000))
    with torch.inference_mode():
        assert relative_error(frame.embed(x), golden[f"clip_{seconds}s"]) < 1e-4
        frames = frame.frames(x)
    # The case keeps the last block's part of the first two frames.
    assert relative_error(frames[:, :2, -768:], golden[f"frames_head_{seconds}s"]) < 1e-4
    assert list(frames.shape) == golden[f"frames_shape_{seconds}s"].tolist()
    assert len(frame.chunks(frame.features(x))) == int(golden[f"chunks_{seconds}s"])


@pytest.mark.parametrize("case", ["atst_clip", "atst_frame"])
def test_front_end_is_the_original(clip, frame, case):
    model = clip if case == "atst_clip" else frame
    golden = np.load(GOLDEN / f"{case}.npz")["features_1s"]
    ours = model.features(torch.from_numpy(audio(1, 16000)))
    assert relative_error(ours[:, None], golden) < 1e-4


def test_a_quiet_clip_beside_a_loud_one_is_as_it_is_alone():
    adapter = AtstFrame(**AtstFrame.TINY)
    x = torch.from_numpy(audio(1, 16000)) * torch.tensor([[1e-5], [1.0]])
    torch.testing.assert_close(adapter.features(x)[:1], adapter.features(x[:1]))


def test_clips_beyond_12_s_give_their_middle():
    adapter = AtstClip(**AtstClip.TINY).eval()
    x = torch.from_numpy(audio(14, 16000, batch=1))
    torch.testing.assert_close(adapter.embed(x), adapter.embed(x[:, 16000:-16000]))


def test_clip_in_a_lightning_file_is_the_same(tmp_path):
    source = AtstClip(**AtstClip.TINY).eval()
    state = {f"model.teacher.encoder.{k}": v for k, v in source.net.state_dict().items()}
    torch.save({"state_dict": state, "pytorch-lightning_version": "1"}, tmp_path / "x.ckpt")
    loaded = AtstClip(tmp_path / "x.ckpt", **AtstClip.TINY).eval()
    x = torch.from_numpy(audio(1, 16000))
    torch.testing.assert_close(loaded.embed(x), source.embed(x))


@pytest.mark.parametrize("cls", [AtstClip, AtstFrame])
def test_a_clip_alone_is_what_it_is_in_a_batch(cls):
    adapter = cls(**cls.TINY).eval()
    for seconds in (0.01, 2.5, 60):
        x = torch.from_numpy(audio(seconds, 16000)) * torch.tensor([[0.01], [1.0]])
        with torch.inference_mode():
            together = adapter.embed(x)
            assert relative_error(adapter.embed(x[:1]), together[:1]) < 1e-4


def test_the_other_checkpoint_is_named(tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save({"teacher": AtstFrame(**AtstFrame.TINY).net.state_dict()}, path)
    with pytest.raises(UserError, match="norm_frame"):
        AtstClip(path, **AtstClip.TINY)
