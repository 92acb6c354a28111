"""EAT, the efficient audio transformer (Chen et al., IJCAI 2024), and SSLAM, its successor."""

from functools import partial
from pathlib import Path

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn.functional import pad

from evar.adapter import Adapter

from . import _published
from ._kaldi import fbank
from ._vit import sincos_positions

_MEAN, _STD = -4.268, 4.569  # of AudioSet's filter banks; (x - mean) / (2 std)
_FRAMES, _BANDS, _PATCH = 1024, 128, 16
_POSITIONS = 768  # rows of time steps that the fixed position table has

_UNUSED = (  # computed here, of pre-training, or the heads of fine-tuned files
    "fixed_positional_encoder.",
    "decoder.",
    "cls_proj.",
    "recon_proj.",
    "center",
    "_ema.",
    "head.",
    "fc_norm.",
)


class PostNormBlock(Block):
    """timm's block with each normalisation behind its residual sum."""

    def forward(self, x):
        x = self.norm1(x + self.attn(x))
        return self.norm2(x + self.mlp(x))


class Eat(Adapter):
    """The mean of all tokens of a 10.24-s window, the class token among them: 768-d.

    Chen et al., "EAT: Self-supervised pre-training with efficient audio transformer", 2024. Kaldi
    filter bank, cut or padded with zeros to 1,024 frames: what comes later is not heard. SSLAM
    (Alex et al., ICLR 2025) is the same network. `weights` is the hub's file or the authors' own.
    """

    sample_rate = 16000
    blank = 0.0  # features are standardised
    frame_seconds = 0.16
    TINY = {"width": 24, "depth": 1, "heads": 2}

    def __init__(
        self, weights: Path | None = None, *, width: int = 768, depth: int = 12, heads: int = 12
    ):
        super().__init__(weights)
        self.embed_dim = width
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.model = nn.ModuleDict(
            {
                "local_encoder": nn.ModuleDict({"proj": nn.Conv2d(1, width, _PATCH, _PATCH)}),
                "pre_norm": norm(width),
                "blocks": nn.ModuleList(
                    PostNormBlock(width, heads, 4.0, qkv_bias=True, norm_layer=norm)
                    for _ in range(depth)
                ),
            }
        )
        self.model.register_parameter("extra_tokens", nn.Parameter(torch.zeros(1, 1, width)))
        table = sincos_positions(width, _POSITIONS, _BANDS // _PATCH)[:, 1:]  # time by band
        self.register_buffer("positions", table, persistent=False)
        if weights is not None:
            state = _renamed(_published.read(weights, "model"))
            _published.load(self.model, state, weights, ignore=_UNUSED)

    def features(self, audio):
        audio = audio - audio.mean(dim=1, keepdim=True)
        bank = fbank(audio, htk_compat=True, window_type="hanning")  # (B, 128, T)
        bank = pad(bank, (0, _FRAMES - bank.shape[2]))  # a negative one cuts
        return (bank - _MEAN) / (2 * _STD)  # the padding as well

    def tokens(self, features):
        """(B, 128, 1024) -> (B, 1 + 64 * 8, D): the class token, then time step by time step."""
        patches = self.model["local_encoder"]["proj"](features.transpose(1, 2)[:, None])
        x = patches.flatten(2).transpose(1, 2)
        x = x + self.positions[:, : x.shape[1]]
        x = torch.cat([self.model.extra_tokens.expand(len(x), -1, -1), x], dim=1)
        x = self.model["pre_norm"](x)
        for block in self.model["blocks"]:
            x = block(x)
        return x

    def encode(self, features):
        bands = _BANDS // _PATCH
        return self.tokens(features)[:, 1:].unflatten(1, (-1, bands)).mean(dim=2)

    def embed(self, audio):
        return self.tokens(self.features(audio)).mean(dim=1)


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The hub's names, without their prefix; the authors' own (fairseq) files have others.

    Those put the layers that read the spectrogram under `modality_encoders.IMAGE.`; in fine-tuned
    files all names begin with `model.`, as on the hub.
    """
    renamed = {}
    for name, value in state.items():
        name = name.removeprefix("model.").removeprefix("modality_encoders.IMAGE.")
        renamed[name.replace("context_encoder.norm.", "pre_norm.")] = value
    return renamed
