"""Attentive pooling: learned queries attend to the frames of a clip, one linear layer classifies.

Learned queries and heads as in Bird-MAE's attentive probe (Rauch et al. 2025) and V-JEPA's; with
several queries, each with class weights of its own, it is the form of prototype probes. No output
projection, no norm: the linear layer follows the heads. The letters: B clips, T frames, D
embedding, J queries, H heads, C classes.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evar.probing.autograd import linear
from evar.probing.probe import deviation

HEADS = 8
QUERY_DEVIATION = 0.02  # of a query's initial normal values (Bird-MAE)


def heads_for(dim: int, wanted: int = HEADS) -> int:
    """Returns the largest number of heads, at most `wanted`, that divides the embedding."""
    return max(h for h in range(1, min(wanted, dim) + 1) if dim % h == 0)


class AttentivePool(nn.Module):
    """Frames (B, T, D) and a mask (B, T), True where there is a frame -> logits (B, C).

    Keys and values are K = x W_k and V = x W_v. The softmax over time of q . K_t / sqrt(D / H) is
    taken per head and query; a bias of K would not change it. W_k is applied to the queries and W_v
    to the pooled frames, which is the same sum in another order: a frame then costs J H D
    multiplications and not D^2.
    """

    def __init__(
        self, dim: int, classes: int, *, queries: int, heads: int, generator: torch.Generator
    ):
        super().__init__()
        self.heads = heads
        self.queries = nn.Parameter(torch.empty(queries, dim))  # (J, D)
        nn.init.normal_(self.queries, std=QUERY_DEVIATION, generator=generator)
        self.keys = linear((dim, dim), dim, generator)  # (D out, D in)
        self.values = linear((dim, dim), dim, generator)
        self.weight = linear((classes, queries * dim), queries * dim, generator)
        self.bias = linear((classes,), queries * dim, generator)

    def attention(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D), (B, T) -> the weight of every frame, (B, J, H, T), of sum 1 over T."""
        dim = frames.shape[2]
        per_head = self.queries.unflatten(1, (self.heads, -1))  # (J, H, D / H)
        keys = self.keys.unflatten(0, (self.heads, -1))  # (H, D / H, D)
        asked = torch.einsum("jhe,hed->jhd", per_head, keys) / math.sqrt(dim / self.heads)
        scores = (frames @ asked.flatten(0, 1).T).transpose(1, 2)  # (B, J H, T)
        scores = scores.masked_fill(~mask[:, None], -torch.inf)
        return scores.softmax(dim=2).unflatten(1, (-1, self.heads))

    def forward(self, frames: Tensor, mask: Tensor) -> Tensor:
        weights = self.attention(frames, mask).flatten(1, 2)  # (B, J H, T)
        pooled = (weights @ frames).unflatten(1, (-1, self.heads))  # (B, J, H, D)
        values = self.values.unflatten(0, (self.heads, -1))  # (H, D / H, D)
        heads = torch.einsum("bjhd,hed->bjhe", pooled, values)  # (B, J, H, D / H)
        return torch.addmm(self.bias, heads.flatten(1), self.weight.T)


class Frames:
    """Frames of many clips, of different numbers; a source of batches (`autograd.BatchSource`).

    clips: for each row its frames (T, D), float16 or float32, in memory or memory-mapped; all
    arithmetic is in float32.
    """

    def __init__(self, clips: Sequence[NDArray], *, device: str = "cpu"):
        self.clips, self.device = clips, device

    def scaled_by(self, rows: NDArray) -> Callable[[NDArray], tuple[Tensor, Tensor]]:
        """Returns a reader that standardises by all frames of `rows`: (B, T, D) and (B, T)."""
        mean, scale = (
            torch.tensor(of_frames, dtype=torch.float32, device=self.device)
            for of_frames in frame_scaler(self.clips, rows)
        )

        def read(rows: NDArray) -> tuple[Tensor, Tensor]:
            frames, mask = padded([self.clips[row] for row in rows])
            frames, mask = frames.to(self.device), mask.to(self.device)
            return (frames.float() - mean) / scale * mask[..., None], mask

        return read


def padded(clips: Sequence[NDArray]) -> tuple[Tensor, Tensor]:
    """Returns clips (T_i, D) as one (B, T, D), filled up with zeros, and where frames are, (B, T).

    Raises ValueError for a clip without frames.
    """
    lengths = [len(clip) for clip in clips]
    if min(lengths) == 0:
        raise ValueError("a clip has no frame to attend to")
    frames = np.zeros((len(clips), max(lengths), clips[0].shape[1]), clips[0].dtype)
    for i, clip in enumerate(clips):
        frames[i, : len(clip)] = clip
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.from_numpy(frames), mask


def frame_scaler(clips: Sequence[NDArray], rows: NDArray) -> tuple[NDArray, NDArray]:
    """Returns mean and deviation (D,) over all frames of some clips, float64.

    A feature that is constant up to rounding gets the deviation 1.
    """
    offset = clips[rows[0]][0].astype(np.float64)  # so that squares of large values do not cancel
    total, squares, count = np.zeros_like(offset), np.zeros_like(offset), 0
    for row in rows:
        frames = clips[row].astype(np.float64) - offset
        total += frames.sum(axis=0)
        squares += np.square(frames).sum(axis=0)
        count += len(frames)
    shift = total / count
    mean, variance = offset + shift, np.maximum(squares / count - shift**2, 0.0)
    return mean, deviation(mean, variance, count)
