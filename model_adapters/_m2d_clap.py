"""M2D-CLAP's projectors and text encoder, as far as a checkpoint holds them."""

from functools import partial
from pathlib import Path

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from evar.errors import UserError

from . import _published, _text

_WORDS = "embeddings.word_embeddings.weight"  # the first tensor of any BERT, after its prefix


class TransformerProjector(nn.Module):
    """The audio projector of the 2025 models: a learned token that attends to all patches.

    UNVERIFIED: inferred from the tensor names `sem_token` and `sem_blocks` alone. The token
    precedes the encoder's patch embeddings, without class token and positions; pre-norm blocks have
    as many heads as the encoder; the token's output is the embedding, without a final
    normalisation. Strict loading refuses a file with other tensors below `audio_proj.`, but cannot
    confirm this reading.
    """

    def __init__(self, width: int, depth: int, heads: int):
        super().__init__()
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.sem_token = nn.Parameter(torch.zeros(1, 1, width))
        self.sem_blocks = nn.Sequential(
            *(Block(width, heads, 4.0, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        )

    def forward(self, patches: Tensor) -> Tensor:
        """(B, L, D) -> (B, D)."""
        token = self.sem_token.expand(len(patches), -1, -1)
        return self.sem_blocks(torch.cat([token, patches], dim=1))[:, 0]


def below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Returns the tensors whose names start with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def count(state: dict[str, Tensor], prefix: str) -> int:
    """Returns the number of layers `prefix`0, `prefix`1, ..."""
    return len({name.split(".")[0] for name in below(state, prefix)})


def text_projector(state: dict[str, Tensor], path: Path) -> nn.Module:
    """Builds `text_proj.*` as the checkpoint has it: identity, linear, or linear-ReLU-linear."""
    own = below(state, "text_proj.")
    if not own:
        return nn.Identity()
    if "weight" in own:
        outputs, inputs = own["weight"].shape
        projector = nn.Linear(inputs, outputs)
    else:
        projector = _text.mlp(*(own.get("0.weight", torch.empty(1, 1)).shape[::-1]))
    _published.load(projector, own, path)
    return projector


def text_prefix(state: dict[str, Tensor]) -> str:
    """Returns the prefix of the text encoder's tensors in a checkpoint; "" if it has none."""
    return next((k.removesuffix(_WORDS) for k in state if k.endswith("." + _WORDS)), "")


def included_bert(state: dict[str, Tensor], path: Path) -> nn.Module | None:
    """Builds the text encoder that a checkpoint holds, with sizes from its tensors, or None.

    Published files hold GTE-base or BERT; both are BERTs with 64 channels per head.
    """
    prefix = text_prefix(state)
    if not prefix:
        return None
    from transformers import BertConfig, BertModel

    own = below(state, prefix)
    sizes = {
        "num_hidden_layers": count(own, "encoder.layer."),
        "num_attention_heads": max(1, own[_WORDS].shape[1] // 64),
        "vocab_size": own[_WORDS].shape[0],
        "hidden_size": own[_WORDS].shape[1],
    }
    for key, name in {
        "intermediate_size": "encoder.layer.0.intermediate.dense.weight",
        "max_position_embeddings": "embeddings.position_embeddings.weight",
        "type_vocab_size": "embeddings.token_type_embeddings.weight",
    }.items():
        if name not in own:
            raise UserError(f"{path}: its text encoder is not a BERT: {name} is missing")
        sizes[key] = own[name].shape[0]
    bert = BertModel(BertConfig(**sizes), add_pooling_layer=False)
    unused = ("pooler.", "embeddings.position_ids", "embeddings.token_type_ids")
    _published.load(bert, own, path, ignore=unused)
    return bert


def mean_states(bert: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Returns the mean over a caption's tokens: (N, L) token ids and mask -> (N, E)."""
    states = bert(input_ids=ids, attention_mask=mask).last_hidden_state  # (N, L, E)
    weight = mask[..., None].to(states)
    return (states * weight).sum(dim=1) / weight.sum(dim=1)
