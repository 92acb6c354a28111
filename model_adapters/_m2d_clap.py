"""M2D-CLAP's ways into the joint space, as far as a checkpoint carries them."""

from functools import partial
from pathlib import Path

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from evar.errors import UserError

from . import _published, _text

_WORDS = "embeddings.word_embeddings.weight"  # how every BERT begins, whatever wraps it


class TransformerProjector(nn.Module):
    """The audio projector of the 2025 models: a learned token that attends to all patches.

    UNVERIFIED: written from the names `sem_token` and `sem_blocks` alone, in their plainest
    reading. The token stands before the encoder's patch embeddings, without class token and
    positions; pre-norm blocks with as many heads as the encoder has; the token's output is the
    embedding, with no normalisation behind. Strict loading refuses a file that holds anything else
    below `audio_proj.`, but cannot confirm the reading.
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
    """The tensors whose names begin so, without that beginning."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def count(state: dict[str, Tensor], prefix: str) -> int:
    """How many numbered layers `prefix`0, `prefix`1, ... there are."""
    return len({name.split(".")[0] for name in below(state, prefix)})


def text_projector(state: dict[str, Tensor], path: Path) -> nn.Module:
    """`text_proj.*` as the checkpoint has it: nothing, a linear map, or two with a ReLU between."""
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
    """What stands before the names of a text encoder inside the checkpoint; none: no encoder."""
    return next((k.removesuffix(_WORDS) for k in state if k.endswith("." + _WORDS)), "")


def included_bert(state: dict[str, Tensor], path: Path) -> nn.Module | None:
    """The text encoder inside the checkpoint, its sizes read off its tensors; None: there is none.

    Both encoders that such files are published with, GTE-base and BERT, are BERTs with heads of
    64 channels.
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
            raise UserError(f"{path}: the text encoder inside is no BERT: it has no {name}")
        sizes[key] = own[name].shape[0]
    bert = BertModel(BertConfig(**sizes), add_pooling_layer=False)
    unused = ("pooler.", "embeddings.position_ids", "embeddings.token_type_ids")
    _published.load(bert, own, path, ignore=unused)
    return bert


def mean_states(bert: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """(N, L) token ids and their mask -> (N, E): the mean over a caption's tokens."""
    states = bert(input_ids=ids, attention_mask=mask).last_hidden_state  # (N, L, E)
    weight = mask[..., None].to(states)
    return (states * weight).sum(dim=1) / weight.sum(dim=1)
