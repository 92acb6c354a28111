"""HTS-AT, supervised on AudioSet."""

from collections.abc import Sequence

import torch

from evar.adapter import Adapter

from . import _htsat, _published
from ._frontend import LogMelFrontEnd

WINDOW = 320_000  # samples: 10 s


class Htsat(Adapter):
    """HTS-AT's tokens, averaged over time: 768-d.

    Chen et al., "HTS-AT: A hierarchical token-semantic audio transformer", ICASSP 2022. Clips are
    encoded in windows of 10 s; the log-mel of a shorter window is repeated as often as it fits.
    """

    sample_rate = 32000
    TINY = {"width": 24, "depths": (1, 1, 1, 1)}

    def __init__(self, weights=None, *, width: int = 96, depths: Sequence[int] = (2, 2, 6, 2)):
        super().__init__(weights)
        self.mel = LogMelFrontEnd(self.sample_rate)
        self.net = _htsat.build(width, depths)
        self.embed_dim = self.net.config.hidden_size
        if weights is not None:
            state = _published.read(weights, "state_dict")
            self.mel.check(state, weights)
            _published.load(self, _htsat.rename(state, "sed_model.", "net."), weights)

    def encoder_blocks(self):
        return _htsat.stages(self.net)

    def features(self, audio):
        # Each window by itself: its edges are reflected, as in the original.
        return torch.cat([self.mel(window) for window in audio.split(WINDOW, dim=1)], dim=2)

    def encode(self, features):
        windows = []
        for window in features.split(_htsat.FRAMES, dim=2):  # (B, 64, T <= 1001)
            times = 1024 // window.shape[2]
            windows.append(_htsat.frames(self.net, window.repeat(1, 1, times)))  # (B, 32, D)
        return torch.cat(windows, dim=1)
