"""Augmentations do what their papers promise, and nothing else, by the seed that is given."""

import pytest
import torch

from evar.finetuning import augment


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def bank(batch=6, bins=20, frames=50):
    return torch.randn(batch, bins, frames, generator=seeded(99))


EACH = {
    "mixup": lambda x, g: augment.mixup(x, torch.eye(len(x)), 0.3, generator=g)[0],
    "spec_augment": lambda x, g: augment.spec_augment(x, freq_mask=8, time_mask=20, generator=g),
    "random_resize_crop": lambda x, g: augment.random_resize_crop(x, generator=g),
    "patchout counts": lambda x, g: torch.tensor(
        [augment.patchout_counts(5, 38, 0.5, generator=g) for _ in range(20)]
    ),
    "patchout": lambda x, g: augment.structured_patchout(5, 38, (2, 9), form="plain", generator=g),
}


@pytest.mark.parametrize("name", EACH)
def test_a_seed_gives_the_same_again_another_seed_something_else(name):
    apply, x = EACH[name], bank()
    assert torch.equal(apply(x, seeded(1)), apply(x, seeded(1)))
    others = [apply(x, seeded(seed)) for seed in range(2, 6)]
    first = apply(x, seeded(1))
    assert any(o.shape != first.shape or not torch.equal(o, first) for o in others)


@pytest.mark.parametrize("name", EACH)
def test_a_generator_goes_on_from_call_to_call(name):
    generator = seeded(1)
    results = [EACH[name](bank(), generator) for _ in range(5)]
    assert any(a.shape != results[0].shape or not torch.equal(a, results[0]) for a in results)


