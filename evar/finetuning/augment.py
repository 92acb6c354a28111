"""Augmentations of fine-tuning: of waveforms and labels, of spectrograms, of patches.

All random numbers come from the generator that is passed in, which is on the CPU: the same seed
gives the same batch on every device.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torchaudio
from torch import Generator, Tensor
from torch.nn.functional import interpolate


def mixup(x: Tensor, y: Tensor, alpha: float, *, generator: Generator) -> tuple[Tensor, Tensor]:
    """Mixes every sample of x (B, ...) and its labels y (B, C) with another one of the batch.

    lambda x + (1 - lambda) x', where lambda ~ Beta(alpha, alpha) is drawn for each sample and is
    the same for its input and labels. alpha = 0 mixes nothing (Zhang et al., "mixup", ICLR 2018).
    """
    if alpha == 0:
        return x, y
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    share = torch.from_numpy(_numpy(generator).beta(alpha, alpha, size=len(x)))  # (B,)

    def mixed(a: Tensor) -> Tensor:
        weight = share.to(a).view(-1, *[1] * (a.ndim - 1))
        return weight * a + (1 - weight) * a[partner]

    return mixed(x), mixed(y)


def spec_augment(
    features: Tensor, *, freq_mask: int, time_mask: int, generator: Generator
) -> Tensor:
    """Sets one band and one span of time of (B, F, T) to 0, the same for the whole batch.

    Widths are uniform below `freq_mask` bins and `time_mask` frames, or below F and T where those
    are fewer: something is always left (Park et al., "SpecAugment", Interspeech 2019).
    """
    before = torch.get_rng_state()
    torch.set_rng_state(generator.get_state())  # torchaudio draws from the global generator
    try:
        for axis, widest in ((1, freq_mask), (2, time_mask)):
            widest = min(widest, features.shape[axis])
            features = torchaudio.functional.mask_along_axis(features, widest, 0.0, axis)
        generator.set_state(torch.get_rng_state())
    finally:
        torch.set_rng_state(before)
    return features


def random_resize_crop(
    features: Tensor,
    *,
    generator: Generator | Sequence[Generator],
    canvas: tuple[float, float] = (1.0, 1.5),
    scale: tuple[float, float] = (0.6, 1.5),
) -> Tensor:
    """Crops every spectrogram of (B, F, T) at random and resizes the crop to (F, T), bicubically.

    The spectrogram lies in the middle of a canvas of zeros, `canvas` times as high and as long.
    Crops are F and T times a factor drawn from `scale` for each, but no larger than the canvas
    (Niizumi et al., "BYOL for audio", TASLP 2023). generator: one, or one for each spectrogram.
    """
    bins, frames = features.shape[1:]
    height, width = max(bins, int(canvas[0] * bins)), max(frames, int(canvas[1] * frames))
    top, left = (height - bins) // 2, (width - frames) // 2
    margins = (left, width - frames - left, top, height - bins - top)
    padded = torch.nn.functional.pad(features, margins)
    if isinstance(generator, Generator):
        draws = torch.rand(len(features), 4, generator=generator, dtype=torch.float64).tolist()
    else:
        draws = [torch.rand(4, generator=own, dtype=torch.float64).tolist() for own in generator]
    places = [_place(padded.shape[1:], (bins, frames), scale, own) for own in draws]
    if features.device.type == "cuda":  # one clip after the other would be a third of a step
        return resized_crops(padded, places, (bins, frames))
    crops = (padded[i : i + 1, None, *place] for i, place in enumerate(places))
    size = (bins, frames)
    return torch.cat(
        [interpolate(c, size, mode="bicubic", align_corners=True)[:, 0] for c in crops]
    )


def _place(
    canvas: Sequence[int], size: tuple[int, int], scale: tuple[float, float], draws: list[float]
) -> tuple[slice, slice]:
    """Returns rows and columns of a crop of a canvas (F', T'). `draws`: extents and places."""
    found = []
    for whole, length, extent, place in zip(canvas, size, draws[:2], draws[2:], strict=True):
        wanted = int((scale[0] + extent * (scale[1] - scale[0])) * length)
        extent = min(max(wanted, 1), whole)
        corner = int(place * (whole - extent + 1))
        found.append(slice(corner, corner + extent))
    return found[0], found[1]


def resized_crops(
    canvases: Tensor, places: Sequence[tuple[slice, slice]], size: tuple[int, int]
) -> Tensor:
    """Resizes crops of canvases (B, F', T') to (B, F, T), bicubically, all of them at once.

    places: rows and columns of each crop. The values are those of `interpolate` with
    align_corners=True on one crop after the other, up to the order of summation: 4 x 4 samples
    weighted by a cubic of a = -0.75 (Keys 1981), edges repeated.
    """
    rows, columns = zip(*places, strict=True)
    columns_of, by_column = _taps(columns, size[1], canvases)
    wide = torch.zeros((), dtype=canvases.dtype, device=canvases.device)
    for tap in range(4):
        places_of = columns_of[tap, :, None].expand(-1, canvases.shape[1], -1)
        wide = wide + by_column[tap, :, None] * canvases.gather(2, places_of)  # (B, F', T)
    rows_of, by_row = _taps(rows, size[0], canvases)
    found = torch.zeros_like(wide[:, :1])
    for tap in range(4):
        places_of = rows_of[tap, :, :, None].expand(-1, -1, size[1])
        found = found + by_row[tap, :, :, None] * wide.gather(1, places_of)
    return found


def _taps(spans: Sequence[slice], length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the four samples that each of `length` new ones is made of, and their weights.

    Both are (4, B, length): numbers of rows or columns of the canvas, and cubic coefficients.
    """
    bounds = torch.tensor([(span.start, span.stop - 1) for span in spans])
    first, last = bounds.to(like.device, non_blocking=True)[..., None].unbind(1)  # (B, 1) each
    step = (last - first).to(like.dtype) / max(length - 1, 1)
    at = step * torch.arange(length, device=like.device)  # (B, length), from the crop's edge
    below = at.floor()
    t = at - below
    number = first + below.long()
    a = -0.75

    def near(x: Tensor) -> Tensor:  # up to one sample away
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: Tensor) -> Tensor:  # one to two samples away
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    weights = torch.stack([far(t + 1), near(t), near(1 - t), far(2 - t)])
    samples = torch.stack([number + offset for offset in (-1, 0, 1, 2)])
    return samples.clamp(first, last), weights


