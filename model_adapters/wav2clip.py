"""Wav2CLIP: a ResNet-18 on spectrograms, distilled from CLIP's image tower (Wu et al., 2022)."""

from collections.abc import Sequence

import torch
import torchaudio
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from evar.adapter import Adapter

from . import _clip, _published
from ._frontend import zero_pad

_FFT, _HOP = 512, 353  # samples
_SECOND = 16000  # samples


class Wav2Clip(Adapter):
    """Wav2CLIP's embedding in the space of CLIP ViT-B/32: 512-d, not of unit length.

    Wu et al., "Wav2CLIP: Learning robust audio representations from CLIP", ICASSP 2022. Clips have
    any length. The spectrogram is standardised over the clip; the original does it over the batch,
    so that an embedding depends on its neighbours. A frame is one second, encoded by itself.
    Captions go through CLIP's text tower, which is no part of the file: `text_encoder`, a folder or
    hub name (a folder of that name in the weights folder comes first).
    """

    sample_rate = 16000
    embed_dim = joint_dim = 512
    frame_seconds = 1.0
    blank = 0.0  # features are standardised
    text_options = ("text_encoder",)
    TINY = {"depths": (1, 1, 1, 1), "channels": (8, 8, 16, 16)}

    def __init__(
        self,
        weights=None,
        *,
        text_encoder: str = "openai/clip-vit-base-patch32",
        depths: Sequence[int] = (2, 2, 2, 2),
        channels: Sequence[int] = (64, 128, 256, 512),
    ):
        super().__init__(weights)
        net = ResNet(BasicBlock, tuple(depths), 0, in_chans=1, channels=tuple(channels))
        net.spectrogram = torchaudio.transforms.Spectrogram(_FFT, hop_length=_HOP)
        self.audio_encoder = net
        layers = (nn.Linear(channels[-1], 512), nn.ReLU(), nn.Dropout(0.1), nn.Linear(512, 512))
        self.audio_transform = nn.ModuleDict({"sequential": nn.Sequential(*layers)})
        self.text = _clip.TextEncoder(text_encoder)
        if weights is not None:
            # The window is computed; published files hold it, and it counts where they do.
            state = {"audio_encoder.spectrogram.window": net.spectrogram.window}
            state |= _published.read(weights)
            unused = ("image_transform.", "loss_fn_i.", "loss_fn_a.")  # of the training
            _published.load(self, state, weights, ignore=unused)

    def encoder_blocks(self):
        net = self.audio_encoder
        return [net.layer1, net.layer2, net.layer3, net.layer4]

    def spectrogram(self, audio: Tensor) -> Tensor:
        """(B, S) -> (B, 257, T), natural log of the power."""
        audio = zero_pad(audio, _FFT // 2 + 1)  # the edges are reflected
        return (self.audio_encoder.spectrogram(audio) + 1e-7).log()

    def features(self, audio):
        return _standardised(self.spectrogram(audio))

    def encode(self, features):
        return self.audio_transform["sequential"](self.pooled(features))[:, None]  # (B, 1, 512)

    def pooled(self, features: Tensor) -> Tensor:
        """(B, 257, T) -> (B, 512), the ResNet's own, before the way into the joint space."""
        return self.audio_encoder(features[:, None])

    def embed(self, audio):
        return self.encode(self.features(audio))[:, 0]

    def frames(self, audio):
        """(B, S) -> (B, T, 512): whole seconds, standardised together; a shorter clip is one."""
        length = min(_SECOND, audio.shape[1])
        seconds = audio.unfold(1, length, length)  # (B, T, length)
        spectra = self.spectrogram(seconds.flatten(0, 1)).unflatten(0, seconds.shape[:2])
        return self.encode(_standardised(spectra).flatten(0, 1))[:, 0].unflatten(
            0, seconds.shape[:2]
        )

    def embed_joint(self, audio):
        return self.embed(audio)

    def embed_text(self, captions):
        return self.text(captions, next(self.parameters()).device)

    def text_identity(self):
        return {"text_encoder": self.text.identity()}


def _standardised(spectra: Tensor) -> Tensor:
    """(B, ...) -> the same shape: mean 0 and deviation 1 over each clip."""
    rest = tuple(range(1, spectra.ndim))
    std, mean = torch.std_mean(spectra, dim=rest, keepdim=True)
    return (spectra - mean) / (std + 1e-9)
