import pytest
import torch

from evar.errors import UserError
from evar.model_adapters._vit import centred_positions
from evar.model_adapters.ssast import Ssast
from helpers.golden_cases import EXACT, Case, assert_steady, build, embedded, tiny

CASES = {variant: Case(f"ssast_base_{variant}") for variant in ("patch", "frame")}


@pytest.fixture(scope="module", params=CASES)
def case_and_model(request, tmp_path_factory):
    case = CASES[request.param]
    extras = {  # heads, of the image model and of the two pre-text tasks
        "module.v.head.weight": torch.ones(1000, 768),
        "module.v.head_dist.bias": torch.ones(1000),
        "module.mask_embed": torch.ones(1, 1, 256),
        "module.cpredlayer.0.weight": torch.ones(256, 768),
        "module.gpredlayer.2.bias": torch.ones(256),
    }
    folder = tmp_path_factory.mktemp("ssast")
    return case, build(Ssast, {**case.state(), **extras}, folder, variant=request.param)


def test_equals_the_original(case_and_model):
    case, model = case_and_model
    for seconds in case.seconds:
        audio = case.some_audio(seconds, 16000)
        clip, tokens = embedded(model, audio)
        assert list(tokens.shape[1:]) == case.outputs[f"frames_shape_{seconds}s"][1:].tolist()
        assert case.error(tokens[:, :4, ::4], f"frames_head_{seconds}s", len(audio)) <= EXACT
        assert case.error(clip, f"clip_{seconds}s", len(audio)) <= EXACT


@pytest.mark.parametrize("variant", CASES)
def test_filter_bank_equals_the_original(variant):
    case, model = CASES[variant], tiny(Ssast, variant=variant)
    mean, std = case.outputs["norm_stats"].tolist()
    bank = model.features(case.audio(1, 16000)).mT * 2 * std + mean  # the case has it before
    assert list(bank.shape) == case.outputs["features_shape_1s"].tolist()
    assert case.error(bank[:1, :40], "features_1s") <= EXACT


def test_positions_are_the_originals(case_and_model):
    case, model = case_and_model
    for seconds in case.seconds:
        tokens = int(case.outputs[f"frames_shape_{seconds}s"][1])
        positions = centred_positions(model.v.pos_embed, model.grid, tokens // model.grid[0])
        assert case.error(positions[0, :6, ::16], f"pos_embed_head_{seconds}s") <= EXACT
        expected = float(case.outputs[f"pos_embed_sum_{seconds}s"])
        assert float(positions.abs().sum()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("variant", CASES)
def test_steady(variant):
    assert_steady(tiny(Ssast, variant=variant))


@pytest.mark.parametrize(("variant", "steps"), [("patch", 6), ("frame", 49)])
def test_frames_are_steps_in_time(variant, steps):
    frames = tiny(Ssast, variant=variant).frames(torch.zeros(1, 16000))
    assert frames.shape == (1, steps, 24)


def test_the_other_variant_is_named(tmp_path):
    state = {f"module.{name}": value for name, value in tiny(Ssast).state_dict().items()}
    with pytest.raises(UserError, match=r"shape \(v\.patch_embed\.proj\.weight is \(24, 1, 16, 16"):
        build(Ssast, state, tmp_path, variant="frame", **Ssast.TINY)


def test_a_checkpoint_of_another_length_is_named(tmp_path):
    with pytest.raises(UserError, match="trained on 128 bands by 512 frames"):
        build(Ssast, {"module.p_input_tdim": torch.tensor(512)}, tmp_path, **Ssast.TINY)


def test_an_unknown_variant_is_refused():
    with pytest.raises(UserError, match="--variant=patches: it is patch or frame"):
        tiny(Ssast, variant="patches")
