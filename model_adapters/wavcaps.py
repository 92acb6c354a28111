"""WavCaps: HTS-AT and BERT, trained on weakly labelled captions."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import normalize

from . import _htsat, _published, _text
from ._frontend import LogMelFrontEnd, zero_pad

WINDOW = 320_000  # samples: 10 s


class WavCaps(_text.AudioLanguage):
    """WavCaps' joint space, averaged over windows of 10 s: 1,024-d.

    Mei et al., "WavCaps: A ChatGPT-assisted weakly-labelled audio captioning dataset for
    audio-language multimodal research", 2023. The last window is padded with silence. A frame is a
    window, projected and scaled to unit length.
    """

    sample_rate = 32000
    embed_dim = joint_dim = 1024
    text_prefix = "text_encoder."
    TINY = {"width": 24, "depths": (1, 1, 1, 1), "text_width": 64, "text_layers": 1}

    def __init__(
        self,
        weights=None,
        *,
        tokenizer: str = "google-bert/bert-base-uncased",
        width: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        text_width: int = 768,
        text_layers: int = 12,
    ):
        super().__init__(weights)
        state = {} if weights is None else _published.read(weights, "model")
        self.mel = LogMelFrontEnd(self.sample_rate)
        self.audio = _htsat.build(width, depths)
        self.audio_proj = _text.mlp(self.audio.config.hidden_size, self.joint_dim)
        self.has_text = weights is None or self.find_text(state)
        if self.has_text:
            bert = _text.bert(text_width, text_layers)
            self.text_encoder = nn.ModuleDict({"text_encoder": bert})
            self.text_proj = _text.mlp(text_width, self.joint_dim)
        self.tokenizer = _text.Tokenizer(tokenizer, 30522, max_length=30)
        if weights is not None:
            self._load(state)

    def _load(self, state):
        self.mel.check(state, self.weights)
        state = _htsat.rename(state, "audio_encoder.audio_enc.", "audio.")
        ignore = [
            "temp",  # of the training loss
            "text_encoder.text_encoder.embeddings.position_ids",  # 0, 1, 2, ...
        ]
        _published.load(self, state, self.weights, ignore=ignore)

    def encoder_blocks(self):
        return _htsat.stages(self.audio)

    def features(self, audio):
        windows = audio.split(WINDOW, dim=1)
        return torch.cat([self.mel(zero_pad(window, WINDOW)) for window in windows], dim=2)

    def encode(self, features):
        windows = [
            normalize(self.audio_proj(_htsat.clip(self.audio, window)), dim=-1)
            for window in features.split(_htsat.FRAMES, dim=2)
        ]
        return torch.stack(windows, dim=1)  # (B, windows, 1024)

    def embed_tokens(self, input_ids, attention_mask):
        bert = self.text_encoder["text_encoder"]
        hidden = bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.text_proj(hidden[:, 0])  # the [CLS] token
