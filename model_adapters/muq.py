"""MuQ: music representations by predicting mel residual vector quantisation (Tencent, 2025)."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import torchaudio
from torch import nn

from evar.adapter import Adapter
from evar.errors import UserError
from evar.weights import first_line, load_checkpoint

from . import _published, _transformers
from ._frontend import zero_pad

_HOP = 240  # samples: 10 ms
# MuQ-large-msd-iter's config.json, of which a folder brings its own.
_LARGE = {
    "stat": {"melspec_2048_mean": 6.768444971712967, "melspec_2048_std": 18.417922652295623},
    "w2v2_config": {
        "hidden_act": "swish",
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "position_embeddings_type": "rotary",
    },
}
_UNUSED = ("linear.", "quantizer_", "rvq.", "cls_token", "recon_proj.")  # of pre-training


class Muq(Adapter):
    """MuQ's last layer, or others, averaged over frames of 40 ms: 1024-d.

    Zhu et al., "MuQ: Self-supervised music representation learning with mel residual vector
    quantization", 2025. `weights` is the published folder; the network is that of the package muq.
    `layers` chooses one layer (0: before the first block), several, "all" or "mean"; several stand
    side by side, or are averaged with combine="mean". `config` changes the network that is built
    where there is no folder.
    """

    sample_rate = 24000
    frame_seconds = 0.04
    TINY = {
        "config": {
            "encoder_dim": 16,
            "encoder_depth": 2,
            "conv_dim": 4,
            "w2v2_config": {
                "num_attention_heads": 2,
                "intermediate_size": 32,
                "num_conv_pos_embeddings": 16,
                "num_conv_pos_embedding_groups": 4,
            },
        }
    }

    def __init__(
        self,
        weights=None,
        *,
        layers: _transformers.Layers = None,
        combine: str = "stack",
        config: Mapping | None = None,
    ):
        super().__init__(weights)
        config = _config(Path(weights)) if weights is not None else config or _LARGE
        stat = config.get("stat") or {}
        self.mean = float(stat.get("melspec_2048_mean", 0.0))
        self.std = float(stat.get("melspec_2048_std", 1.0))
        self.mel = torchaudio.transforms.MelSpectrogram(
            24000, n_fft=2048, hop_length=_HOP, n_mels=128
        )
        self.decibels = torchaudio.transforms.AmplitudeToDB()
        self.net = _network(config)
        if weights is not None:
            state = _published.tensors(load_checkpoint(weights))
            _published.load(self.net, state, weights, ignore=_UNUSED)
        count = len(self.net["conformer"].layers)
        self.layers = _transformers.check_layers(layers, combine, count)
        self.averages = layers == "mean" or combine == "mean"
        parts = len(self.layers) if self.layers and not self.averages else 1
        self.embed_dim = self.net["conv"].linear.out_features * parts

    def encoder_blocks(self):
        return self.net["conformer"].layers

    def features(self, audio):
        audio = zero_pad(audio, self.mel.n_fft)  # the edges are reflected
        return (self.decibels(self.mel(audio))[..., :-1] - self.mean) / self.std

    def encode(self, features):
        return _transformers.choose(self._states(features), self.layers, self.averages)

    def _states(self, features) -> SimpleNamespace:
        """(B, 128, T) -> the input of each block and the last output, (B, T', D)."""
        inputs = []

        def entered(_, arguments):
            inputs.append(arguments[0])

        # Since version 5 of transformers an encoder by itself does not return them.
        hooks = [layer.register_forward_pre_hook(entered) for layer in self.encoder_blocks()]
        try:
            last = self.net["conformer"](self.net["conv"](features)).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        return SimpleNamespace(hidden_states=[*inputs, last], last_hidden_state=last)


def _network(config: Mapping) -> nn.ModuleDict:
    """The convolutions and the conformer of the package; what training needs is left out."""
    try:
        from muq.muq.models.muq_model import MuQModel
    except ImportError as error:
        raise UserError(f"MuQ needs the package muq: pip install muq ({error})") from error
    from transformers import Wav2Vec2ConformerConfig

    usual = Wav2Vec2ConformerConfig().to_dict() | {"_attn_implementation": "eager"}
    usual = {k: v for k, v in usual.items() if not isinstance(v, dict)}  # names of classes
    named = {**usual, **config.get("w2v2_config", {})}
    named |= {"layerdrop": 0.0, "apply_spec_augment": False}  # drawn from NumPy's generator
    sizes = ("encoder_dim", "encoder_depth", "conv_dim", "n_mels", "label_rate")
    net = MuQModel(w2v2_config=named, **{k: config[k] for k in sizes if k in config})
    return nn.ModuleDict({"conv": net.conv, "conformer": net.conformer})


def _config(folder: Path) -> dict:
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["stat"]["melspec_2048_mean"], content["stat"]["melspec_2048_std"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a configuration of MuQ ({first_line(error)}). Give the published folder, "
            "with its config.json and its weights."
        ) from error
    return content