@pytest.mark.parametrize("name", EACH)
def test_input_and_global_generators_are_left_as_they_were(name):
    x = bank()
    state, before = torch.get_rng_state(), x.clone()
    EACH[name](x, seeded(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(x, before)


@pytest.mark.parametrize("shape", [(8, 30), (8, 5, 7)])
def test_mixup_is_one_convex_combination_of_input_and_labels(shape):
    y = torch.eye(8)
    # Every input is its sample's unit vector, spread over the shape: it shows its own mixture.
    x = torch.zeros(shape)
    for i in range(8):
        x[i].flatten()[i] = 1
    mixed, labels = augment.mixup(x, y, 0.5, generator=seeded())
    assert torch.equal(mixed.flatten(1)[:, :8], labels)
    assert torch.allclose(labels.sum(1), torch.ones(8))
    assert ((labels > 0).sum(1) <= 2).all()
    own = labels.diagonal()
    assert ((own >= 0) & (own <= 1)).all()
    assert len(own.unique()) > 4, "one lambda for the whole batch"


def test_mixup_draws_from_the_beta_distribution():
    n = 4000
    generator = seeded()
    x = torch.arange(n, dtype=torch.float64)[:, None]
    mixed, share = augment.mixup(x, torch.eye(n), 0.3, generator=generator)
    share = share.diagonal()  # lambda, or 1 where a sample is its own partner
    assert abs(float(share.mean()) - 0.5) < 0.02
    # Beta(a, a) has variance 1 / (4 (2 a + 1)).
    assert abs(float(share.var()) - 1 / (4 * 1.6)) < 0.01
    assert mixed.dtype == torch.float64


def test_mixup_of_alpha_zero_is_the_identity():
    x, y = bank(), torch.eye(6)
    mixed, labels = augment.mixup(x, y, 0, generator=seeded())
    assert mixed is x
    assert labels is y


def test_mixup_of_a_single_sample_leaves_it():
    x, y = bank(batch=1), torch.ones(1, 3)
    mixed, labels = augment.mixup(x, y, 0.3, generator=seeded())
    torch.testing.assert_close(mixed, x)
    torch.testing.assert_close(labels, y)


def masked_ranges(features):
    """Zeroed bins and frames of (B, F, T) that was without zeros; the same for all samples."""
    zero = features == 0
    assert (zero == zero[0]).all(), "samples have different masks"
    bins = zero[0].all(dim=1).nonzero().flatten().tolist()
    frames = zero[0].all(dim=0).nonzero().flatten().tolist()
    rest = zero[0].clone()
    rest[bins] = False
    rest[:, frames] = False
    assert not rest.any(), "something outside the two masks was set to 0"
    for found in (bins, frames):
        assert found == list(range(found[0], found[-1] + 1)) if found else True
    return len(bins), len(frames)


def test_spec_augment_masks_one_band_and_one_span_for_the_whole_batch():
    generator, x = seeded(), bank() + 10
    sizes = []
    for _ in range(300):
        out = augment.spec_augment(x, freq_mask=8, time_mask=20, generator=generator)
        sizes.append(masked_ranges(out))
        assert torch.equal(out[out != 0], x[out != 0])
    bins, frames = zip(*sizes, strict=True)
    assert set(bins) == set(range(8)), "widths are uniform below the parameter"
    assert set(frames) == set(range(20))


@pytest.mark.parametrize(("freq", "time"), [(0, 0), (1, 1)])
def test_spec_augment_of_width_zero_masks_nothing(freq, time):
    x = bank()
    out = augment.spec_augment(x, freq_mask=freq, time_mask=time, generator=seeded())
    assert torch.equal(out, x)


def test_spec_augment_leaves_something_of_a_clip_shorter_than_its_mask():
    generator, x = seeded(), bank(bins=4, frames=6) + 10
    for _ in range(200):
        out = augment.spec_augment(x, freq_mask=30, time_mask=192, generator=generator)
        assert (out != 0).any()


def test_spec_augment_draws_what_torchaudio_draws():
    from torchaudio.functional import mask_along_axis

    x = bank()
    out = augment.spec_augment(x, freq_mask=8, time_mask=20, generator=seeded(5))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected = mask_along_axis(mask_along_axis(x, 8, 0.0, 1), 20, 0.0, 2)
    assert torch.equal(out, expected)


def test_random_resize_crop_of_scale_one_on_its_own_canvas_changes_nothing():
    x = bank()
    out = augment.random_resize_crop(x, generator=seeded(), canvas=(1, 1), scale=(1, 1))
    assert torch.equal(out, x)


@pytest.mark.parametrize("shape", [(3, 80, 101), (2, 1, 1), (2, 5, 2), (1, 128, 1024)])
def test_random_resize_crop_keeps_the_shape(shape):
    x = torch.randn(shape)
    generator = seeded()
    for _ in range(10):
        out = augment.random_resize_crop(x, generator=generator)
        assert out.shape == x.shape
        assert out.dtype == x.dtype
        assert torch.isfinite(out).all()


def test_random_resize_crop_crops_every_sample_by_itself():
    x = bank(batch=1).repeat(5, 1, 1)
    out = augment.random_resize_crop(x, generator=seeded())
    assert all(not torch.equal(out[0], other) for other in out[1:])


def test_random_resize_crop_cuts_out_what_it_should():
    """Half of each side: the corners of the crop are the corners of the result."""
    x = torch.arange(40.0).repeat(3, 20, 1) + 100 * torch.arange(20.0)[:, None]
    out = augment.random_resize_crop(x, generator=seeded(), canvas=(1, 1), scale=(0.5, 0.5))
    first = out[:, 0, 0]
    assert torch.equal(first, first.round()), "a corner is a value of the spectrogram"
    for right, down in ((0, 1), (1, 0), (1, 1)):
        corner = out[:, -down, -right]
        torch.testing.assert_close(corner - first, torch.full((3,), 19.0 * right + 900 * down))


def test_random_resize_crop_has_zeros_around_the_spectrogram():
    """Of a canvas as long again as the clip, a crop of all is zeros, the clip, zeros."""
    x = torch.ones(1, 8, 40)
    out = augment.random_resize_crop(x, generator=seeded(), canvas=(1, 2), scale=(2, 2))[0]
    assert (out[:, :9] == 0).all()
    assert (out[:, -9:] == 0).all()
    torch.testing.assert_close(out[:, 12:28], torch.ones(8, 16))


def test_random_resize_crop_reaches_its_whole_range_of_scales():
    """A ramp's slope tells the factor: from 0.6 to the canvas' 1.5 in time, to 1.0 in frequency."""

    def slopes(out):  # over ten steps: cubic interpolation bends a line a little between two
        return (out[:, 10:] - out[:, :-10]).median(dim=1).values / 10

    time = (torch.arange(200.0) + 1000).repeat(300, 10, 1)
    found = slopes(augment.random_resize_crop(time, generator=seeded())[:, 5])
    assert 0.58 < float(found.min()) < 0.62
    assert 1.46 < float(found.max()) < 1.52
    frequency = (torch.arange(100.0) + 1000)[:, None].repeat(300, 1, 20)
    found = slopes(augment.random_resize_crop(frequency, generator=seeded()).median(dim=2)[0])
    assert 0.58 < float(found.min()) < 0.62
    assert 0.98 < float(found.max()) < 1.02


@pytest.mark.parametrize(
    ("columns", "kept"), [(62, (155, 172, 168, 124)), (31, (75, 88, 84, 62)), (7, (15, 20, 18, 14))]
)
def test_patchout_counts_are_those_of_the_original(columns, kept):
    """0, 1, 2, 3 of 5 rows with probabilities 2/7, 2/7, 2/7, 1/7 for half of the patches."""
    generator, drawn = seeded(), []
    for _ in range(2000):
        rows, dropped = augment.patchout_counts(5, columns, 0.5, generator=generator)
        assert (5 - rows) * (columns - dropped) == kept[rows]
        drawn.append(rows)
    shares = torch.tensor(drawn).bincount(minlength=4) / len(drawn)
    torch.testing.assert_close(shares, torch.tensor([2, 2, 2, 1]) / 7, atol=0.04, rtol=0)


@pytest.mark.parametrize("form", ["plain", "m2d"])
@pytest.mark.parametrize(
    ("rows", "columns"), [(5, 38), (5, 62), (5, 6), (1, 1), (1, 7), (7, 1), (8, 64)]
)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.75, 0.95, 0.99])
def test_patchout_keeps_distinct_patches_and_always_some(rows, columns, share, form):
    generator = seeded()
    for _ in range(20):
        counts = augment.patchout_counts(rows, columns, share, generator=generator)
        keep = augment.structured_patchout(rows, columns, counts, form=form, generator=generator)
        assert keep.dtype == torch.int64
        assert len(keep) == (rows - counts[0]) * (columns - counts[1]) > 0
        assert torch.equal(keep, keep.unique())
        assert keep.max() < rows * columns
        if share == 0:
            assert len(keep) == rows * columns


