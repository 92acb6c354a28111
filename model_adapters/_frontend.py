"""Front ends that several encoders share: windows of a fixed length, log-mel in decibels."""

import hashlib

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn
from torch.nn.functional import pad

from evar.errors import UserError


def crop(audio: Tensor, length: int, *, seed: int = 0) -> Tensor:
    """Takes one window of each clip: (B, S) -> (B, length), or unchanged if S <= length.

    The originals draw the window at random, so that a clip's embedding differs from run to run.
    Here it follows from `seed` and the clip's own samples: the same clip has the same window, alone
    or in any batch. Windows end before the zero padding of a clip that is longer than a window: the
    originals saw clips unpadded, so that none of their windows was padding alone.
    """
    if audio.shape[1] <= length:
        return audio
    rows = audio.detach().float().cpu().contiguous().numpy()
    starts = [_window_start(row, length, seed) for row in rows]
    windows = [row[start : start + length] for row, start in zip(audio, starts, strict=True)]
    return torch.stack(windows)


def _window_start(row: np.ndarray, length: int, seed: int) -> int:
    sounding = np.flatnonzero(row)
    spare = max(0, int(sounding[-1]) + 1 - length) if len(sounding) else 0
    key = seed.to_bytes(8, "little", signed=True)
    digest = hashlib.blake2b(row.tobytes(), digest_size=8, key=key).digest()
    return int.from_bytes(digest, "little") % (spare + 1)


def repeat_cut(audio: Tensor, length: int) -> Tensor:
    """Repeats a shorter clip and cuts the last repetition: (B, S) -> (B, max(S, length))."""
    if audio.shape[1] >= length:
        return audio
    times = -(-length // audio.shape[1])
    return audio.repeat(1, times)[:, :length]


def zero_pad(audio: Tensor, length: int) -> Tensor:
    """Appends silence to a shorter clip: (B, S) -> (B, max(S, length))."""
    return pad(audio, (0, max(0, length - audio.shape[1])))


class LogMelFrontEnd(nn.Module):
    """Computes log-mel in dB like torchlibrosa: PANNs, HTS-AT, LAION-CLAP, MS-CLAP, WavCaps.

    Power spectrogram with a Hann window as long as the FFT, centred frames and reflected edges;
    Slaney mel bands; 10 log10(max(power, 1e-10)). `bands` (n_fft / 2 + 1, F) is the mel matrix that
    published checkpoints store as `melW`. Its buffers are not part of the state dict.
    """

    def __init__(
        self,
        sample_rate: int,
        *,
        n_fft: int = 1024,
        hop: int = 320,
        f_min: float = 50.0,
        f_max: float = 14000.0,
        n_mels: int = 64,
    ):
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.bands: Tensor
        self.window: Tensor
        bands = torchaudio.functional.melscale_fbanks(
            n_fft // 2 + 1, f_min, f_max, n_mels, sample_rate, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("bands", bands, persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Returns the log-mel: (B, S) -> (B, F, S // hop + 1), in dB."""
        audio = zero_pad(audio, self.n_fft // 2 + 1)  # reflection needs more than half a window
        power = torchaudio.functional.spectrogram(
            audio,
            pad=0,
            window=self.window,
            n_fft=self.n_fft,
            hop_length=self.hop,
            win_length=self.n_fft,
            power=2.0,
            normalized=False,
        )  # (B, n_fft / 2 + 1, T)
        mel = (power.transpose(1, 2) @ self.bands).transpose(1, 2)
        return 10 * mel.clamp(min=1e-10).log10()

    def check(self, state: dict[str, Tensor], path) -> None:
        """Raises UserError if a checkpoint was trained with other mel bands than these."""
        for name, stored in state.items():
            if not name.endswith(".melW"):
                continue
            ours = self.bands.to(stored)
            same = stored.shape == ours.shape and (stored - ours).norm() <= 1e-4 * ours.norm()
            if not same:
                raise UserError(
                    f"{path}: {name} holds other mel bands than this adapter computes (sample "
                    "rate, FFT size or frequency range differ). Use the published file of this "
                    "model, or the model that this file belongs to."
                )
