"""MS-CLAP: Microsoft's CLAP of 2022 and of 2023."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from . import _cnn14, _htsat, _published, _text
from ._frontend import LogMelFrontEnd, crop, repeat_cut


class _MsClap(_text.AudioLanguage):
    """What both versions share: one window per clip, two towers with projections: 1,024-d.

    A shorter clip is repeated and cut to the window; of a longer one, one window is used (`seed`).
    A frame is that window, projected into the joint space; it is not scaled to unit length.
    """

    sample_rate = 44100
    embed_dim = joint_dim = 1024
    whole_clips = True  # as the evaluation behind Table 5 of the M2D-CLAP paper read them
    text_prefix = "caption_encoder."
    window: int  # samples

    def features(self, audio):
        return self.mel(crop(repeat_cut(audio, self.window), self.window, seed=self.seed))

    def encode(self, features):
        return self.audio_encoder["projection"](self.tower(features))[:, None]  # (B, 1, 1024)

    def tower(self, features: Tensor) -> Tensor:
        """Applies the audio tower without its projection: (B, F, T) log-mel -> (B, D)."""
        raise NotImplementedError


def projected(base: nn.Module, dim: int) -> nn.ModuleDict:
    """Returns a tower of D = `dim` with its projection, named as in the published files."""
    return nn.ModuleDict({"base": base, "projection": _text.Projection(dim, _MsClap.joint_dim)})


class Clap2022(_MsClap):
    """MS-CLAP 2022: CNN14 on 5 s of audio, BERT on captions.

    Elizalde et al., "CLAP: Learning audio concepts from natural language supervision", ICASSP 2023.
    """

    window = 220_500  # 5 s
    TINY = {"width": 2, "text_width": 64, "text_layers": 1}

    def __init__(
        self,
        weights=None,
        *,
        tokenizer: str = "google-bert/bert-base-uncased",
        seed: int = 0,
        width: int = 64,
        text_width: int = 768,
        text_layers: int = 12,
    ):
        super().__init__(weights)
        state = {} if weights is None else _published.read(weights, "model")
        self.seed = seed
        self.mel = LogMelFrontEnd(self.sample_rate)
        net = _cnn14.Cnn14Net(width)
        self.audio_encoder = projected(net, net.dim)
        self.has_text = weights is None or self.find_text(state)
        if self.has_text:
            self.caption_encoder = projected(_text.bert(text_width, text_layers), text_width)
        self.tokenizer = _text.Tokenizer(tokenizer, 30522, max_length=512)
        if weights is not None:
            self.mel.check(state, weights)
            ignore = [
                *(f"audio_encoder.base.{name}" for name in _cnn14.UNUSED),
                "caption_encoder.base.embeddings.position_ids",  # 0, 1, 2, ...
                "caption_encoder.base.pooler.",  # the first token is used without it
                "logit_scale",  # of the training loss
            ]
            _published.load(self, state, weights, ignore=ignore)

    def encoder_blocks(self):
        return self.audio_encoder["base"].blocks()

    def tower(self, features):
        net = self.audio_encoder["base"]
        return net.clip(net.frames(features))

    def embed_tokens(self, input_ids, attention_mask):
        base, projection = self.caption_encoder["base"], self.caption_encoder["projection"]
        hidden = base(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return projection(hidden[:, 0])  # the [CLS] token


class Clap2023(_MsClap):
    """MS-CLAP 2023: HTS-AT on 7 s of audio, GPT-2 on captions.

    Elizalde et al., "Natural language supervision for general-purpose audio representations",
    ICASSP 2024.
    """

    window = 308_700  # 7 s
    TINY = {"width": 24, "depths": (1, 1, 1, 1), "text_width": 64, "text_layers": 1}

    def __init__(
        self,
        weights=None,
        *,
        tokenizer: str = "openai-community/gpt2",
        seed: int = 0,
        width: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        text_width: int = 768,
        text_layers: int = 12,
    ):
        super().__init__(weights)
        state = {} if weights is None else _published.read(weights, "model")
        self.seed = seed
        # The model was trained on audio at 44.1 kHz with the mel bands of 32 kHz.
        self.mel = LogMelFrontEnd(32000)
        net = _htsat.build(width, depths)
        self.audio_encoder = projected(net, net.config.hidden_size)
        self.has_text = weights is None or self.find_text(state)
        if self.has_text:
            self.caption_encoder = projected(_text.gpt2(text_width, text_layers), text_width)
        self.tokenizer = _text.Tokenizer(tokenizer, 50257, max_length=1024, pad_token="!")
        if weights is not None:
            self.mel.check(state, weights)
            state = _htsat.rename(state, "audio_encoder.base.htsat.", "audio_encoder.base.")
            # Older transformers stored GPT-2's causal masks.
            masks = (".attn.bias", ".attn.masked_bias")
            state = {name: value for name, value in state.items() if not name.endswith(masks)}
            _published.load(self, state, weights, ignore=["logit_scale"])

    def encoder_blocks(self):
        return _htsat.stages(self.audio_encoder["base"])

    def tower(self, features):
        return _htsat.clip(self.audio_encoder["base"], features)

    def embed_text(self, captions):
        return super().embed_text([f"{caption} <|endoftext|>" for caption in captions])

    def embed_tokens(self, input_ids, attention_mask):
        base, projection = self.caption_encoder["base"], self.caption_encoder["projection"]
        hidden = base(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        # The padding token is "!" (0), as in training: each "!" in a caption moves the selected
        # state one token before <|endoftext|>.
        last = (input_ids != 0).sum(dim=1) - 1
        return projection(hidden[torch.arange(len(last), device=last.device), last])
