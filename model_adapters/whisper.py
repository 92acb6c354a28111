"""Whisper's encoder (OpenAI), trained to transcribe and translate speech."""

import torch
import torchaudio
from torch.nn.functional import pad

from evar.adapter import Adapter
from evar.errors import UserError

from . import _transformers

_WINDOW = 480_000  # samples: 30 s
_FRAMES = 3000  # of a window, 10 ms each; the encoder takes no other number
_HOP = 160


class Whisper(Adapter):
    """Whisper's encoder output, averaged over the frames of the clip: 1280-d for large-v3.

    Radford et al., "Robust speech recognition via large-scale weak supervision", ICML 2023.
    `weights` is a transformers folder of any size. Clips are taken in windows of 30 s, each filled
    with silence; what answers to the filling is cut off, 20 ms a frame. The other options change
    the network that is built where there is no folder.
    """

    sample_rate = 16000
    frame_seconds = 0.02
    TINY = {"width": 16, "depth": 1, "heads": 2, "n_mels": 8}

    def __init__(
        self,
        weights=None,
        *,
        width: int = 1280,
        depth: int = 32,
        heads: int = 20,
        n_mels: int = 128,
    ):
        super().__init__(weights)
        self.net = self._encoder(weights, width, depth, heads, n_mels)
        self.embed_dim = self.net.config.d_model
        bands = torchaudio.functional.melscale_fbanks(
            201, 0.0, 8000.0, self.net.config.num_mel_bins, 16000, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("bands", bands, persistent=False)  # (201, F)
        self.register_buffer("hann", torch.hann_window(400), persistent=False)

    def _encoder(self, weights, width: int, depth: int, heads: int, n_mels: int):
        return _encoder(weights, width, depth, heads, n_mels)

    def features(self, audio):
        """(B, S) -> (B, F, T): two frames for every 20 ms of a window of 30 s, and two more.

        The two hear the clip's last samples: with them, and with the silence that `encode` adds,
        the log-mel is that of the window filled up with silence.
        """
        return torch.cat([self._logmel(window) for window in audio.split(_WINDOW, dim=1)], dim=2)

    def _logmel(self, window):
        frames = 2 * -(-window.shape[1] // (2 * _HOP)) + 2
        window = pad(window, (0, _WINDOW - window.shape[1]))
        # Half precision has too few digits for powers that span 14 orders of magnitude.
        with torch.autocast(window.device.type, enabled=False):
            spectrum = torch.stft(window.float(), 400, _HOP, window=self.hann, return_complex=True)[
                ..., :-1
            ]  # (B, 201, 3000)
            power = spectrum.real.square() + spectrum.imag.square()
            logmel = (power.mT @ self.bands).mT.clamp(min=1e-10).log10()
            floor = logmel.amax(dim=(1, 2), keepdim=True) - 8
            return _filled((logmel.maximum(floor) + 4) / 4, frames)

    def layer_parameters(self, seconds=1.0):
        fixed = self.net.embed_positions.weight  # sines
        return [[p for p in layer if p is not fixed] for layer in super().layer_parameters(seconds)]

    def encode(self, features):
        windows = []
        for window in features.split(_FRAMES + 2, dim=2):
            windows.append(self._states(_filled(window, _FRAMES), window.shape[2] - 2))
        return torch.cat(windows, dim=1)

    def _states(self, filled, frames: int):
        """(B, F, 3000), of which `frames` are the clip's -> (B, T, D) of the clip."""
        return self.net(filled).last_hidden_state[:, : frames // 2]


def _filled(logmel, frames: int):
    """(B, F, T) -> (B, F, frames): cut, or filled with what silence is beside these frames."""
    if logmel.shape[2] >= frames:
        return logmel[..., :frames]
    # 8 below the loudest value, in units of 4, and not below the log of 1e-10.
    silence = (logmel.amax(dim=(1, 2), keepdim=True) - 2).clamp(min=(-10 + 4) / 4)
    filling = silence.expand(-1, logmel.shape[1], frames - logmel.shape[2])
    return torch.cat([logmel, filling], dim=2)


def _encoder(weights, width: int, depth: int, heads: int, n_mels: int):
    from transformers import AutoModel, WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    if weights is None:
        return WhisperEncoder(
            WhisperConfig(
                d_model=width,
                encoder_layers=depth,
                encoder_attention_heads=heads,
                encoder_ffn_dim=4 * width,
                num_mel_bins=n_mels,
            )
        )
    model = _transformers.pretrained(AutoModel, weights)
    if model.config.model_type != "whisper":
        raise UserError(f"{weights}: holds a {model.config.model_type} model, not whisper")
    return model.get_encoder()
