"""MuQ-MuLan: MuQ and XLM-RoBERTa in one space, for music and captions (Tencent, 2025)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from evar.errors import UserError

from . import _published, _text
from .muq import Muq

_WINDOW = 240_000  # samples: 10 s
_UNUSED = (  # of pre-training, and a layer that the published model does not use
    *("audio.model.", "audio.aggregator.", "contrast.", "multi_layer_contrastive_learning."),
    "text.model.embeddings.position_ids",
)


class MuqMulan(_text.AudioLanguage):
    """MuQ-MuLan's joint space of music and text, scaled to unit length: 512-d.

    Zhu et al., "MuQ: Self-supervised music representation learning with mel residual vector
    quantization", 2025. A clip is encoded in windows of 10 s, the last one continued with the
    clip's beginning, and its embedding is the mean over the windows'. `weights` is the published
    folder; MuQ's network is that of the package muq, XLM-RoBERTa's that of transformers. The
    original averages a caption over the padding of its batch as well; here a caption gives what it
    gives alone. `tokenizer` is a folder or a hub name. `audio` and `text` change the two networks.
    """

    sample_rate = 24000
    embed_dim = joint_dim = 512
    text_prefix = "text.model."
    TINY = {
        "audio": Muq.TINY["config"],
        "width": 16,
        "text": {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
        "text_layers": 1,
        "vocabulary": 1100,
    }

    def __init__(
        self,
        weights=None,
        *,
        tokenizer: str = "FacebookAI/xlm-roberta-base",
        width: int = 768,
        text_layers: int = 8,
        vocabulary: int = 250_002,
        audio: Mapping | None = None,
        text: Mapping | None = None,
    ):
        super().__init__(weights)
        state = {} if weights is None else _read(weights)
        self.muq = Muq(config=audio)
        self.proj = nn.Linear(self.muq.embed_dim, width)
        self.audio_to_latents = nn.Linear(width, self.joint_dim)
        self.has_text = weights is None or self.find_text(state)
        if self.has_text:
            self.text = nn.ModuleDict(
                {
                    "model": _roberta({"hidden_size": width, **(text or {})}, vocabulary),
                    "transformer": _head(width, text_layers),
                }
            )
            self.text_to_latents = nn.Linear(width, self.joint_dim)
        self.tokenizer = _text.Tokenizer(tokenizer, vocabulary, max_length=512)
        if weights is not None:
            parts = ("proj", "audio_to_latents", "text", "text_to_latents")
            loaded = nn.ModuleDict({p: getattr(self, p) for p in parts if hasattr(self, p)})
            loaded["muq"] = nn.ModuleDict({"net": self.muq.net})  # without its front end's tables
            _published.load(loaded, _named(state), weights, ignore=_UNUSED)

    def encoder_blocks(self):
        return self.muq.encoder_blocks()

    def features(self, audio):
        """(B, S) -> (B * N, 128, T): N windows of 10 s."""
        clips, samples = audio.shape
        missing = -samples % _WINDOW
        audio = torch.cat([audio, audio[:, :missing]], dim=1)  # of less than 5 s: twice the clip
        count = max(1, audio.shape[1] // _WINDOW)
        return self.muq.features(audio.reshape(clips * count, -1))

    def encode(self, features):
        return self.muq.encode(features)

    def frames(self, audio):
        frames = self.encode(self.features(audio))  # (B * N, T, 1024)
        return frames.reshape(len(audio), -1, frames.shape[2])

    def embed(self, audio):
        pooled = self.proj(self.encode(self.features(audio))).mean(dim=1)
        latents = normalize(self.audio_to_latents(pooled), dim=-1)
        return latents.unflatten(0, (len(audio), -1)).mean(dim=1)

    def embed_tokens(self, input_ids, attention_mask):
        network = self.text["model"]
        states = network(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        states = self.text["transformer"](states, mask=attention_mask.bool())
        mask = attention_mask[..., None].to(states)
        pooled = (states * mask).sum(dim=1) / mask.sum(dim=1)
        return normalize(self.text_to_latents(pooled), dim=-1)


def _roberta(changes: Mapping, vocabulary: int) -> nn.Module:
    """XLM-RoBERTa-base, or a smaller one, untrained; nothing is fetched."""
    from transformers import XLMRobertaConfig, XLMRobertaModel

    base = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    return XLMRobertaModel(XLMRobertaConfig(vocab_size=vocabulary, **{**base, **changes}))


def _head(width: int, layers: int) -> nn.Module:
    """The package's transformer on the text's states."""
    try:
        from muq.muq_mulan.modules.transformer import Transformer
    except ImportError as error:
        raise UserError(f"MuQ-MuLan needs the package muq: pip install muq ({error})") from error
    return Transformer(dim=width, depth=layers)


def _read(weights) -> dict[str, Tensor]:
    state = _published.read(weights)
    return {name.removeprefix("mulan."): value for name, value in state.items()}


def _named(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names used here."""
    named = {}
    for name, value in state.items():
        for part in ("conv.", "conformer."):
            if name.startswith(f"audio.model.model.{part}"):
                name = name.replace("audio.model.model.", "muq.net.", 1)
        named[name.replace("audio.proj.", "proj.", 1)] = value
    return named
