"""VGGish, supervised on YouTube-8M."""

from collections.abc import Sequence

import torch
from torch import nn
from torchaudio.compliance.kaldi import get_mel_banks

from evar.adapter import Adapter

from . import _published
from ._frontend import zero_pad

EXAMPLE = 96  # frames of one example: 0.96 s
WINDOW, HOP, FFT = 400, 160, 512  # samples


class VggishNet(nn.Module):
    """Six convolutions in four groups (1, 1, 2, 2) with pooling, three linear layers; all ReLU."""

    def __init__(self, channels: Sequence[int], hidden: int, dim: int):
        super().__init__()
        layers, inputs = [], 1
        for outputs, convolutions in zip(channels, (1, 1, 2, 2), strict=True):
            for _ in range(convolutions):
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.fc = nn.Sequential(
            nn.Linear(inputs * 6 * 4, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, dim),
            nn.ReLU(),
        )

    def forward(self, examples):
        """Embeds examples: (N, 1, 96, 64) -> (N, 128)."""
        x = self.features(examples)  # (N, C, 6, 4)
        return self.fc(x.permute(0, 2, 3, 1).flatten(1))  # TensorFlow's order: channels last


class Vggish(Adapter):
    """VGGish without PCA, maximum plus mean over examples of 0.96 s: 128-d.

    Hershey et al., "CNN architectures for large-scale audio classification", ICASSP 2017. An
    incomplete last example is dropped; a clip shorter than one is padded with silence. Loads both
    conversions to PyTorch (`fc.*`, or `embeddings.*` for the last layers).
    """

    sample_rate = 16000
    embed_dim = 128
    frame_seconds = 0.96
    TINY = {"channels": (4, 4, 4, 4), "hidden": 16}

    def __init__(
        self, weights=None, *, channels: Sequence[int] = (64, 128, 256, 512), hidden: int = 4096
    ):
        super().__init__(weights)
        # Bands are triangular on the mel scale, as in Kaldi, not in Hz, as elsewhere in torchaudio.
        bands, _ = get_mel_banks(64, FFT, 16000.0, 125.0, 7500.0, 100.0, -500.0, 1.0)
        bands = nn.functional.pad(bands, (0, 1)).T  # (257, 64): no band reaches 8 kHz
        self.register_buffer("bands", bands, persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.net = VggishNet(channels, hidden, self.embed_dim)
        if weights is not None:
            state = _published.read(weights)
            state = {name.replace("embeddings.", "fc."): value for name, value in state.items()}
            _published.load(self.net, state, weights)

    def features(self, audio):
        audio = zero_pad(audio, (EXAMPLE - 1) * HOP + WINDOW)
        frames = audio.unfold(1, WINDOW, HOP)  # (B, T, 400), not centred
        whole = frames.shape[1] // EXAMPLE * EXAMPLE
        magnitude = torch.fft.rfft(frames[:, :whole] * self.window, n=FFT).abs()
        return (magnitude @ self.bands + 0.01).log().transpose(1, 2)  # (B, 64, T)

    def encode(self, features):
        examples = features.unflatten(2, (-1, EXAMPLE))  # (B, 64, T', 96)
        batch, _, count, _ = examples.shape
        examples = examples.permute(0, 2, 3, 1).flatten(0, 1)[:, None]  # (B * T', 1, 96, 64)
        return self.net(examples).unflatten(0, (batch, count))

    def embed(self, audio):
        frames = self.frames(audio)  # (B, T', 128)
        return frames.amax(dim=1) + frames.mean(dim=1)
