"""AudioCLIP: a ResNeXt-50 on a learned transform of the waveform, joined to CLIP's text tower."""

import math
from collections.abc import Sequence

import torch
from scipy.signal import get_window
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d, pad

from . import _clip, _published, _text

_WINDOW, _HOP, _FFT = 1654, 561, 2048  # samples
_BINS, _CHANNELS = 1023, 3  # bins that are heard, in three bands: the image's channels
_KERNELS = (3, 1), (1, 5), (3, 1), (1, 5), (3, 5)  # of the attention behind each stage


class AudioClip(_text.AudioLanguage):
    """AudioCLIP's audio tower, 2,048-d before the joint space of 1,024-d, which text shares.

    Guzhov et al., "AudioCLIP: Extending CLIP to image, text and audio", ICASSP 2022; the audio
    tower is ESResNeXt (Guzhov et al., IJCNN 2021). Clips have any length. Waveforms are scaled to
    16-bit integers' range first, as in the original's data sets (code that leaves it out hears the
    clip 90 dB too quiet). Nothing is scaled to unit length. A frame is the clip. Fine-tuning leaves
    the learned transform as it is.
    """

    sample_rate = 44100
    embed_dim = 2048
    joint_dim = 1024
    text_prefix = "transformer.resblocks."
    TINY = {
        "depths": (1, 1, 1, 1),
        "channels": (8, 8, 16, 16),
        "cardinality": 2,
        "bins": 255,
        "text_width": 64,
        "text_layers": 1,
    }

    def __init__(
        self,
        weights=None,
        *,
        tokenizer: str = "openai/clip-vit-base-patch32",
        depths: Sequence[int] = (3, 4, 6, 3),
        channels: Sequence[int] = (64, 128, 256, 512),
        cardinality: int = 32,
        bins: int = _BINS,
        text_width: int = 512,
        text_layers: int = 12,
    ):
        super().__init__(weights)
        state = {} if weights is None else _published.read(weights)
        self.bins = bins
        self.audio = _tower(depths, channels, cardinality, self.joint_dim)
        self.embed_dim = self.audio.fc.in_features
        self.has_text = weights is None or self.find_text(state)
        if self.has_text:
            self.text = _clip.build(text_width, text_layers, self.joint_dim)
        self.tokenizer = _text.Tokenizer(tokenizer, _clip.TOKENS, max_length=_clip.LENGTH)
        if weights is not None:
            state = _clip.rename(state, "text.")
            # CLIP's image tower, the loss's scales, and what is computed here.
            unused = ("visual.", "logit_scale", "audio.window", "audio.fbsp.bias")
            _published.load(self, state, weights, ignore=unused)
        self.register_buffer("kernel", self.audio.fbsp.kernel(bins), persistent=False)

    def encoder_blocks(self):
        net = self.audio
        return [net.layer1, net.layer2, net.layer3, net.layer4]

    def features(self, audio):
        """(B, S) -> (B, 1023, T), in dB; other `bins` in place of 1023."""
        audio = (audio * 32768 + 32768) * 2 / 65535 - 1  # rounded as in the original
        frames = max(0, -(-(audio.shape[1] - _WINDOW) // _HOP)) + 1
        spare = _WINDOW + (frames - 1) * _HOP - audio.shape[1]
        audio = pad(audio, (spare // 2, spare - spare // 2))
        parts = audio.unfold(1, _WINDOW, _HOP) @ self.kernel  # (B, T, 2 * bins)
        power = parts.square().unflatten(2, (2, self.bins)).sum(dim=2).mT
        return 10 * power.masked_fill(power == 0, 1e-18).log10()

    def encode(self, features):
        net = self.audio
        x = features.unflatten(1, (_CHANNELS, -1))  # (B, 3, 341, T): low, middle and high bands
        x = net.maxpool(net.act1(net.bn1(net.conv1(x))))
        for layer, attention in (
            (net.layer1, net.att1),
            (net.layer2, net.att2),
            (net.layer3, net.att3),
            (net.layer4, net.att4),
        ):
            y = layer(x)
            x = y * attention(x, y.shape[2:])
        x = adaptive_avg_pool2d(x, 1) * net.att5(x, (1, 1))
        return x.flatten(1)[:, None]  # (B, 1, 2048)

    def embed_joint(self, audio):
        return self.audio.fc(self.embed(audio))

    def embed_tokens(self, input_ids, attention_mask):
        return self.text(input_ids=input_ids, attention_mask=attention_mask).text_embeds


class Fbsp(nn.Module):
    """Frequency B-spline wavelets, one a bin, as a matrix that frames of samples meet.

    Three numbers a bin, learned from those of a Fourier transform: the order m, the bandwidth fb
    and the centre frequency fc (Guzhov et al., "ESResNe(X)t-fbsp", IJCNN 2021, Section III).
    """

    def __init__(self):
        super().__init__()
        bins = _FFT // 2 + 1
        self.register_buffer("m", torch.zeros(bins))
        self.register_buffer("fb", torch.ones(bins))
        self.register_buffer("fc", torch.arange(bins, dtype=torch.float32))

    def kernel(self, bins: int) -> Tensor:
        """(1654, 2 * bins): real parts, then imaginary ones, with the analysis window in them.

        In float32, as in the original: fc t is up to 3,217 rad, and its rounding is a noise of
        about -80 dB that weak bins show. A kernel of more digits is another front end.
        """
        m, fb, fc = (p[:bins, None] for p in (self.m, self.fb, self.fc))
        t = math.pi * torch.linspace(-1, 1, _FFT) + 1e-8
        sinc = torch.sinc(fb * t / (m + 1e-8) / math.pi)
        # A power of a negative lobe is complex: its phase is m pi.
        envelope = fb.sqrt() * sinc.abs() ** m / math.sqrt(_FFT)
        phase = m * math.pi * (sinc < 0)
        kernel = torch.polar(envelope, phase) * torch.polar(torch.ones(()), -fc * t)
        outside = (_FFT - _WINDOW) // 2  # samples that frames are padded with on both sides
        window = torch.from_numpy(get_window("blackmanharris", _WINDOW)).float()
        kernel = kernel[:, outside : outside + _WINDOW] * window
        return torch.cat([kernel.real, kernel.imag]).T.contiguous()


class Attention(nn.Module):
    """What a stage's input says about which of its outputs count."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int]):
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.conv_depth = nn.Conv2d(inputs, inputs, kernel, padding=padding, groups=inputs)
        self.conv_point = nn.Conv2d(inputs, outputs, 1)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, *size), from 0 to 1."""
        x = adaptive_max_pool2d(x, tuple(size))
        return self.bn(self.conv_point(self.conv_depth(x))).sigmoid()


def _tower(depths, channels, cardinality: int, joint: int) -> ResNet:
    """A ResNeXt with five attention blocks and the learned transform, named as in the file."""
    width = 4  # of a group of the narrowest stage's convolutions, at 64 channels
    net = ResNet(
        Bottleneck,
        tuple(depths),
        joint,
        in_chans=_CHANNELS,
        channels=tuple(channels),
        cardinality=cardinality,
        base_width=width * 32 // cardinality,
    )
    outputs = [4 * c for c in channels]
    sizes = zip([64, *outputs], [*outputs, outputs[-1]], _KERNELS, strict=True)
    for i, (inputs, out, kernel) in enumerate(sizes, start=1):
        net.add_module(f"att{i}", Attention(inputs, out, kernel))
    net.fbsp = Fbsp()
    return net