def test_plain_patchout_drops_whole_rows_and_columns():
    for seed in range(20):
        keep = augment.structured_patchout(5, 62, (2, 6), form="plain", generator=seeded(seed))
        row, column = (keep // 62).unique(), (keep % 62).unique()
        assert (len(row), len(column)) == (3, 56)
        assert torch.equal(keep, (row[:, None] * 62 + column).flatten())


def test_m2ds_patchout_keeps_what_is_marked():
    """5 x 62 patches. Two rows and six columns marked are 142 patches of the 168 that are kept."""
    keep = augment.structured_patchout(5, 62, (2, 6), form="m2d", generator=seeded())
    grid = torch.zeros(5, 62, dtype=torch.bool)
    grid.view(-1)[keep] = True
    assert grid.all(dim=1).sum() == 2
    assert grid.all(dim=0).sum() >= 6
    filled = grid[~grid.all(dim=1)][:, ~grid.all(dim=0)].flatten()
    assert filled.sum() <= 26, "unmarked ones only fill up"
    # Half of the columns marked, no row: exactly those columns stay.
    grid = torch.zeros(5, 62, dtype=torch.bool)
    grid.view(-1)[augment.structured_patchout(5, 62, (0, 31), form="m2d", generator=seeded())] = 1
    assert grid.all(dim=0).sum() == 31
    assert grid.sum() == 155
    # Three rows marked are 186 patches, of which 124 are kept: the clip loses two rows at least.
    keep = augment.structured_patchout(5, 62, (3, 0), form="m2d", generator=seeded())
    assert len(keep) == 124
    assert len((keep // 62).unique()) == 2


def test_each_clip_loses_its_own_rows_and_columns():
    drawn = [
        augment.structured_patchout(5, 38, (2, 4), form="plain", generator=seeded(i)).tolist()
        for i in range(50)
    ]
    assert len({tuple(keep) for keep in drawn}) > 40


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0])
def test_patchout_of_no_share_at_all_is_refused(share):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        augment.patchout_counts(3, 4, share, generator=seeded())


@pytest.mark.parametrize("size", [(20, 50), (7, 90), (1, 1), (40, 3)])
def test_crops_that_are_resized_together_are_those_of_one_after_the_other(size):
    canvases = torch.randn(64, 24, 75, generator=seeded(3), dtype=torch.float64)
    draws = torch.rand(64, 4, generator=seeded(4), dtype=torch.float64).tolist()
    places = [augment._place((24, 75), (20, 50), (0.6, 1.5), own) for own in draws]
    places[0] = (slice(0, 24), slice(0, 75))  # all of it
    places[1] = (slice(23, 24), slice(74, 75))  # its last sample
    found = augment.resized_crops(canvases, places, size)
    for i, (rows, columns) in enumerate(places):
        alone = torch.nn.functional.interpolate(
            canvases[i : i + 1, None, rows, columns], size, mode="bicubic", align_corners=True
        )
        assert torch.allclose(found[i], alone[0, 0], rtol=0, atol=1e-12)
    assert torch.equal(augment.resized_crops(canvases[5:6], places[5:6], size)[0], found[5])


def test_clips_with_generators_of_their_own_are_cropped_as_if_alone():
    x = bank()
    together = augment.random_resize_crop(x, generator=[seeded(i) for i in range(len(x))])
    for i in range(len(x)):
        alone = augment.random_resize_crop(x[i : i + 1], generator=seeded(i))
        assert torch.equal(together[i], alone[0])
