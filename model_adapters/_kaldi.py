"""Kaldi's log-mel filter bank, as BEATs and AST use it."""

import torch
from torch import Tensor
from torchaudio.compliance import kaldi

from ._frontend import zero_pad

_WINDOW, _HOP = 400, 160  # samples: 25 and 10 ms at 16 kHz


def fbank(audio: Tensor, *, least: int = 16, **settings) -> Tensor:
    """Computes the log-mel of each clip: (B, S) waveforms at 16 kHz -> (B, 128, T).

    A clip with fewer than `least` frames is padded with silence (16 make one patch: 0.175 s).
    """
    audio = zero_pad(audio, _WINDOW + (least - 1) * _HOP)
    # Half precision has too few digits for powers that span 14 orders of magnitude.
    with torch.autocast(audio.device.type, enabled=False):
        clips = [
            kaldi.fbank(clip[None], num_mel_bins=128, sample_frequency=16000, dither=0, **settings)
            for clip in audio.float()
        ]
    return torch.stack(clips).transpose(1, 2)
