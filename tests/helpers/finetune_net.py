"""A network small enough to be trained in a test: a spectrum of 20 bands, two blocks, dropout.

A command line takes it as `finetune_net.py:Net`. With EVAR_TEST_DIE=N its process is killed when it
sees its N-th batch.
"""

import os
import random
import signal

import numpy as np
import torch
from torch import nn

from evar import Adapter


class Net(Adapter):
    sample_rate = 16000
    embed_dim = 8
    seen = 0

    def __init__(self, weights=None, *, dropout: float = 0.1):
        super().__init__(weights)
        self.stem = nn.Linear(20, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(dropout)) for _ in range(2)
        )
        self.last = nn.LayerNorm(8)
        self.unused = nn.Linear(3, 3)

    def features(self, audio):
        Net.seen += 1
        if Net.seen == int(os.environ.get("EVAR_TEST_DIE", "-1")):
            os.kill(os.getpid(), signal.SIGKILL)
        spectrum = torch.fft.rfft(audio.unfold(1, 400, 160)).abs()  # (B, T, 201)
        bands = nn.functional.adaptive_avg_pool1d(spectrum, 20)
        return bands.clamp(min=1e-3).log().mT

    def encode(self, features):
        x = self.stem(features.mT)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


class Moody(Net):
    """Keeps a running mean in training, and draws from the generators of NumPy and Python there."""

    def __init__(self, weights=None):
        super().__init__(weights)
        self.register_buffer("mean", torch.zeros(20))

    def encode(self, features):
        if self.training:
            self.mean.lerp_(features.mean(dim=(0, 2)), 0.1)
            features = features + np.random.randn() + random.random()
        return super().encode(features - self.mean[:, None])
