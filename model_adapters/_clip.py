"""CLIP's text tower (Radford et al., ICML 2021): transformers' network, under two sets of names."""

from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from . import _text, _transformers

TOKENS, LENGTH = 49408, 77  # of the vocabulary; of the longest caption

# OpenAI's names within a block -> transformers'.
_RENAMED = (
    ("attn.out_proj.", "self_attn.out_proj."),
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
)
_BLOCKS = "transformer.resblocks."
_OUTSIDE_BLOCKS = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}


def build(width: int = 512, layers: int = 12, joint: int = 512) -> CLIPTextModelWithProjection:
    """An untrained text tower of CLIP with its projection into a joint space of `joint`."""
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        projection_dim=joint,
        hidden_act="quick_gelu",  # with the exact GELU, embeddings are 1 % off
    )
    return CLIPTextModelWithProjection(config)


def rename(state: dict[str, Tensor], target: str) -> dict[str, Tensor]:
    """Put OpenAI's text tower under transformers' names below `target`; others stay as they are."""
    renamed = {}
    for name, value in state.items():
        if name == "text_projection":  # applied as x @ W
            renamed[f"{target}text_projection.weight"] = value.T
        elif name in _OUTSIDE_BLOCKS:
            renamed[f"{target}text_model.{_OUTSIDE_BLOCKS[name]}"] = value
        elif name.startswith(_BLOCKS):
            renamed |= _block(name.removeprefix(_BLOCKS), value, target)
        else:
            renamed[name] = value
    return renamed


def _block(name: str, value: Tensor, target: str) -> dict[str, Tensor]:
    """One tensor of a block; the joint input projection becomes three."""
    for old, new in _RENAMED:
        name = name.replace(old, new)
    name = f"{target}text_model.encoder.layers.{name}"
    if ".attn.in_proj_" not in name:
        return {name: value}
    return {
        name.replace("attn.in_proj_", f"self_attn.{part}_proj."): third
        for part, third in zip("qkv", value.chunk(3, dim=0), strict=True)
    }


class TextEncoder(_text.SentenceEncoder):
    """A frozen text tower of CLIP: the projected state at the end of the caption.

    `name`: the folder of a CLIP model, or its name on the Hugging Face hub; a folder of that name's
    last part in the weights folder comes first. Captions are cut to 77 tokens.
    """

    def __init__(self, name: str):
        super().__init__(name, max_length=LENGTH)

    def _network(self, source: str) -> CLIPTextModelWithProjection:
        return _transformers.pretrained(CLIPTextModelWithProjection, source)

    def _pooled(self, network, tokens) -> Tensor:
        return network(**tokens).text_embeds  # (N, E)
