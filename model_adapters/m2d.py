"""Masked modeling duo and its kin: M2D, MSM-MAE, M2D-CLAP (Niizumi et al., 2022-2024)."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
import torchaudio
from torch import Tensor, nn

from evar.adapter import Adapter
from evar.errors import UserError

from . import _published, _text
from ._frontend import zero_pad
from ._vit import ViT

NORM_STATS = (-7.1, 4.2)  # mean and deviation of the log-mel, where a checkpoint has none
_UNUSED = (  # of pre-training: the predictor, the target network, the losses
    "mask_token",
    "decoder_",
    "target_",
    "logit_scale",
    "text_proj.",
    "text_encoder.",
    "head.",
)
_FINE_TUNED = "module.ar.runtime.backbone."


@dataclass(frozen=True)
class Published:
    """What the folder of a published checkpoint is called, taken apart."""

    input_size: tuple[int, int]  # mel bands, frames
    patch_size: tuple[int, int]
    sample_rate: int

    @classmethod
    def parse(cls, name: str) -> "Published":
        """`m2d_clap_vit_base-80x608p16x16p32kpA-...` -> 80 x 608, 16 x 16, 32 kHz.

        What else may follow names the text encoder of training (pA GTE-base, pB BERT, pN
        NV-Embed) and whether the file holds it (pTI). Raises UserError for any other name.
        """
        pattern = r"-(\d+)x(\d+)p(\d+)x(\d+)((?:p\w+?)*)(?:-|$)"
        found = re.search(pattern, name)
        if not found:
            raise UserError(
                f"{name}: the folder of an M2D checkpoint tells input and patch size, as in "
                "m2d_vit_base-80x608p16x16-221006-mr7; keep its published name"
            )
        bands, frames, high, wide = (int(found[i]) for i in range(1, 5))
        rate = 16000
        for part in filter(None, found[5].split("p")):
            if part in ("16k", "32k"):
                rate = int(part[:2]) * 1000
            elif part not in ("A", "B", "N", "TI"):
                raise UserError(f"{name}: p{part} is no part of a known M2D folder name")
        return cls((bands, frames), (high, wide), rate)


class M2D(Adapter):
    """M2D or MSM-MAE: the patches of one time step side by side, mean over time.

    3,840-d at 80 bands: five patches of 768 a step of 160 ms (Niizumi et al., "Masked modeling
    duo", ICASSP 2023, Section III.B). Clips longer than the network's input are encoded in chunks;
    the last one is padded with zeros, after standardisation, to whole patches. `flat` gives the
    mean over all patches, 768-d. `weights` is a published folder or a file inside one.
    """

    lr = 3e-5
    TINY = {"width": 24, "depth": 2, "heads": 2}

    def __init__(
        self,
        weights: Path | None = None,
        *,
        name: str = "m2d_vit_base-80x608p16x16",
        flat: bool = False,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
    ):
        super().__init__(weights)
        state = {}
        if weights is not None:
            file = _checkpoint(Path(weights))
            name, state = file.parent.name, _state(file)
            self.weights = file
        self.published = Published.parse(name)
        self.sample_rate = self.published.sample_rate
        self.flat = flat
        sizes = self.published.input_size, self.published.patch_size
        self.backbone = ViT(*sizes, width, depth, heads)
        self.embed_dim = width if flat else width * self.backbone.grid[0]
        scale = self.sample_rate // 16000
        self.mel = torchaudio.transforms.MelSpectrogram(
            self.sample_rate,
            n_fft=400 * scale,
            win_length=400 * scale,
            hop_length=160 * scale,
            f_min=50.0,
            f_max=8000.0 * scale,
            n_mels=self.published.input_size[0],
            norm="slaney",
            mel_scale="slaney",
        )
        mean, std = (float(v) for v in state.pop("norm_stats", NORM_STATS))
        self.register_buffer("norm_stats", torch.tensor([mean, std]))
        self._build(state, width)
        if state:
            self._load(state)

    def _build(self, state: dict[str, Tensor], width: int) -> None:
        """For subclasses: modules that go beyond the encoder."""

    def _load(self, state: dict[str, Tensor]) -> None:
        unused = [*_UNUSED, *(() if hasattr(self, "audio_proj") else ("audio_proj.",))]
        _published.load(self.backbone, _own(state, ("audio_proj.",)), self.weights, ignore=unused)

    def logmel(self, audio: Tensor) -> Tensor:
        """(B, S) -> (B, 80, T), natural log of the power, not standardised."""
        audio = zero_pad(audio, self.mel.n_fft)  # the edges are reflected
        return (self.mel(audio) + torch.finfo(torch.float32).eps).log()

    def features(self, audio):
        mean, std = self.norm_stats
        return (self.logmel(audio) - mean) / std

    def tokens(self, features: Tensor) -> Tensor:
        """(B, F, T) -> (B, F', T', D): all patches, chunk after chunk."""
        step = self.backbone.patch_size[1]
        chunks = features.split(self.published.input_size[1], dim=2)
        padded = [nn.functional.pad(c, (0, -c.shape[2] % step)) for c in chunks]
        return torch.cat([self.backbone(chunk) for chunk in padded], dim=2)

    def encode(self, features):
        tokens = self.tokens(features)
        if self.flat:
            return tokens.flatten(1, 2)  # (B, F' T', D)
        return tokens.transpose(1, 2).flatten(2)  # (B, T', F' D)


class M2DCLAP(M2D):
    """M2D-CLAP (Niizumi et al., Interspeech 2024): M2D with a way into a caption space.

    Linear evaluation is M2D's. In the joint space a clip is the mean over all patches through the
    audio projector, a caption the mean over the tokens of a frozen GTE-base (`text_encoder`: its
    folder or hub name; a folder of that name in the weights folder comes first).
    """

    joint_dim = 768

    def __init__(
        self,
        weights: Path | None = None,
        *,
        name: str = "m2d_clap_vit_base-80x608p16x16",
        flat: bool = False,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        text_encoder: str = "thenlper/gte-base",
    ):
        super().__init__(weights, name=name, flat=flat, width=width, depth=depth, heads=heads)
        self.sentences = _text.SentenceEncoder(text_encoder)

    def _build(self, state, width):
        self.audio_proj = _text.mlp(width, width)
        self.joint_dim = width

    def _load(self, state):
        if any(name.startswith("audio_proj.sem_") for name in state):
            raise UserError(
                f"{self.weights}: has the transformer projector of the 2025 models, which this "
                "adapter does not know yet; --model m2d gives its linear evaluation"
            )
        super()._load(state)
        begin = "audio_proj."
        projector = {k.removeprefix(begin): v for k, v in state.items() if k.startswith(begin)}
        _published.load(self.audio_proj, projector, self.weights)

    def embed_joint(self, audio):
        return self.audio_proj(self.tokens(self.features(audio)).mean(dim=(1, 2)))

    def embed_text(self, captions):
        return self.sentences(captions, self.norm_stats.device)


def _own(state: dict[str, Tensor], beside: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith(beside)}


def _checkpoint(path: Path) -> Path:
    """The checkpoint file: the path itself, or the newest-epoch one in a published folder."""
    if path.is_file():
        return path
    files = [*path.glob("*.pth"), *path.glob("*.safetensors")]
    if not files:
        raise UserError(f"{path}: no .pth or .safetensors in this folder (--weights)")
    return max(files, key=lambda f: (_epoch(f.stem), f.name))


def _epoch(stem: str) -> int:
    digits = re.search(r"(\d+)$", stem)
    return int(digits[1]) if digits else -1


def _state(file: Path) -> dict[str, Tensor]:
    """Encoder tensors under their own names, whatever wrapped them."""
    state = _published.read(file, "model")
    if any(name.startswith(_FINE_TUNED) for name in state):
        state = {
            name.removeprefix(_FINE_TUNED): value
            for name, value in state.items()
            if name.startswith(_FINE_TUNED)
        }
    for name in [n for n in state if n.endswith(".q_bias")]:  # the first MSM-MAE: no bias for keys
        q, v = state.pop(name), state.pop(name.replace(".q_bias", ".v_bias"))
        state[name.replace(".q_bias", ".qkv.bias")] = torch.cat([q, torch.zeros_like(q), v])
    return state
