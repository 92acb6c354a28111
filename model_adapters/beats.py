"""BEATs, iterations 3 and 3+ (Microsoft); the network is that of the package openbeats."""

import warnings
from collections.abc import Mapping

import torch

from evar.adapter import Adapter
from evar.errors import UserError
from evar.weights import load_checkpoint, load_strict

from . import _published
from ._kaldi import fbank

# Of the self-supervised models of iteration 3 and 3+; a checkpoint holds its own.
_CONFIG = {
    "embed_dim": 512,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_layers": 12,
    "encoder_attention_heads": 12,
    "deep_norm": True,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
    "num_buckets": 320,
    "max_distance": 800,
}
_BANDS = 8  # patches along frequency: 128 mel bands, 16 each
_SCORES = 2**28  # maximum number of attention scores of one layer in memory: 1 GiB


class Beats(Adapter):
    """BEATs' last layer, averaged over all tokens: 768-d.

    Chen et al., "BEATs: Audio pre-training with acoustic tokenizers", ICML 2023. Clips have any
    length; those shorter than one patch, 0.175 s, are padded with silence. `config` overrides the
    configuration of a network that is built without a checkpoint, or from
    one that lacks its own (`cfg`).
    """

    sample_rate = 16000
    blank = 0.0  # features are standardised
    frame_seconds = 0.16
    TINY = {
        "config": {
            "embed_dim": 8,
            "encoder_embed_dim": 16,
            "encoder_ffn_embed_dim": 16,
            "encoder_layers": 1,
            "encoder_attention_heads": 1,
            "conv_pos_groups": 4,
        }
    }

    def __init__(self, weights=None, *, config: Mapping | None = None):
        super().__init__(weights)
        named, config, state = config, {**_CONFIG, **(config or {})}, None
        if weights is not None:
            content = load_checkpoint(weights)
            if named is None and not {"cfg", "model"} <= set(content):
                raise UserError(
                    f"{weights}: not a checkpoint of BEATs: 'cfg' and 'model' are missing "
                    f"(found: {', '.join(map(str, list(content)[:3]))}, ...)"
                )
            config = content.get("cfg", config)
            state = _published.tensors(content, "model")
        self.net = _network(config)
        self.embed_dim = self.net.output_size()
        if state is not None:
            # Fine-tuned checkpoints carry their classifier.
            load_strict(self.net, state, weights, ignore=["predictor."])

    def features(self, audio):
        # Kaldi expects 16-bit integers; mean and standard deviation are those of AudioSet.
        return (fbank(audio * 2**15) - 15.41663) / (2 * 6.55582)

    def tokens(self, features):
        """Encodes: (B, 128, T) -> (B, T' * 8, D), time-major (8 patches per time step)."""
        patches = self.net.patch_embedding(features.transpose(1, 2)[:, None])  # (B, E, T', 8)
        tokens = self.net.layer_norm(patches.flatten(2).transpose(1, 2))
        if self.net.post_extract_proj is not None:
            tokens = self.net.post_extract_proj(tokens)
        # The package holds all attention scores of a layer: long clips go in small batches.
        scores = self.net.config.encoder_attention_heads * tokens.shape[1] ** 2
        parts = tokens.split(max(1, _SCORES // scores))
        return torch.cat([self.net.encoder(part)[0] for part in parts])

    def encoder_blocks(self):
        return self.net.encoder.layers

    def encode(self, features):
        return self.tokens(features).unflatten(1, (-1, _BANDS)).mean(dim=2)  # (B, T', D)


def _network(config: Mapping):
    try:
        from openbeats.beats_encoder import BeatsEncoder
    except ImportError as error:
        raise UserError(
            f"BEATs needs the package openbeats: pip install openbeats ({error})"
        ) from error
    with warnings.catch_warnings():
        # Published tensor names are those of the deprecated weight_norm (weight_g, weight_v).
        warnings.simplefilter("ignore", FutureWarning)
        net = BeatsEncoder(input_size=1, beats_config=dict(config))
    net.encoder.layerdrop = 0.0  # in training it draws from NumPy's global random generator
    # Fixed all-ones kernels that shrink padding masks; clips of a batch are never padded here.
    del net.patch_embedding_pad, net.raw2fbank_pad
    return net
