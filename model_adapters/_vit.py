"""A ViT on spectrogram patches, built of timm blocks, with MAE's parameter names."""

from functools import partial

import numpy as np
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn


def sincos_positions(width: int, rows: int, columns: int) -> Tensor:
    """Returns fixed 2-d sine-cosine positions (1, 1 + rows * columns, width); class token: 0.

    The first half of the channels follows the column (time), the second the row (frequency);
    within a half, sines then cosines of wavelengths from 2 pi to 10,000 * 2 pi (He et al., 2022,
    after Vaswani et al., 2017).
    """
    quarter = width // 4
    omega = 1.0 / 10000 ** (np.arange(quarter, dtype=np.float64) / quarter)
    row, column = np.divmod(np.arange(rows * columns), columns)
    parts = [function(np.outer(at, omega)) for at in (column, row) for function in (np.sin, np.cos)]
    table = np.concatenate(parts, axis=1)
    return torch.from_numpy(np.pad(table, ((1, 0), (0, 0)))[None]).float()


def centred_positions(learned: Tensor, grid: tuple[int, int], columns: int) -> Tensor:
    """Learned positions for a clip of `columns` time steps: (1, 2 + F' * columns, D).

    `learned` (1, 2 + F' * T', D) are those of two special tokens and of `grid` (F', T'), row by
    row. A shorter clip takes the middle columns, a longer one all of them, stretched (Gong et al.,
    "AST: Audio spectrogram transformer", Interspeech 2021, Section 2.2).
    """
    table = learned[:, 2:].transpose(1, 2).unflatten(2, grid)  # (1, D, F', T')
    if columns <= grid[1]:
        start = grid[1] // 2 - columns // 2
        table = table[..., start : start + columns]
    else:
        table = nn.functional.interpolate(table, size=(grid[0], columns), mode="bilinear")
    return torch.cat([learned[:, :2], table.flatten(2).transpose(1, 2)], dim=1)


class ViT(nn.Module):
    """Pre-norm transformer on non-overlapping patches of a (frequency, time) spectrogram.

    The names of its parameters are those of published MAE, M2D and MSM-MAE checkpoints:
    cls_token, pos_embed, patch_embed.proj, blocks.N.*, norm.
    """

    def __init__(self, input_size=(80, 608), patch_size=(16, 16), width=768, depth=12, heads=12):
        super().__init__()
        self.patch_size = tuple(patch_size)
        self.grid = (input_size[0] // patch_size[0], input_size[1] // patch_size[1])  # (F', T')
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(1, width, kernel_size=self.patch_size, stride=self.patch_size)}
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed: Tensor  # fixed, so a buffer and no parameter; checkpoints hold it
        self.register_buffer("pos_embed", sincos_positions(width, *self.grid))
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.Sequential(
            *(Block(width, heads, 4.0, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        )
        self.norm = norm(width)

    def positions(self, columns: int) -> Tensor:
        """Returns the positions (1, F' * columns, D) of `columns` patches in time, row-major.

        Fewer than the network was trained on: the first of each row. More: interpolated in time,
        bicubically, as the original's fine-tuning does.
        """
        rows, trained = self.grid
        table = self.pos_embed[:, 1:].reshape(rows, trained, -1)
        if columns > trained:
            grid = table.permute(2, 0, 1)[None]  # (1, D, F', T')
            size = (rows, columns)
            grid = nn.functional.interpolate(grid, size, mode="bicubic", align_corners=False)
            table = grid[0].permute(1, 2, 0)
        return table[:, :columns].reshape(1, rows * columns, -1)

    def forward(self, spectrogram: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encodes patches: (B, F, T), T a multiple of the patch -> (B, F', T', D), no class token.

        `keep` (K,), or (B, K) for each clip its own: only these patches are encoded, numbered row
        by row -> (B, K, D).
        """
        patches = self.patch_embed["proj"](spectrogram[:, None])  # (B, D, F', T')
        rows, columns = patches.shape[2:]
        tokens = patches.flatten(2).transpose(1, 2) + self.positions(columns)
        if keep is not None:
            index = keep.expand(len(tokens), -1)[..., None]  # (B, K, 1)
            tokens = tokens.gather(1, index.expand(-1, -1, tokens.shape[2]))
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        tokens = self.norm(self.blocks(torch.cat([first, tokens], dim=1)))[:, 1:]
        return tokens.unflatten(1, (rows, columns)) if keep is None else tokens
