"""One training step against what the original computes with stand-in weights."""

import dataclasses

import numpy as np
import pytest
import torch

from evar.parallel import SINGLE_PROCESS
from evar.pretrain.config import Config
from evar.pretrain.model import Pretrainer, shuffle
from evar.pretrain.step import Share, backward
from helpers import standin
from helpers.small import CONFIG

EXACT = 1e-4
TINY = {
    "input_size": (80, 208),
    "width": 96,
    "depth": 2,
    "heads": 3,
    "predictor_width": 64,
    "predictor_depth": 2,
    "predictor_heads": 4,
}


@pytest.fixture(scope="module", params=["tiny", "base"])
def step(request):
    """A golden case after one backward pass: case, model, losses."""
    name = f"m2d_clap_pretrain_{request.param}"
    case = dict(np.load(standin.GOLDEN / f"{name}.npz"))
    config = Config(gather="with_grad", **(TINY if request.param == "tiny" else {}))
    model = Pretrainer(config, text_dim=case["text_emb"].shape[1])
    state = standin.state_dict(name, int(case.get("seed", 0)))
    found = model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=False)
    assert sorted(found.missing_keys) == ["decoder_pos_embed", "pos_embed"]
    assert not found.unexpected_keys, "names are those of published checkpoints"
    share = Share(
        torch.from_numpy(case["spec"])[:, 0],
        torch.from_numpy(case["ids_shuffle"]),
        int(case["len_keep"]),
        torch.from_numpy(case["text_emb"]),
        torch.ones(len(case["spec"]), dtype=torch.bool),
    )
    return case, model, share, backward(model, model, share, config, SINGLE_PROCESS, mixed=False)


def test_losses_are_the_originals(step):
    case, _, _, found = step
    assert float(found.masked) == pytest.approx(float(case["loss_m2d"]), rel=EXACT)
    assert float(found.clap) == pytest.approx(float(case["loss_clap"]), rel=EXACT)
    assert float(found.total) == pytest.approx(float(case["loss"]), rel=EXACT)


def test_the_gradient_of_every_parameter_is_the_originals(step):
    case, model, _, _ = step
    own = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert sorted(own) == sorted(case["grad_names"]), "and no other has one"
    for name, norm in zip(case["grad_names"], case["grad_norms"], strict=True):
        assert float(own[name].norm()) == pytest.approx(float(norm), rel=EXACT), name


def test_predictions_are_the_originals(step):
    case, model, share, _ = step
    with torch.no_grad():
        predicted, _, _ = model(share.spectrogram[:1], share.shuffled[:1], share.kept)
    rows = case["pred_first"]
    assert standin.relative_error(predicted[0, : len(rows)], rows) < EXACT


def test_positions_are_the_originals(step):
    case, model, _, _ = step
    head = case["pos_embed_head"]
    own = model.pos_embed[0, : head.shape[0], : head.shape[1]]
    assert standin.relative_error(own, head) < EXACT
    assert float(model.pos_embed.double().abs().sum()) == pytest.approx(
        float(case["pos_embed_sum"]), rel=EXACT
    )


def test_the_moving_average_is_the_originals(step):
    case, model, _, _ = step
    with torch.no_grad():
        for block in model.blocks.parameters():
            block += 0.01
    model.update_target(float(case["ema_decay"]))
    rows = case["ema_target_qkv0"]
    own = model.target_blocks[0].attn.qkv.weight[: len(rows)]
    assert standin.relative_error(own.detach(), rows) < EXACT


def test_the_target_starts_as_the_encoder_and_gets_no_gradient():
    model = Pretrainer(CONFIG, text_dim=10)
    for target, online in model.target_pairs():
        assert torch.equal(target, online)
        assert not target.requires_grad


def test_a_share_of_the_patches_is_visible():
    noise = torch.rand(3, 190)
    order, kept = shuffle(noise, 0.7)
    assert kept == 57
    assert order.sort(dim=1).values.tolist() == [list(range(190))] * 3
    assert shuffle(torch.rand(1, 65), 0.75)[1] == 16


def test_masked_patches_change_nothing_that_the_encoder_gives():
    config = dataclasses.replace(CONFIG, objective="m2d", mask_ratio=0.5)
    model = Pretrainer(config).eval()
    order, kept = shuffle(torch.rand(1, config.patches), 0.5)
    spectrogram = torch.randn(1, 80, 64)
    other = spectrogram.clone()
    row, column = divmod(int(order[0, -1]), 4)
    other[:, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16] += 1
    with torch.no_grad():
        a, b = (model(x, order, kept) for x in (spectrogram, other))
    assert torch.equal(a[2], b[2]), "visible patches as encoded"
    assert torch.equal(a[0], b[0]), "predictions"
    assert not torch.equal(a[1], b[1]), "targets"


def test_pixels_of_a_patch_are_standardised():
    config = dataclasses.replace(CONFIG, objective="msm_mae")
    model = Pretrainer(config)
    spectrogram = torch.arange(80 * 64.0).view(1, 80, 64)
    pixels = model.pixels(spectrogram, torch.tensor([[5]]))  # second row, second column
    patch = spectrogram[0, 16:32, 16:32].flatten()
    expected = (patch - patch.mean()) / patch.std()
    torch.testing.assert_close(pixels[0, 0], expected, rtol=1e-4, atol=1e-5)
    assert model.decoder_pred.out_features == 256
    assert not any(name.startswith("target_") for name, _ in model.named_parameters())
