"""OpenL3 (look, listen and learn more); the network is that of the package torchopenl3."""

from pathlib import Path

import torch
from torch.nn.functional import pad

from evar.adapter import Adapter
from evar.errors import UserError
from evar.weights import load_checkpoint, load_strict

_WINDOW, _HOP = 48000, 4800  # samples: 1 s, every 0.1 s
_AT_ONCE = 32  # windows per forward pass; each is an image of 256 x 199


class OpenL3(Adapter):
    """Windows of one second, maximum and mean over time: 6,144-d (mel256).

    Cramer et al., "Look, listen, and learn more: Design choices for deep audio embeddings", ICASSP
    2019. Windows are centred: the first one begins half a second before the clip. `content` is
    what the published network was trained on, "music" or "env".
    """

    sample_rate = 48000
    embed_dim = 6144
    frame_seconds = _HOP / 48000
    TINY = None  # needs the optional package, whose network has one size

    def __init__(self, weights: Path | None = None, *, content: str = "music"):
        super().__init__(weights)
        if content not in ("music", "env"):
            raise UserError(f"--content={content}: must be music or env")
        try:
            from torchopenl3.models import PytorchOpenl3
        except ImportError as error:
            raise UserError(
                f"openl3 needs the package torchopenl3: pip install torchopenl3 six ({error})"
            ) from error
        self.net = PytorchOpenl3(input_repr="mel256", embedding_size=6144, content_type=content)
        if weights is not None:
            load_strict(self.net, load_checkpoint(weights), weights)

    def frames(self, audio):
        before = _WINDOW // 2
        length = max(before + audio.shape[1], _WINDOW)
        after = -(length - _WINDOW) % _HOP + length - before - audio.shape[1]
        windows = pad(audio, (before, after)).unfold(1, _WINDOW, _HOP)  # (B, T, 48000)
        flat = windows.reshape(-1, 1, _WINDOW)
        out = torch.cat([self.net(part).flatten(1) for part in flat.split(_AT_ONCE)])
        return out.unflatten(0, windows.shape[:2])

    def embed(self, audio):
        frames = self.frames(audio)
        return frames.mean(dim=1) + frames.amax(dim=1)
