"""Every audio architecture of the installed transformers, built tiny with its own extractor."""

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig

# Sizes by their exact name or, after a "*", by its end, and what they become.
_SMALL = {
    "*_layers": 2,
    "*_heads": 2,
    "*intermediate_size": 32,
    "*ffn_dim": 32,
    "*vocab_size": 512,
    "*vocab_size_per_layer_input": 512,
    "*_token_id": 511,
    "hidden_size": 32,
    "d_model": 32,
    "head_dim": 16,
    "hidden_size_per_layer_input": 8,
    "conv_dim": 8,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "num_filters": 4,
    "encoder_hidden_size": 4,
    "decoder_hidden_size": 16,
    "codebook_size": 16,
    "codebook_dim": 8,
    "upsample_initial_channel": 32,
    "unit_embed_dim": 16,
    "hidden_dim": 32,
    "num_adapter_layers": 1,
    "num_feat_extract_layers": 99,  # as many as `conv_dim` has
}
_PER_LAYER = ("layer_types", "mlp_layer_types")  # lists with an entry for every layer


def _small(name: str) -> int | None:
    ends = (v for k, v in _SMALL.items() if k.startswith("*") and name.endswith(k[1:]))
    return _SMALL.get(name, next(ends, None))


def shrink(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration with small sizes, those of its parts as well."""
    for name, value in list(vars(config).items()):
        size = _small(name)
        if isinstance(value, PreTrainedConfig):
            shrink(value)
        elif name in _PER_LAYER and value:
            setattr(config, name, value[:2])
        elif size and isinstance(value, int) and not isinstance(value, bool):
            setattr(config, name, min(value, size))
        elif size and isinstance(value, (list, tuple)) and all(type(v) is int for v in value):
            setattr(config, name, type(value)(min(v, size) for v in value))
    return config


def changed(config: PreTrainedConfig, changes: dict) -> PreTrainedConfig:
    """The configuration with values at dotted names."""
    for name, value in changes.items():
        *path, last = name.split(".")
        part = config
        for step in path:
            part = getattr(part, step)
        setattr(part, last, value)
    return config


def save(folder, model_type: str, extractor, **changes):
    """A folder as the hub would hold it: a tiny random model and its feature extractor."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = changed(shrink(AutoConfig.for_model(model_type)), changes)
        AutoModel.from_config(config).save_pretrained(folder)
    extractor.save_pretrained(folder)
    return str(folder)
