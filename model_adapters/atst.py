"""ATST: audio teacher-student transformers for clips and for frames (Li et al.)."""

from functools import partial
from pathlib import Path

import torch
import torchaudio
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from evar.adapter import Adapter

from . import _published
from ._frontend import zero_pad

_LOWEST, _HIGHEST = -79.6482, 50.6842  # dB of the log-mel; scaled to [-1, 1]
_BANDS, _STEP = 64, 4  # a token is 64 bands by 4 frames
_TOP_DB = 80.0


class _Atst(Adapter):
    """The front end, patches and blocks that both models share. A token is 40 ms."""

    sample_rate = 16000
    TINY = {"width": 24, "depth": 2, "heads": 2}
    chunk: int  # frames encoded together
    final_norm: str

    def __init__(self, weights: Path | None, width: int, depth: int, heads: int):
        super().__init__(weights)
        self.mel = torchaudio.transforms.MelSpectrogram(
            16000, n_fft=1024, hop_length=160, f_min=60, f_max=7800, n_mels=_BANDS
        )
        norm = partial(nn.LayerNorm, eps=1e-6)
        net = {
            "patch_embed": nn.ModuleDict({"patch_embed": nn.Linear(_BANDS * _STEP, width)}),
            "blocks": nn.ModuleList(
                Block(width, heads, 4.0, qkv_bias=False, norm_layer=norm) for _ in range(depth)
            ),
            self.final_norm: norm(width),
        }
        self.net = nn.ModuleDict(net)
        self.net.register_parameter("pos_embed", nn.Parameter(0.02 * torch.randn(1, 251, width)))

    def _load(self, state: dict[str, Tensor]) -> None:
        _published.load(self.net, state, self.weights, ignore=("mask_embed", "head.", "projector."))

    def features(self, audio):
        power = self.mel(zero_pad(audio, self.mel.n_fft))
        decibels = 10 * power.clamp(min=1e-10).log10()
        floor = decibels.amax(dim=(1, 2), keepdim=True) - _TOP_DB  # per clip, not per batch
        decibels = torch.maximum(decibels, floor)
        return (decibels - _LOWEST) / (_HIGHEST - _LOWEST) * 2 - 1

    def chunks(self, features: Tensor) -> list[Tensor]:
        """Splits (B, 64, T) into pieces of at most `chunk` frames, none shorter than a token."""
        pieces = features.split(self.chunk, dim=2)
        return [p for i, p in enumerate(pieces) if i == 0 or p.shape[2] >= _STEP]

    def patches(self, chunk: Tensor) -> Tensor:
        """Embeds patches: (B, 64, T) -> (B, T // 4, D); frames of an incomplete one are dropped."""
        cut = chunk.unfold(2, _STEP, _STEP)  # (B, 64, T // 4, 4)
        return self.net["patch_embed"]["patch_embed"](cut.transpose(1, 2).flatten(2))


class AtstClip(_Atst):
    """ATST-Clip: class token and mean of the other tokens, averaged over 6-s chunks: 1,536-d.

    Li et al., "Self-supervised audio teacher-student transformer for both clip-level and
    frame-level tasks", TASLP 2024. Of clips longer than 12 s the middle 12 s are used, as in the
    original's evaluation. A frame is its chunk's class token and a token, concatenated.
    """

    lr = 3e-4
    chunk, final_norm = 601, "norm"
    longest = 12 * 16000  # samples

    def __init__(
        self, weights: Path | None = None, *, width: int = 768, depth: int = 12, heads: int = 12
    ):
        super().__init__(weights, width, depth, heads)
        self.embed_dim = 2 * width
        self.net.register_parameter("cls_token", nn.Parameter(torch.zeros(1, 1, width)))
        if weights is not None:
            self._load(_teacher(weights, "teacher"))

    def features(self, audio):
        spare = max(0, audio.shape[1] - self.longest)
        return super().features(audio[:, spare // 2 : audio.shape[1] - (spare - spare // 2)])

    def tokens(self, chunk: Tensor) -> Tensor:
        """Encodes one chunk: (B, 64, T) -> (B, 1 + T // 4, D), the class token first."""
        x = self.patches(chunk)
        x = torch.cat([self.net.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + self.net.pos_embed[:, : x.shape[1]]
        for block in self.net["blocks"]:
            x = block(x)
        return self.net["norm"](x)

    def _kept(self, features: Tensor) -> list[tuple[Tensor, int]]:
        """Returns tokens of the first chunk, and of later ones longer than half a chunk.

        With each comes the number of tokens from the chunk's start to the end of the clip: the
        original divides a chunk's sum by it, so that earlier chunks of a long clip weigh less.
        """
        frames = features.shape[2]
        return [
            (self.tokens(piece), (frames - i * self.chunk) // _STEP)
            for i, piece in enumerate(self.chunks(features))
            if i == 0 or piece.shape[2] > self.chunk // 2
        ]

    def encode(self, features):
        frames = [
            torch.cat([t[:, :1].expand(-1, t.shape[1] - 1, -1), t[:, 1:]], dim=2)
            for t, _ in self._kept(features)
        ]
        return torch.cat(frames, dim=1)

    def embed(self, audio):
        clips = [
            torch.cat([t[:, 0], t[:, 1:].sum(dim=1) / left], dim=1)
            for t, left in self._kept(self.features(audio))
        ]
        return torch.stack(clips).mean(dim=0)


class AtstFrame(_Atst):
    """ATST-Frame: outputs of all twelve blocks, normalised and concatenated, mean: 9,216-d.

    Li et al., TASLP 2024, as above. Longer clips are encoded in 10-s chunks, whose means are
    averaged.
    """

    lr = 3e-5
    frame_seconds = 0.01 * _STEP
    chunk, final_norm = 1001, "norm_frame"

    def __init__(
        self, weights: Path | None = None, *, width: int = 768, depth: int = 12, heads: int = 12
    ):
        super().__init__(weights, width, depth, heads)
        self.embed_dim = depth * width
        if weights is not None:
            self._load(_teacher(weights, "state_dict"))

    def tokens(self, chunk: Tensor) -> Tensor:
        """Encodes one chunk: (B, 64, T) -> (B, T // 4, blocks * D)."""
        x = self.patches(chunk)
        x = x + self.net.pos_embed[:, 1 : x.shape[1] + 1]  # the first one is for a class token
        layers = []
        for block in self.net["blocks"]:
            x = block(x)
            layers.append(self.net["norm_frame"](x))
        return torch.cat(layers, dim=2)

    def encode(self, features):
        return torch.cat([self.tokens(chunk) for chunk in self.chunks(features)], dim=1)

    def embed(self, audio):
        chunks = self.chunks(self.features(audio))
        return torch.stack([self.tokens(chunk).mean(dim=1) for chunk in chunks]).mean(dim=0)


def _teacher(weights: Path, container: str) -> dict[str, Tensor]:
    """The teacher's encoder, in a Lightning checkpoint as well; else all tensors."""
    state = _published.read(weights, container)
    state = {name.removeprefix("backbone."): value for name, value in state.items()}
    prefix = "model.teacher.encoder."
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return own or state
