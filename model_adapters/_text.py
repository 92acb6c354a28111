"""Text towers of audio-language models: checked tokenizers, networks, projections."""

import hashlib
from functools import cached_property
from pathlib import Path

from torch import Tensor, nn
from torch.nn.functional import gelu

from evar.adapter import Adapter
from evar.errors import UserError
from evar.weights import state_hash, weights_folder

from . import _hub, _transformers


class Tokenizer:
    """Turns captions into token ids and attention masks; its files are read on first use.

    `name`: a folder or a name on the Hugging Face hub, also NAME@REVISION; a folder of the same
    name in the weights folder has precedence. `size`: the expected vocabulary. It is checked
    since, without a network, transformers may return a tokenizer without vocabulary, which maps
    every caption to the same few unknown tokens. `max_length`: in tokens; longer captions are
    truncated.
    `whole`: False where the network has more rows than its tokenizer has tokens.
    """

    def __init__(
        self,
        name: str,
        size: int,
        *,
        max_length: int,
        pad_token: str | None = None,
        whole: bool = True,
    ):
        self.name, self.size, self.max_length = str(name), size, max_length
        self.pad_token, self.whole = pad_token, whole

    @cached_property
    def _tokenizer(self):
        local, source = _local_or_pinned(self.name)
        remedy = (
            f"Put the tokenizer's files (tokenizer.json, tokenizer_config.json) into {local}, or "
            "give their folder with --tokenizer=DIR."
        )
        try:
            tokenizer = _transformers.tokenizer(source)
        except Exception as error:  # no network, missing or damaged files: many kinds of errors
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{source}: no tokenizer could be read ({reason}) {remedy}") from error
        if not (self.size if self.whole else 1000) <= len(tokenizer) <= self.size:
            raise UserError(
                f"{source}: a tokenizer of {len(tokenizer):,} tokens, expected {self.size:,}: its "
                f"vocabulary is missing or that of another model. {remedy}"
            )
        if self.pad_token is not None:
            tokenizer.pad_token = self.pad_token
        return tokenizer

    def identity(self) -> str:
        """Returns a hash of its rules and vocabulary; the place of its files does not matter."""
        return _tokenizer_hash(self._tokenizer, self.max_length)

    def __call__(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Tokenizes N captions: (N, L) ids and (N, L) mask, padded on the right to the longest."""
        tokens = self._tokenizer(
            captions,
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        return tokens["input_ids"], tokens["attention_mask"]


class SentenceEncoder:
    """A frozen sentence encoder: the mean of its last hidden states over a caption's tokens.

    `name`: a folder or a name on the Hugging Face hub, also NAME@REVISION; a folder of the same
    name in the weights folder has precedence. It is read on first use, and is not part of the audio
    model's weights.
    """

    def __init__(self, name: str, *, max_length: int = 512):
        self.name, self.max_length = str(name), max_length

    def _network(self, source: str) -> nn.Module:
        from transformers import AutoModel

        # Half of what is published is stored in half precision: it computes in float32 here.
        return _transformers.pretrained(AutoModel, source, unused="pooler.")

    def _pooled(self, network: nn.Module, tokens) -> Tensor:
        """Token ids (N, L) and their mask -> (N, E)."""
        states = network(**tokens).last_hidden_state  # (N, L, E)
        mask = tokens["attention_mask"][..., None].to(states)
        return (states * mask).sum(dim=1) / mask.sum(dim=1)

    @cached_property
    def _parts(self):
        local, source = _local_or_pinned(self.name)
        try:
            model = self._network(source)
            model.eval().requires_grad_(False)
            tokenizer = _transformers.tokenizer(source)
        except Exception as error:  # no network, missing or damaged files: many kinds of errors
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{source}: no sentence encoder could be read ({reason}). Put its folder at "
                f"{local}, or give it with --text_encoder=DIR."
            ) from error
        if len(tokenizer) < 1000:
            raise UserError(
                f"{source}: its tokenizer has only {len(tokenizer)} tokens: no vocabulary"
            )
        return model, tokenizer

    def identity(self) -> str:
        """Returns a hash of its weights and tokenizer; the place of its files does not matter."""
        model, tokenizer = self._parts
        return f"{state_hash(model)} {_tokenizer_hash(tokenizer, self.max_length)}"

    def __call__(self, captions: list[str], device) -> Tensor:
        """Embeds N captions: (N, E), on `device`."""
        model, tokenizer = self._parts
        tokens = tokenizer(
            list(captions),
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        ).to(device)
        return self._pooled(model.to(device), tokens)


def _local_or_pinned(name: str) -> tuple[Path, str]:
    """The place of a name in the weights folder, and what to read: it, else the pinned name."""
    local = weights_folder() / Path(_hub.split(name)[0]).name
    if local.is_dir() and not Path(name).is_dir():
        return local, str(local)
    return local, _hub.pinned(name)


def _tokenizer_hash(tokenizer, max_length: int) -> str:
    rules = tokenizer.backend_tokenizer.to_str()
    return hashlib.sha256(f"{max_length} {rules}".encode()).hexdigest()[:16]


class AudioLanguage(Adapter):
    """An adapter whose clip embedding is in the joint space already.

    A subclass sets `tokenizer` and implements `embed_tokens`; `text_prefix` is the prefix of the
    text tower's tensors in the published file. A file without that tower still embeds audio.
    """

    tokenizer: Tokenizer
    text_prefix: str
    has_text: bool = True
    text_options = ("tokenizer",)

    def embed_joint(self, audio: Tensor) -> Tensor:
        return self.embed(audio)

    def embed_tokens(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embeds tokens: (N, L) ids and mask (0: padding) -> (N, E)."""
        raise NotImplementedError

    def embed_text(self, captions: list[str]) -> Tensor:
        if not self.has_text:
            raise UserError(
                f"{self.weights}: holds no text tower (no {self.text_prefix}*), so captions cannot "
                "be embedded. Pass the complete published file with --weights=PATH."
            )
        device = next(self.parameters()).device
        ids, mask = self.tokenizer(list(captions))
        return self.embed_tokens(ids.to(device), mask.to(device))

    def text_identity(self):
        return {"tokenizer": self.tokenizer.identity()}

    def find_text(self, state: dict[str, Tensor]) -> bool:
        """Returns whether a checkpoint holds the text tower."""
        return any(name.startswith(self.text_prefix) for name in state)


class Projection(nn.Module):
    """MS-CLAP's projection into the joint space: linear, plus a residual layer, normalised."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear1 = nn.Linear(inputs, outputs, bias=False)
        self.linear2 = nn.Linear(outputs, outputs, bias=False)
        self.layer_norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs) -> (N, outputs)."""
        x = self.linear1(x)
        return self.layer_norm(x + self.linear2(gelu(x)))


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    """Builds the projection of LAION-CLAP and WavCaps: linear, ReLU, linear."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, outputs))


def bert(width: int = 768, layers: int = 12) -> nn.Module:
    """Builds BERT-base (uncased), or a narrower one, without its pooler."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        intermediate_size=4 * width,
    )
    return BertModel(config, add_pooling_layer=False)


def roberta(width: int = 768, layers: int = 12) -> nn.Module:
    """Builds RoBERTa-base, or a narrower one, with its pooler."""
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=50265,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        intermediate_size=4 * width,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    return RobertaModel(config)


def gpt2(width: int = 768, layers: int = 12) -> nn.Module:
    """Builds GPT-2 (small), or a narrower one."""
    from transformers import GPT2Config, GPT2Model

    return GPT2Model(GPT2Config(n_embd=width, n_layer=layers, n_head=max(1, width // 64)))
