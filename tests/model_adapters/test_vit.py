"""Patches that are left out: the encoder of those that stay is the encoder of all."""

import pytest
import torch

from evar.finetuning.augment import patchout_counts, structured_patchout
from evar.model_adapters._vit import ViT
from evar.model_adapters.m2d import M2D

SECONDS = {"shorter than the input": 1.0, "a chunk and a half": 9.0, "not whole patches": 2.345}


def flat(**more):
    torch.manual_seed(0)
    return M2D(**M2D.TINY, flat=True, **more).eval().requires_grad_(False)


def features(adapter, seconds):
    generator = torch.Generator().manual_seed(1)
    return adapter.features(0.1 * torch.randn(2, int(seconds * 16000), generator=generator))


@pytest.fixture(params=[False, True], ids=["m2d", "first msm-mae"])
def adapter(request):
    made = flat()
    made.whole = request.param  # every chunk in full length
    return made


@pytest.mark.parametrize("seconds", SECONDS.values(), ids=SECONDS)
def test_all_patches_kept_is_the_plain_encoder(adapter, seconds):
    spectrogram = features(adapter, seconds)
    rows, columns = adapter.patch_grid(spectrogram)
    assert (rows, columns) == (5, -(-spectrogram.shape[2] // 16))
    plain = adapter.encode(spectrogram)
    adapter.keep = torch.arange(rows * columns)
    torch.testing.assert_close(adapter.encode(spectrogram), plain)
    adapter.keep = adapter.keep.flip(0)
    torch.testing.assert_close(adapter.encode(spectrogram), plain.flip(1))


def test_kept_patches_know_their_places_and_not_the_others(adapter):
    adapter.whole = False
    spectrogram = features(adapter, 3.04)  # 305 frames: 20 columns
    rows, columns = adapter.patch_grid(spectrogram)
    generator = torch.Generator().manual_seed(0)
    counts = patchout_counts(rows, columns, 0.5, generator=generator)
    adapter.keep = structured_patchout(rows, columns, counts, form="plain", generator=generator)
    kept = adapter.encode(spectrogram)
    assert kept.shape == (2, len(adapter.keep), 24)
    row, column = adapter.keep // columns, adapter.keep % columns
    dropped = torch.ones(rows, columns, dtype=torch.bool)
    dropped[row, column] = False
    padded = torch.nn.functional.pad(spectrogram, (0, columns * 16 - spectrogram.shape[2]))
    noisy = padded.unflatten(1, (rows, 16)).unflatten(3, (columns, 16)).clone()
    noisy.permute(1, 3, 0, 2, 4)[dropped] = 7.0
    noisy = noisy.flatten(3).flatten(1, 2)
    assert not torch.equal(noisy, padded)
    torch.testing.assert_close(adapter.encode(noisy), kept)
    # Elsewhere the same patches give something else: positions came before the choice.
    adapter.keep = None
    rolled = padded.roll(16, dims=2)
    adapter.keep = row * columns + (column + 1) % columns
    assert not torch.allclose(adapter.encode(rolled), kept, atol=1e-3)


def test_kept_patches_of_several_chunks_are_those_of_each(adapter):
    spectrogram = features(adapter, 9.0)  # 901 frames: 38 and 19 columns
    columns = adapter.patch_grid(spectrogram)[1]
    assert columns == 57
    adapter.keep = torch.tensor([0, 3, 40, 57 + 1, 57 + 56])
    both = adapter.encode(spectrogram)
    adapter.keep = torch.tensor([0, 3, 38 + 1])
    torch.testing.assert_close(both[:, [0, 1, 3]], adapter.encode(spectrogram[..., :608]))
    adapter.keep = torch.tensor([2, 19 + 18])
    torch.testing.assert_close(both[:, [2, 4]], adapter.encode(spectrogram[..., 608:]))


@pytest.mark.parametrize("seconds", SECONDS.values(), ids=SECONDS)
def test_each_clip_may_keep_its_own_patches(adapter, seconds):
    spectrogram = features(adapter, seconds)
    rows, columns = adapter.patch_grid(spectrogram)
    generator = torch.Generator().manual_seed(0)
    own = [torch.randperm(rows * columns, generator=generator)[:9] for _ in range(2)]
    adapter.keep = torch.stack(own)
    both = adapter.encode(spectrogram)
    for i, keep in enumerate(own):
        adapter.keep = keep
        alone = adapter.encode(spectrogram[i : i + 1])
        torch.testing.assert_close(both[i : i + 1], alone, atol=1e-5, rtol=1e-4)


def test_positions_of_longer_inputs_are_interpolated_in_time_only():
    """A table that is linear in time and differs by row, which the kernel bends a little."""
    vit = ViT(width=4, depth=1, heads=1)
    table = torch.arange(5.0)[:, None] * 1000 + torch.arange(38.0) + 0.5
    vit.pos_embed[:, 1:] = table.flatten()[None, :, None]
    found = vit.positions(62)[0, :, 0].view(5, 62)
    expected = torch.arange(5.0)[:, None] * 1000 + (torch.arange(62.0) + 0.5) * 38 / 62
    torch.testing.assert_close(found[:, 4:-4], expected[:, 4:-4], atol=0.06, rtol=0)
    torch.testing.assert_close(vit.positions(20)[0, :, 0].view(5, 20), table[:, :20])
    # Bicubic without antialiasing at t = 18.5 * 38 / 62 - 0.5, by Keys' kernel with a = -0.75.
    vit.pos_embed[:, 1:] = (torch.arange(38.0) == 11).float().repeat(5)[None, :, None]
    at = 18.5 * 38 / 62 - 0.5  # 10.8387: a distance of 0.1613 from column 11
    d = abs(at - 11)
    weight = 1.25 * d**3 - 2.25 * d**2 + 1
    assert vit.positions(62)[0, 18, 0].item() == pytest.approx(weight, abs=1e-5)


def test_the_embedding_is_the_mean_over_kept_patches_and_can_be_trained():
    adapter = flat().requires_grad_(True).train()
    audio = 0.1 * torch.randn(2, 16000)
    adapter.keep = torch.tensor([0, 7, 12])
    embedding = adapter.embed(audio)
    torch.testing.assert_close(embedding, adapter.encode(adapter.features(audio)).mean(dim=1))
    embedding.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in adapter.backbone.parameters())


def test_side_by_side_patches_have_no_grid_and_refuse_to_drop_any():
    adapter = M2D(**M2D.TINY).eval()
    spectrogram = features(adapter, 1.0)
    assert adapter.patch_grid(spectrogram) is None
    adapter.keep = torch.tensor([0])
    with pytest.raises(ValueError, match="flat"):
        adapter.encode(spectrogram)


def test_positions_are_fixed_and_yet_in_the_state():
    vit = ViT(width=24, depth=1, heads=2)
    assert "pos_embed" not in dict(vit.named_parameters())
    assert vit.state_dict()["pos_embed"].shape == (1, 1 + 5 * 38, 24)
