import json

import numpy as np
import pytest
import torch

from evar.errors import UserError
from evar.model_adapters.mae_ast import MaeAst, sinusoids
from helpers import standin
from helpers.golden_cases import EXACT, Case, assert_steady, build, embedded, noise, tiny

CASES = {variant: Case(f"mae_ast_base_{variant}") for variant in ("patch", "frame")}
EXTRAS = {  # of pre-training, computed, or in no use
    "batch_norm.num_batches_tracked": torch.tensor(1000),
    "layer_norm.weight": torch.ones(128),
    "encoder_mask_emb": torch.ones(768),
    "decoder_mask_emb": torch.ones(768),
    "decoder.layers.0.fc1.weight": torch.ones(3, 3),
    "final_proj_reconstruction.weight": torch.ones(3, 3),
    "final_proj_classification.bias": torch.ones(3),
    "enc_sine_pos_embed.pe": torch.zeros(1, 9, 768),
    "dec_sine_pos_embed.pe": torch.zeros(1, 9, 768),
}


def settings(variant, **changes):
    path = standin.GOLDEN / f"{CASES[variant].name}.cfg.json"
    stored = json.loads(path.read_text())
    return {**stored, "model": {**stored["model"], **changes}}


@pytest.fixture(scope="module", params=CASES)
def variant_and_model(request, tmp_path_factory):
    variant = request.param
    content = {"cfg": settings(variant), "model": {**CASES[variant].state(), **EXTRAS}}
    return variant, build(MaeAst, content, tmp_path_factory.mktemp("mae"), variant=variant)


def test_equals_the_original(variant_and_model):
    variant, model = variant_and_model
    case = CASES[variant]
    for seconds in case.seconds:
        audio = case.some_audio(seconds, 16000)
        clip, tokens = embedded(model, audio)
        assert list(tokens.shape[1:]) == case.outputs[f"frames_shape_{seconds}s"][1:].tolist()
        assert case.error(tokens[:, :4, ::4], f"frames_head_{seconds}s", len(audio)) <= EXACT
        assert case.error(clip, f"clip_{seconds}s", len(audio)) <= EXACT
        if variant == "patch" and seconds == 1:
            stack = tokens.unflatten(1, (-1, 8)).flatten(2).mean(dim=1)
            assert case.error(stack, "clip_stack_1s") <= EXACT


@pytest.mark.parametrize("variant", CASES)
def test_norms_come_first_where_the_settings_say_so(variant, tmp_path):
    case = CASES[variant]
    content = {"cfg": settings(variant, layer_norm_first=True), "model": case.state()}
    model = build(MaeAst, content, tmp_path, variant=variant)
    assert case.error(model.embed(case.audio(1, 16000)), "clip_prenorm_1s") <= EXACT


def test_norms_come_where_the_option_says_if_the_file_says_nothing(tmp_path):
    state = fairseq_names(tiny(MaeAst))
    for given in (False, True):
        assert build(MaeAst, state, tmp_path, norm_first=given, **MaeAst.TINY).norm_first == given
    stored = {"cfg": {"model": {"layer_norm_first": False}}, "model": state}
    assert not build(MaeAst, stored, tmp_path, norm_first=True, **MaeAst.TINY).norm_first


def fairseq_names(model):
    state = {}
    for name, value in model.state_dict().items():
        for old, new in (("norm1", "self_attn_layer_norm"), ("norm2", "final_layer_norm")):
            name = name.replace(f".{old}.", f".{new}.")
        name = name.replace("linear1.", "fc1.").replace("linear2.", "fc2.")
        if ".in_proj_" in name:
            for part, third in zip("qkv", value.chunk(3), strict=True):
                state[name.replace(".in_proj_", f".{part}_proj.")] = third
        else:
            state[name] = value
    return state


@pytest.mark.parametrize("variant", CASES)
def test_front_end_equals_the_original(variant):
    case, model = CASES[variant], tiny(MaeAst, variant=variant)
    model.batch_norm.running_mean.fill_(-5.2)
    model.batch_norm.running_var.fill_(20.0)
    features = model.features(case.audio(1, 16000)).mT
    bank = features * 2 * (20 + 1e-5) ** 0.5 - 5.2  # the case has it before standardisation
    assert list(bank.shape) == case.outputs["features_shape_1s"].tolist()
    assert case.error(bank[:1, :40], "features_1s") <= EXACT


def test_statistics_are_not_trained():
    model = tiny(MaeAst).train()
    model.embed(noise(2, 16000))
    assert model.batch_norm.running_mean.tolist() == [0]


def test_positions_by_hand():
    ours = sinusoids(3, 4).numpy()
    expected = [[np.sin(t), np.cos(t), np.sin(t / 100), np.cos(t / 100)] for t in range(3)]
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_patches_by_hand():
    """Step by step in time, low bands first; inside a patch, frame by frame."""
    model = tiny(MaeAst)
    band, frame = torch.arange(128.0)[:, None], torch.arange(40.0)
    patches = model.patches((1000 * frame + band)[None])
    assert patches.shape == (1, 2 * 8, 256)  # eight frames fill no patch
    assert patches[0, 0, :17].tolist() == [*range(16), 1000]
    assert patches[0, 1, 0] == 16
    assert patches[0, 8, 0] == 16_000


@pytest.mark.parametrize("variant", CASES)
def test_steady(variant):
    assert_steady(tiny(MaeAst, variant=variant))


def test_a_missing_projection_is_named(tmp_path):
    state = fairseq_names(tiny(MaeAst))
    del state["encoder.layers.0.self_attn.k_proj.weight"]
    with pytest.raises(UserError, match=r"1 missing \(encoder.layers.0.self_attn.in_proj_weight\)"):
        build(MaeAst, state, tmp_path, **MaeAst.TINY)


def test_an_unknown_variant_is_refused():
    with pytest.raises(UserError, match="--variant=chunk: it is patch or frame"):
        tiny(MaeAst, variant="chunk")