def patchout_counts(
    rows: int, columns: int, share: float, *, generator: Generator
) -> tuple[int, int]:
    """Draws how many rows (NF) and columns (NT) of patches structured patchout marks.

    NF = min(F - 1, floor((F m + 1) u)) and NT = floor(T max(m + 0.5 / T - NF / F, 0)) for the share
    m and u uniform in [0, 1): about m F T patches are marked, by a random mixture of rows and
    columns (Koutini et al., "Efficient training of audio transformers with patchout", Interspeech
    2022, as M2D's fine-tuning draws them).
    """
    if not 0 <= share < 1:
        raise ValueError(f"share is {share}: it lies in [0, 1)")
    u = float(torch.rand((), generator=generator, dtype=torch.float64))
    dropped_rows = min(rows - 1, int((rows * share + 1) * u))
    exact = columns * (share - dropped_rows / rows) + 0.5
    dropped_columns = int(max(round(exact, 9), 0))  # 9: 0.29 * 100 is 28.999999999999996
    return dropped_rows, min(columns - 1, dropped_columns)


def structured_patchout(
    rows: int, columns: int, counts: tuple[int, int], *, form: str, generator: Generator
) -> Tensor:
    """Returns the patches (K,) of one clip that are kept, numbered row by row, ascending.

    counts: (NF, NT) of `patchout_counts`. Random NF rows and NT columns are marked, and
    K = (F - NF) (T - NT) patches are kept. form: "plain" keeps the unmarked patches, which is what
    patchout means. "m2d" keeps marked ones first, in their order, and unmarked ones only to fill
    up, as the code behind M2D's published figures does.
    """
    marked = torch.zeros(rows, columns, dtype=torch.bool)
    marked[torch.randperm(rows, generator=generator)[: counts[0]]] = True
    marked[:, torch.randperm(columns, generator=generator)[: counts[1]]] = True
    kept = (rows - counts[0]) * (columns - counts[1])
    first = marked if form == "m2d" else ~marked
    order = first.flatten().to(torch.uint8).argsort(descending=True, stable=True)
    return order[:kept].sort().values


def _numpy(generator: Generator) -> np.random.Generator:
    """Returns a NumPy generator, for distributions that PyTorch draws from its global one only."""
    return np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
