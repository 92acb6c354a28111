"""Losses on cases worked by hand."""

import math

import pytest
import torch

from evar.pretrain import losses


def test_masked_prediction_is_0_for_the_direction_of_the_standardised_target():
    target = torch.tensor([[[1.0, 2.0, 3.0, 6.0]]])
    standard = (target - 3.0) / math.sqrt(14 / 3 + 1e-6)  # squares 4, 1, 0, 9 over n - 1
    for scale, expected in ((5.0, 0.0), (-2.0, 4.0)):
        loss = losses.masked_prediction(scale * standard, target)
        assert float(loss) == pytest.approx(expected, abs=1e-6)
    across = torch.tensor([[[0.0, 3.0, 0.0, 1.0]]])  # cosine 0 with (-2, -1, 0, 3)
    assert float(losses.masked_prediction(across, target)) == pytest.approx(2.0, abs=1e-6)


def test_reconstruction_is_the_mean_square():
    loss = losses.reconstruction(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[0.0, 4.0]]]))
    assert float(loss) == 2.5


def test_nt_xent_by_hand():
    audio = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    text = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    scale = torch.tensor(2.0).log()
    everyone = torch.tensor([True, True])
    expected = -math.log(math.exp(2) / (math.exp(2) + 1))
    assert float(losses.nt_xent(audio, text, everyone, scale)) == pytest.approx(expected)
    swapped = losses.nt_xent(audio, text.flip(0), everyone, scale)
    assert float(swapped) == pytest.approx(-math.log(1 / (math.exp(2) + 1)))


def test_clips_without_caption_are_neither_rows_nor_negatives():
    torch.manual_seed(0)
    audio, text, scale = torch.randn(5, 4), torch.randn(5, 4), torch.tensor(1.0)
    captioned = torch.tensor([True, False, True, True, False])
    with_gaps = losses.nt_xent(audio, text, captioned, scale)
    alone = losses.nt_xent(audio[captioned], text[captioned], captioned[captioned], scale)
    assert torch.equal(with_gaps, alone)


@pytest.mark.parametrize("count", [0, 1])
def test_with_fewer_than_two_captions_there_is_nothing_to_tell_apart(count):
    audio = torch.randn(3, 4, requires_grad=True)
    captioned = torch.arange(3) < count
    loss = losses.nt_xent(audio, torch.randn(3, 4), captioned, torch.tensor(1.0))
    loss.backward()
    assert loss.item() == 0.0
    assert not audio.grad.any()


def test_effective_rank_counts_directions():
    torch.manual_seed(0)
    wide = torch.randn(2000, 8)
    assert losses.effective_rank(wide) == pytest.approx(8, abs=0.1)
    assert losses.effective_rank(wide[:, :1] * torch.ones(8)) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("captioned", [[1, 0, 1, 1, 0], [1] * 5, [0, 0, 1, 0, 0], [0] * 5])
def test_nt_xent_of_a_gpu_is_that_of_a_cpu(captioned):
    torch.manual_seed(0)
    which = torch.tensor(captioned, dtype=torch.bool)
    found = []
    for way in (losses.nt_xent, losses._nt_xent_masked):
        generator = torch.Generator().manual_seed(1)
        audio, text = (
            torch.randn(5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
            for _ in range(2)
        )
        with torch.no_grad():
            text[~which] = 0  # as clips without a caption have it
        scale = torch.tensor(1.5, requires_grad=True)
        loss = way(audio, text, which, scale)
        loss.backward()
        found.append([loss.detach(), audio.grad, text.grad, scale.grad])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one.float(), other.float(), rtol=1e-5, atol=1e-6)
