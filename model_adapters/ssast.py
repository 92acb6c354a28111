"""SSAST: a vision transformer on spectrogram patches or frames, pre-trained without labels."""

import torch
from timm.models.deit import VisionTransformerDistilled

from evar.adapter import Adapter
from evar.errors import UserError

from . import _published
from ._kaldi import fbank
from ._vit import centred_positions

_MEAN, _STD = -4.2677393, 4.5689974  # of AudioSet's filter banks; (x - mean) / (2 std)
_BANDS, _FRAMES = 128, 1024  # of the spectrograms it was trained on
_PATCHES = {"patch": (16, 16), "frame": (128, 2)}  # bands, frames


class Ssast(Adapter):
    """SSAST's tokens of patches (16 x 16) or of frames (128 x 2), averaged: 768-d.

    Gong et al., "SSAST: Self-supervised audio spectrogram transformer", AAAI 2022. The filter bank
    is standardised by AudioSet's mean and deviation, the clip has its own length, and the learned
    positions are cut from the middle or stretched. The two special tokens are left out. The choice
    of this embedding is this harness's: the paper fine-tunes, with overlapping patches.
    """

    sample_rate = 16000
    blank = 0.0  # features are standardised
    TINY = {"width": 24, "depth": 1, "heads": 2}

    def __init__(
        self,
        weights=None,
        *,
        variant: str = "patch",
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
    ):
        super().__init__(weights)
        if variant not in _PATCHES:
            raise UserError(f"--variant={variant}: it is patch or frame")
        self.patch = high, wide = _PATCHES[variant]
        self.grid = _BANDS // high, _FRAMES // wide
        self.embed_dim = width
        self.frame_seconds = 0.01 * wide
        # The parameters are DeiT's, with its names.
        self.v = VisionTransformerDistilled(
            img_size=(_BANDS, _FRAMES),
            patch_size=self.patch,
            in_chans=1,
            num_classes=0,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
        )
        if weights is not None:
            state = {k.removeprefix("module."): v for k, v in _published.read(weights).items()}
            _require_size(state, weights)
            # Heads: of the image model that training began with, and of the two pre-text tasks.
            unused = ("v.head.", "v.head_dist.", "mask_embed", "cpredlayer.", "gpredlayer.")
            _published.load(self, state, weights, ignore=(*unused, "p_input_fdim", "p_input_tdim"))

    def features(self, audio):
        audio = audio - audio.mean(dim=1, keepdim=True)
        bank = fbank(audio, htk_compat=True, window_type="hanning")
        return (bank - _MEAN) / (2 * _STD)

    def tokens(self, features):
        """(B, 128, T) -> (B, F' * T', D): patches row by row; frames left over are dropped."""
        v = self.v
        x = v.patch_embed.proj(features[:, None])  # (B, D, F', T')
        special = torch.cat([v.cls_token, v.dist_token], dim=1).expand(len(x), -1, -1)
        positions = centred_positions(v.pos_embed, self.grid, x.shape[3])
        x = torch.cat([special, x.flatten(2).mT], dim=1) + positions
        return v.norm(v.blocks(x))[:, 2:]

    def encode(self, features):
        return self.tokens(features).unflatten(1, (self.grid[0], -1)).mean(dim=1)


def _require_size(state, path) -> None:
    """Refuse a checkpoint that was trained on spectrograms of another size than all published."""
    stored = [
        int(state.get(f"p_input_{d}dim", size)) for d, size in (("f", _BANDS), ("t", _FRAMES))
    ]
    if stored != [_BANDS, _FRAMES]:
        raise UserError(
            f"{path}: trained on {stored[0]} bands by {stored[1]} frames; this adapter loads "
            f"checkpoints of {_BANDS} by {_FRAMES}, as all published ones are"
        )
