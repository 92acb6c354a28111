"""BYOL-A, self-supervised on AudioSet: versions 1 and 2."""

import torch
from torch import nn

from evar.errors import UserError

from . import _published
from ._frontend import zero_pad
from .logmel import LogMel


class ByolANet(nn.Module):
    """Convolutions, each followed by pooling by two, then two linear layers on every frame.

    Version 1 pools three times and returns the output of the linear layers; version 2 pools twice
    and concatenates it with the output of the convolutions.
    """

    def __init__(self, version: int, channels: int, width: int, n_mels: int = 64):
        super().__init__()
        if version not in (1, 2):
            raise UserError(f"BYOL-A has no version {version}; known: 1, 2")
        self.pools = 3 if version == 1 else 2
        self.skips = version == 2
        layers, inputs = [], 1
        for _ in range(self.pools):
            layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels)]
            layers += [nn.ReLU(), nn.MaxPool2d(2)]
            inputs = channels
        self.features = nn.Sequential(*layers)
        conv = channels * (n_mels >> self.pools)
        self.fc = nn.Sequential(
            nn.Linear(conv, width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, width), nn.ReLU()
        )
        self.dim = width + conv * self.skips

    def forward(self, spectrogram):
        """Encodes: (B, F, T) -> (B, T / 8, D), or (B, T / 4, D) in version 2."""
        x = self.features(spectrogram[:, None])  # (B, C, F', T')
        x = x.permute(0, 3, 2, 1).flatten(2)  # (B, T', F' * C)
        return torch.cat([x, self.fc(x)], dim=2) if self.skips else self.fc(x)


class ByolA(LogMel):
    """BYOL-A, maximum plus mean over time: 2,048-d, in version 2 3,072-d.

    Niizumi et al., "BYOL for audio: Self-supervised learning for general-purpose audio
    representation", IJCNN 2021, and "BYOL for audio: Exploring pre-trained general-purpose audio
    representations", TASLP 2023. Front end and standardisation by the task's training clips are
    those of `logmel`; clips have any length.
    """

    sample_rate = 16000
    fit_clips = 5000
    TINY = {"channels": 4, "width": 32}

    def __init__(self, weights=None, *, version: int = 1, channels: int = 64, width: int = 2048):
        super().__init__()
        self.weights = weights
        self.net = ByolANet(version, channels, width)
        self.embed_dim = self.net.dim
        self.frame_seconds = 0.01 * 2**self.net.pools
        if weights is not None:
            _published.load(self.net, _published.read(weights), weights)

    def logmel(self, audio):
        # Three poolings by two make one frame of eight: shorter clips are padded with silence.
        return super().logmel(zero_pad(audio, 8 * 160))

    def encoder_blocks(self):
        layers = self.net.features  # convolution, normalisation, ReLU, pooling
        return [layers[i : i + 4] for i in range(0, len(layers), 4)]

    def encode(self, features):
        return self.net(features)
