"""GLAP: Dasheng joined to SONAR's text encoder, for captions in many languages (Xiaomi, 2025)."""

from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from evar.errors import UserError

from . import _published, _text
from .dasheng import Dasheng

_TOKENS = 256_204  # of NLLB's tokenizer; SONAR's table has two rows more
_LENGTH = 514  # tokens

# Rows of transformers' NLLB (<s>, <pad>, </s>, <unk>), as SONAR counts them.
_SPECIAL = [2, 0, 3, 1]
# SONAR's names within the text tower -> transformers'.
_RENAMED = (
    ("encoder_frontend.embed.", "embed_tokens."),
    ("encoder.layers.", "layers."),
    ("self_attn.output_proj.", "self_attn.out_proj."),
    ("ffn_layer_norm.", "final_layer_norm."),
    ("ffn.inner_proj.", "fc1."),
    ("ffn.output_proj.", "fc2."),
)


class Glap(Dasheng, _text.AudioLanguage):
    """GLAP's audio tower, averaged over frames of 40 ms: 768-d; a joint space with text, 1,024-d.

    Dinkel et al., "GLAP: General contrastive audio-text pretraining across domains and languages",
    2025. Clips longer than 10.08 s are encoded in chunks; the silence that fills the last chunk
    counts in the mean, as in the original. Captions go through SONAR's encoder, which is NLLB's
    network and reads with NLLB's tokenizer: `tokenizer`, a folder or hub name. `language` is the
    captions' language as NLLB names it ("eng_Latn", "deu_Latn", "zho_Hans"). `weights` is the
    hub's file or folder, or the first release's `glap_checkpoint.pt`.
    """

    joint_dim = 1024
    text_prefix = "text_encoder."
    TINY = {
        **Dasheng.TINY,
        "text_width": 16,
        "text_layers": 1,
        "text_heads": 2,
        "text_hidden": 32,
        "vocabulary": 1100,
    }

    def __init__(
        self,
        weights=None,
        *,
        tokenizer: str = "facebook/nllb-200-distilled-600M",
        language: str = "eng_Latn",
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        text_width: int = 1024,
        text_layers: int = 24,
        text_heads: int = 16,
        text_hidden: int = 8192,
        vocabulary: int = _TOKENS,
    ):
        super().__init__(width=width, depth=depth, heads=heads)
        self.weights = weights
        state = {} if weights is None else _read(weights)
        self.audio_projection = _text.mlp(width, self.joint_dim)
        self.has_text = weights is None or self.find_text(state)
        if self.has_text:
            self.text = _sonar(text_width, text_layers, text_heads, text_hidden, vocabulary + 2)
            self.text_projection = _text.mlp(text_width, self.joint_dim)
        self.tokenizer = _Nllb(tokenizer, vocabulary, max_length=_LENGTH)
        self.tokenizer.language = language
        if weights is not None:
            parts = ("net", "audio_projection", "text", "text_projection")
            loaded = nn.ModuleDict({p: getattr(self, p) for p in parts if hasattr(self, p)})
            ignore = ["net.front_end."]  # tables that this module computes itself
            _published.load(loaded, _named(state), weights, ignore=ignore)

    def chunks(self, features: Tensor) -> Iterator[Tensor]:
        """Encodes chunk by chunk: (B, 64, T) -> (B, T', D) of each, what fills the last included.

        A clip of one chunk is not filled up.
        """
        spectrogram = self.normalise(features)
        if spectrogram.shape[3] > self.length:
            spectrogram = pad(spectrogram, (0, -spectrogram.shape[3] % self.length))
        for chunk in spectrogram.split(self.length, dim=3):
            yield self.net.forward_features(self.net.patch_embed(chunk))

    def encode(self, features):
        frames = torch.cat(list(self.chunks(features)), dim=1)
        return frames[:, : features.shape[2] // self.patch[1]]

    def embed(self, audio):
        return torch.cat(list(self.chunks(self.features(audio))), dim=1).mean(dim=1)

    def embed_joint(self, audio):
        return normalize(self.audio_projection(self.embed(audio)), dim=-1)

    def embed_tokens(self, input_ids, attention_mask):
        states = self.text(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(states)
        pooled = (states * mask).sum(dim=1) / mask.sum(dim=1)
        return normalize(self.text_projection(pooled), dim=-1)


class _Nllb(_text.Tokenizer):
    """NLLB's tokenizer: a caption's language is its first token."""

    language: str

    @cached_property
    def _tokenizer(self):
        tokenizer = super()._tokenizer
        if self.language not in tokenizer.get_vocab():
            raise UserError(
                f"{self.name}: has no token {self.language}. --language takes NLLB's names, such "
                "as eng_Latn, and --tokenizer the folder of an NLLB-200 tokenizer."
            )
        tokenizer.src_lang = self.language
        return tokenizer


def _sonar(width: int, layers: int, heads: int, hidden: int, rows: int) -> nn.Module:
    """SONAR's text encoder, untrained: NLLB's, with the final norm (Duquenne et al., 2023)."""
    from transformers import M2M100Config
    from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

    config = M2M100Config(
        vocab_size=rows,
        d_model=width,
        encoder_layers=layers,
        encoder_attention_heads=heads,
        encoder_ffn_dim=hidden,
        encoder_layerdrop=0.0,
        max_position_embeddings=_LENGTH,
        scale_embedding=True,
        pad_token_id=1,
    )
    return M2M100Encoder(config)


def _read(weights) -> dict[str, Tensor]:
    """Both releases' tensors, under the names of the later one."""
    state = _published.read(weights, "model")
    return {name.replace("_encoder.model.", "_encoder.", 1): v for name, v in state.items()}


def _named(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names used here; special tokens in transformers' order."""
    named = {}
    for name, value in state.items():
        part, _, rest = name.partition(".")
        if part == "text_encoder":
            for old, new in _RENAMED:
                rest = rest.replace(old, new)
            if rest == "embed_tokens.weight":
                value = torch.cat([value[_SPECIAL], value[len(_SPECIAL) :]])
            named[f"text.{rest}"] = value
        elif part == "audio_encoder":
            named[f"net.{rest}"] = value
        else:
            named[f"{part.replace('_proj', '_projection')}.{rest}"] = value
    return named
