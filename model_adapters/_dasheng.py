"""The front end and the encoder that CED and Dasheng share (of the package dasheng)."""

from pathlib import Path

import torch
import torchaudio
from torch import Tensor, nn

from evar.adapter import Adapter
from evar.errors import UserError

from . import _published
from ._frontend import zero_pad

_HOP = 160  # samples: 10 ms


class MelTransformer(Adapter):
    """A transformer on patches of a 64-band log-mel; its embedding is the mean over tokens.

    A subclass sets `patch` (F, T) and `length`, the frames that its positions were learned for.
    """

    sample_rate = 16000
    patch: tuple[int, int]
    length: int

    def __init__(self, weights: Path | None, width: int, depth: int, heads: int):
        super().__init__(weights)
        self.mel = torchaudio.transforms.MelSpectrogram(
            sample_rate=16000, n_fft=512, hop_length=_HOP, f_max=8000, n_mels=64
        )
        self.decibels = torchaudio.transforms.AmplitudeToDB(top_db=120)
        self.net = self._network(width, depth, heads)
        self.embed_dim = width
        if weights is not None:
            state = {_library_name(k): v for k, v in _published.read(weights, "model").items()}
            # Tables of the front end, which this module computes itself, and the classifier.
            ignore = ("front_end.", "outputlayer.")
            _published.load(self.net, state, weights, ignore=ignore)

    def _network(self, width: int, depth: int, heads: int) -> nn.Module:
        try:
            from dasheng.pretrained.pretrained import Dasheng
        except ImportError as error:
            name = type(self).__name__
            raise UserError(
                f"{name} needs the package dasheng: pip install dasheng ({error})"
            ) from error
        net = Dasheng(
            patch_size=self.patch,
            patch_stride=self.patch,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            target_length=self.length,
        )
        # Its decibels are relative to the loudest clip of the batch; `features` replaces them.
        del net.front_end
        return net

    def features(self, audio: Tensor) -> Tensor:
        """Computes the log-mel: (B, S) -> (B, 64, S // 160 + 1), in dB.

        Values are clipped 120 dB below the clip's peak. A clip shorter than one patch is padded
        with silence.
        """
        audio = zero_pad(audio, max((self.patch[1] - 1) * _HOP, 257))  # 257: reflect padding
        # Half precision has too few digits for powers that span 14 orders of magnitude.
        with torch.autocast(audio.device.type, enabled=False):
            # AmplitudeToDB applies top_db to each clip only if the input has four dimensions.
            return self.decibels(self.mel(audio.float())[:, None])[:, 0]

    def tokens(self, features: Tensor) -> list[Tensor]:
        """Encodes chunk by chunk: (B, 64, T) -> a list of (B, F' * T', D), frequency-major."""
        raise NotImplementedError

    def encoder_blocks(self):
        return self.net.blocks

    def encode(self, features: Tensor) -> Tensor:
        rows = 64 // self.patch[0]
        chunks = [t.unflatten(1, (rows, -1)).mean(dim=1) for t in self.tokens(features)]
        return torch.cat(chunks, dim=1)  # (B, T', D)

    def normalise(self, features: Tensor) -> Tensor:
        """Applies the encoder's batch normalisation per band: (B, 64, T) -> (B, 1, 64, T)."""
        return self.net.init_bn(features[:, None])


def _library_name(name: str) -> str:
    """Returns a tensor's name in the package, given that or the Hugging Face name."""
    name = name.removeprefix("encoder.")
    return name if name.startswith("init_bn.1.") else name.replace("init_bn.", "init_bn.1.", 1)
