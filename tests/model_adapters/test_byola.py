import pytest
import torch

from evar.errors import UserError
from evar.model_adapters.byola import ByolA
from helpers.golden_cases import EXACT, Case, assert_steady, build, noise, tiny

CASES = {1: Case("byola_2048"), 2: Case("byola_v2")}


@pytest.fixture(scope="module", params=CASES)
def case_and_model(request, tmp_path_factory):
    case = CASES[request.param]
    counters = {
        name.replace("running_var", "num_batches_tracked"): torch.tensor(1000)
        for name in case.state()
        if name.endswith("running_var")
    }
    folder = tmp_path_factory.mktemp("byola")
    model = build(ByolA, {**case.state(), **counters}, folder, version=request.param)
    mean, std = case.outputs["norm_stats"].tolist()
    model.fitted({"mean": mean, "std": std})
    return case, model


@pytest.mark.parametrize("seconds", CASES[1].seconds)
def test_equals_the_original(case_and_model, seconds):
    case, model = case_and_model
    audio = case.audio(seconds, 16000)
    assert case.error(model.embed(audio), f"clip_{seconds}s") <= EXACT
    frames = model.frames(audio)
    assert list(frames.shape) == case.outputs[f"frames_shape_{seconds}s"].tolist()
    assert case.error(frames[:, :2], f"frames_head_{seconds}s") <= EXACT


def test_log_mel_equals_the_original(case_and_model):
    case, model = case_and_model
    assert case.error(model.logmel(case.audio(1, 16000)), "features_1s") <= EXACT


@pytest.mark.parametrize("version", CASES)
def test_loads_without_counters(version, tmp_path):
    state = CASES[version].state()
    model = build(ByolA, state, tmp_path, version=version)
    assert torch.equal(model.net.fc[3].weight, state["fc.3.weight"])


@pytest.mark.parametrize("version", CASES)
def test_steady(version):
    assert_steady(tiny(ByolA, version=version))


def test_statistics_are_those_of_all_training_clips():
    model = tiny(ByolA)
    audio = noise(4, 16000)
    statistics = model.fit([audio[:3], audio[3:]])
    values = model.logmel(audio).double()
    assert statistics["mean"] == pytest.approx(values.mean().item())
    assert statistics["std"] == pytest.approx(values.std().item(), rel=1e-4)
    model.fitted(statistics)
    assert model.features(audio).mean().item() == pytest.approx(0, abs=1e-4)
    assert model.features(audio).std().item() == pytest.approx(1, abs=1e-4)


def test_the_other_version_is_named(tmp_path):
    with pytest.raises(UserError, match=r"ByolANet: 6 missing \(features.8.bias.*fc.0.weight is"):
        build(ByolA, CASES[2].blank(), tmp_path, version=1)


def test_an_unknown_version_is_refused():
    with pytest.raises(UserError, match="no version 3; known: 1, 2"):
        ByolA(version=3)
