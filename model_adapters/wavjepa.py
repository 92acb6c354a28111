"""WavJEPA: a joint-embedding predictive architecture on waveforms (Yuksel et al., 2025)."""

import numpy as np
import torch
from torch import Tensor, nn

from evar.adapter import Adapter

from . import _published
from ._frontend import zero_pad

_WINDOW, _HOP = 32_160, 160  # samples: 2.01 s, which the convolutions turn into 200 frames
_FRAMES = 200
# (kernel, stride) of the convolutions: those of wav2vec 2.0 but for the last one
_LAYERS = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2))
_UNUSED = (  # the teacher, and what predicts its output from the context
    *("teacher_encoder.", "decoder.", "mask_token", "pos_encoding_decoder"),
    *("decoder_to_encoder_mapper.", "encoder_to_decoder_mapper."),
)


class WavJepa(Adapter):
    """WavJEPA's context encoder, averaged over frames of 10 ms: 768-d.

    Yuksel et al., "WavJEPA: Semantic learning unlocks robust audio foundation models for raw
    waveforms", 2025. The clip is encoded in windows of 2.01 s without overlap, each brought to zero
    mean and unit variance; the last one is filled up with silence, whose frames are neither
    attended to nor returned. `width`, `depth`, `heads` and `channels` size the network.
    """

    sample_rate = 16000
    frame_seconds = _WINDOW / 16000 / _FRAMES
    TINY = {"width": 16, "depth": 1, "heads": 2, "channels": 8}

    def __init__(
        self,
        weights=None,
        *,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        channels: int = 512,
    ):
        super().__init__(weights)
        self.embed_dim = width
        self.extract_audio = nn.ModuleDict({"cnn": _convolutions(channels)})
        self.feature_norms = nn.LayerNorm(channels)
        same = channels == width
        self.post_extraction_mapper = nn.Identity() if same else nn.Linear(channels, width)
        self.pos_encoding_encoder: Tensor  # fixed, so a buffer; checkpoints hold it
        self.register_buffer("pos_encoding_encoder", _positions(width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", layer_norm_eps=1e-6,
            batch_first=True,
        )  # fmt: skip
        norm = nn.LayerNorm(width)
        self.encoder = nn.TransformerEncoder(layer, depth, norm, enable_nested_tensor=False)
        if weights is not None:
            _published.load(self, _published.read(weights), weights, ignore=_UNUSED)

    def encoder_blocks(self):
        return self.encoder.layers

    def frames(self, audio):
        clips, samples = audio.shape
        count = -(-samples // _WINDOW)
        windows = zero_pad(audio, count * _WINDOW).view(clips * count, _WINDOW)
        tokens = self.tokens(windows).unflatten(0, (clips, count))
        last = frames_of(samples - (count - 1) * _WINDOW)
        parts = [self.encoder(tokens[:, -1, :last])]  # frames of padding are left out: masked
        if count > 1:
            whole = self.encoder(tokens[:, :-1].flatten(0, 1))
            parts.insert(0, whole.reshape(clips, -1, self.embed_dim))
        return torch.cat(parts, dim=1)

    def tokens(self, windows: Tensor) -> Tensor:
        """Turns windows into the transformer's input: (N, 32160) -> (N, 200, D)."""
        std, mean = torch.std_mean(windows, dim=1, keepdim=True)
        local = self.extract_audio["cnn"](((windows - mean) / (std + 1e-5))[:, None])
        local = self.post_extraction_mapper(self.feature_norms(local.transpose(1, 2)))
        return local + self.pos_encoding_encoder


def frames_of(samples: int) -> int:
    """Returns how many of a window's 200 frames are not of the silence that fills it."""
    return max(1, _FRAMES - (_WINDOW - samples) // _HOP)


def _convolutions(channels: int) -> nn.Sequential:
    """(N, 1, S) -> (N, channels, T), named as in the published file."""
    blocks, inputs = [], 1
    for number, (kernel, stride) in enumerate(_LAYERS):
        conv = nn.Conv1d(inputs, channels, kernel, stride, bias=False)
        norm = [nn.GroupNorm(channels, channels)] if number == 0 else []
        blocks.append(nn.Sequential(conv, nn.Identity(), *norm, nn.GELU()))  # the place of dropout
        inputs = channels
    return nn.Sequential(*blocks)


def _positions(width: int) -> Tensor:
    """(1, 200, width): sines, then cosines, of wavelengths from 2 pi to 10,000 * 2 pi."""
    omega = 1.0 / 10000 ** (np.arange(width // 2) / (width / 2))
    angle = np.outer(np.arange(_FRAMES), omega)
    return torch.from_numpy(np.concatenate([np.sin(angle), np.cos(angle)], axis=1)[None]).float()
