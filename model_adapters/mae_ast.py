"""MAE-AST: a transformer on spectrogram patches or frames, pre-trained by masked autoencoding."""

import torch
from torch import Tensor, nn

from evar.adapter import Adapter
from evar.errors import UserError
from evar.weights import load_checkpoint

from . import _published
from ._kaldi import fbank

_BANDS = 128
_PATCHES = {"patch": (16, 16), "frame": (128, 2)}  # bands, frames

# fairseq's names within a layer -> those of torch.nn.TransformerEncoderLayer.
_RENAMED = (
    ("self_attn_layer_norm.", "norm1."),
    ("final_layer_norm.", "norm2."),
    ("fc1.", "linear1."),
    ("fc2.", "linear2."),
)


class MaeAst(Adapter):
    """MAE-AST's tokens of patches (16 x 16) or of frames (128 x 2), averaged: 768-d.

    Baade et al., "MAE-AST: Masked autoencoding audio spectrogram transformer", Interspeech 2022.
    Kaldi filter bank, standardised by the two numbers in the checkpoint; clips have their own
    length. Every clip is encoded by itself: the original keeps a shorter clip's last, half-filled
    step where it is padded to a longer one in the batch, and drops it elsewhere. `norm_first`:
    norms before attention and MLP, where the checkpoint does not say (its `cfg` comes first).
    """

    sample_rate = 16000
    blank = 0.0  # features are standardised
    TINY = {"width": 24, "depth": 1, "heads": 2}

    def __init__(
        self,
        weights=None,
        *,
        variant: str = "patch",
        norm_first: bool = False,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
    ):
        super().__init__(weights)
        if variant not in _PATCHES:
            raise UserError(f"--variant={variant}: it is patch or frame")
        content = {} if weights is None else load_checkpoint(weights)
        self.norm_first = _stored_order(content, norm_first)
        self.patch = high, wide = _PATCHES[variant]
        self.embed_dim = width
        self.frame_seconds = 0.01 * wide
        self.post_extract_proj = nn.Linear(high * wide, width)
        self.batch_norm = nn.Module()  # one mean and one variance of all spectrograms, fixed
        self.batch_norm.register_buffer("running_mean", torch.zeros(1))
        self.batch_norm.register_buffer("running_var", torch.ones(1))
        layers = (
            nn.TransformerEncoderLayer(
                width,
                heads,
                4 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=self.norm_first,
            )
            for _ in range(depth)
        )
        modules = {"layers": nn.ModuleList(layers), "layer_norm": nn.LayerNorm(width)}
        self.encoder = nn.ModuleDict(modules)
        if weights is not None:
            state = _renamed(_published.tensors(content, "model"))
            unused = (  # of pre-training, computed, or in no use
                "decoder",
                "final_proj_",
                "encoder_mask_emb",
                "enc_sine_pos_embed.",
                "dec_sine_pos_embed.",
                "layer_norm.",
                "batch_norm.num_batches_tracked",
            )
            _published.load(self, state, weights, ignore=unused)

    def encoder_blocks(self):
        return self.encoder["layers"]

    def features(self, audio):
        mean, var = self.batch_norm.running_mean, self.batch_norm.running_var
        return (fbank(audio) - mean) / (var + 1e-5).sqrt() * 0.5

    def patches(self, features: Tensor) -> Tensor:
        """(B, 128, T) -> (B, T' * F', bands * frames): time step by time step, low bands first.

        Frames that fill no patch are left out; within a patch, frame by frame.
        """
        high, wide = self.patch
        cut = features.unfold(1, high, high).unfold(2, wide, wide)  # (B, F', T', high, wide)
        return cut.permute(0, 2, 1, 4, 3).flatten(3).flatten(1, 2)

    def tokens(self, features: Tensor) -> Tensor:
        """(B, 128, T) -> (B, T' * F', D)."""
        x = self.post_extract_proj(self.patches(features))
        x = x + sinusoids(x.shape[1], x.shape[2]).to(x)
        norm = self.encoder["layer_norm"]
        x = x if self.norm_first else norm(x)
        for layer in self.encoder["layers"]:
            x = layer(x)
        return norm(x) if self.norm_first else x

    def encode(self, features):
        return self.tokens(features).unflatten(1, (-1, _BANDS // self.patch[0])).mean(dim=2)


def sinusoids(tokens: int, width: int) -> Tensor:
    """Fixed positions (tokens, width): sines in even channels, cosines in odd ones.

    Vaswani et al., "Attention is all you need", 2017, Section 3.5.
    """
    channel = torch.arange(0, width, 2, dtype=torch.float32)
    angle = torch.arange(tokens, dtype=torch.float32)[:, None] * 10000 ** (-channel / width)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1)


def _stored_order(content: dict, given: bool) -> bool:
    """Whether norms come first: what the checkpoint's settings say, else what is given."""
    settings = content.get("cfg")
    settings = settings.get("model") if isinstance(settings, dict) else None
    stored = settings.get("layer_norm_first") if isinstance(settings, dict) else None
    return given if stored is None else bool(stored)


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """fairseq's names -> those used here; queries, keys and values become one projection."""
    renamed = {}
    for name, value in state.items():
        if name.startswith("encoder.layers."):
            for old, new in _RENAMED:
                name = name.replace(old, new)
        renamed[name] = value
    for name in [n for n in renamed if n.startswith("encoder.") and ".q_proj." in n]:
        parts = [name.replace(".q_proj.", f".{part}_proj.") for part in "qkv"]
        if all(part in renamed for part in parts):  # else strict loading names the missing one
            joined = torch.cat([renamed.pop(part) for part in parts])
            renamed[name.replace(".q_proj.", ".in_proj_")] = joined
    return renamed
