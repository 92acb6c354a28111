"""AST: a vision transformer on spectrogram patches, supervised on AudioSet."""

import torch
from torch.nn.functional import pad

from evar.adapter import Adapter
from evar.errors import UserError

from . import _published, _transformers
from ._kaldi import fbank
from ._vit import centred_positions
from .logmel import LogMel

_AUDIOSET = -4.2677393, 4.5689974  # mean and standard deviation of AudioSet's filter banks
_ROWS = 12  # positions learned along frequency; along time 101 for 1,024 frames

# The original's names, which are timm's, and those of transformers.
_RENAMED = (
    ("cls_token", "embeddings.cls_token"),
    ("dist_token", "embeddings.distillation_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    ("blocks.", "layers."),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".attn.proj.", ".attention.o_proj."),
)


class Ast(Adapter):
    """AST's class and distillation tokens, averaged: 768-d.

    Gong et al., "AST: Audio spectrogram transformer", Interspeech 2021. As in the published
    evaluation, the filter bank is standardised with statistics of the task's training clips
    (`statistics="audioset"`: of AudioSet), and the learned positions are cropped or interpolated to
    the clip's length (`frames=1024`: the clip is padded or cropped instead). `weights` is the
    original's file or a transformers folder.
    """

    sample_rate = 16000
    blank = 0.0  # features are standardised
    frame_seconds = 0.1
    TINY = {"width": 16, "depth": 1, "heads": 2}

    def __init__(
        self,
        weights=None,
        *,
        statistics: str = "task",
        frames: int | None = None,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
    ):
        super().__init__(weights)
        if statistics not in ("task", "audioset"):
            raise UserError(f"--statistics={statistics}: must be task or audioset")
        if frames is not None and not (isinstance(frames, int) and frames >= 16):
            raise UserError(f"--frames={frames}: must be a whole number of 16 (one patch) or more")
        self.fit_clips = 5000 if statistics == "task" else 0
        self.mean, self.std = _AUDIOSET
        self.length = frames
        self.net = _network(weights, width, depth, heads)
        self.embed_dim = self.net.config.hidden_size

    fit, fitted = LogMel.fit, LogMel.fitted

    def logmel(self, audio):
        """Computes the log-mel: (B, S) -> (B, 128, T), not standardised."""
        audio = audio - audio.mean(dim=1, keepdim=True)
        return fbank(audio, htk_compat=True, window_type="hanning")

    def features(self, audio):
        logmel = self.logmel(audio)
        if self.length is not None:
            logmel = pad(logmel, (0, self.length - logmel.shape[2]))  # a negative one cuts
        return (logmel - self.mean) / (2 * self.std)

    def tokens(self, features):
        """Encodes: (B, 128, T) -> (B, 2 + 12 * T', D), two special tokens, then band-major."""
        embeddings = self.net.embeddings
        patches = embeddings.patch_embeddings(features.transpose(1, 2))  # (B, 12 * T', D)
        special = torch.cat([embeddings.cls_token, embeddings.distillation_token], dim=1)
        x = torch.cat([special.expand(len(patches), -1, -1), patches], dim=1)
        x = x + self.positions(patches.shape[1] // _ROWS)
        for layer in self.net.layers:
            x = layer(x)
        return self.net.layernorm(x)

    def positions(self, times: int):
        """Returns positions (1, 2 + 12 * T', D): the learned grid's centre, or interpolated."""
        learned = self.net.embeddings.position_embeddings
        grid = _ROWS, (learned.shape[1] - 2) // _ROWS
        return centred_positions(learned, grid, times)

    def encode(self, features):
        return self.tokens(features)[:, 2:].unflatten(1, (_ROWS, -1)).mean(dim=1)

    def embed(self, audio):
        return self.tokens(self.features(audio))[:, :2].mean(dim=1)


def _network(weights, width: int, depth: int, heads: int):
    from transformers import ASTConfig, ASTModel

    if weights is not None and weights.is_dir():
        # The original's layer norms have eps = 1e-6; the converted configuration says 1e-12.
        return _transformers.pretrained(ASTModel, weights, layer_norm_eps=1e-6)
    state = None if weights is None else _rename(_published.read(weights, "model"))
    net = ASTModel(
        ASTConfig(
            max_length=_frames(state or {}),
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            layer_norm_eps=1e-6,
        )
    )
    if weights is not None:
        # Classifiers: AudioSet's, and the two that the image model had.
        _published.load(net, state, weights, ignore=("mlp_head.", "head.", "head_dist."))
    return net


def _frames(state) -> int:
    """The length of input that a file's positions are for, 16 frames a patch, 10 a step.

    AudioSet's model has 1,024 frames; fine-tuned ones may have less, Speech Commands' 128.
    """
    positions = state.get("embeddings.position_embeddings")
    if positions is None or positions.ndim != 3 or (positions.shape[1] - 2) % _ROWS:
        return 1024
    times = (positions.shape[1] - 2) // _ROWS
    return 1024 if times == 101 else 10 * (times - 1) + 16


def _rename(state):
    if "embeddings.cls_token" in state:
        return state  # transformers' names already
    renamed = {}
    for name, value in state.items():
        name = name.removeprefix("v.")
        for old, new in _RENAMED:
            name = name.replace(old, new)
        name = f"layer{name}" if name.startswith("norm.") else name
        if ".attn.qkv." in name:
            parts = zip(("q_proj", "k_proj", "v_proj"), value.chunk(3, dim=0), strict=True)
            renamed |= {name.replace("attn.qkv", f"attention.{k}"): part for k, part in parts}
        else:
            renamed[name] = value
    return renamed
