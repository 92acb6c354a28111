"""LAION-CLAP: HTS-AT and RoBERTa, trained on LAION-Audio-630K and AudioSet."""

from collections.abc import Sequence
from pathlib import Path

from torch.nn.functional import normalize

from . import _htsat, _published, _text
from ._frontend import LogMelFrontEnd, crop, zero_pad

WINDOW = 480_000  # samples: 10 s

# Names of the Hugging Face port (laion/clap-htsat-unfused), and those used here.
_PORT = (
    ("audio_model.", "audio_branch."),
    ("text_model.", "text_branch."),
    ("projection.linear1.", "projection.0."),
    ("projection.linear2.", "projection.2."),
)


class LaionClap(_text.AudioLanguage):
    """LAION-CLAP's joint space, scaled to unit length: 512-d.

    Wu et al., "Large-scale contrastive language-audio pretraining with feature fusion and
    keyword-to-caption augmentation", ICASSP 2023; the model without fusion. Its input is 10 s: a
    shorter clip is repeated as often as it fits whole, then padded with silence; of a longer one,
    one window is used (`seed`). A frame is that window. Loads `630k-audioset-best.pt`, or the
    folder or weights file of the Hugging Face port.
    """

    sample_rate = 48000
    embed_dim = joint_dim = 512
    text_prefix = "text_branch."
    TINY = {"width": 24, "depths": (1, 1, 1, 1), "text_width": 64, "text_layers": 1}

    def __init__(
        self,
        weights=None,
        *,
        tokenizer: str = "FacebookAI/roberta-base",
        seed: int = 0,
        width: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        text_width: int = 768,
        text_layers: int = 12,
    ):
        super().__init__(weights)
        state = {} if weights is None else _read(Path(weights))
        self.seed = seed
        self.mel = LogMelFrontEnd(self.sample_rate, hop=480)
        self.audio_branch = _htsat.build(width, depths)
        self.audio_projection = _text.mlp(self.audio_branch.config.hidden_size, self.joint_dim)
        self.has_text = weights is None or self.find_text(state)
        if self.has_text:
            self.text_branch = _text.roberta(text_width, text_layers)
            self.text_projection = _text.mlp(text_width, self.joint_dim)
        self.tokenizer = _text.Tokenizer(tokenizer, 50265, max_length=77)
        if weights is not None:
            self._load(state)

    def _load(self, state):
        self.mel.check(state, self.weights)
        if not any(name.startswith("audio_branch.audio_encoder.") for name in state):
            state = _htsat.rename(state, "audio_branch.", "audio_branch.")
        ignore = [
            "audio_transform.",  # heads of the training loss
            "text_transform.",
            "logit_scale",
            "text_branch.embeddings.position_ids",  # 0, 1, 2, ...
            "text_branch.embeddings.token_type_ids",  # 0, 0, 0, ...
        ]
        _published.load(self, state, self.weights, ignore=ignore)

    def encoder_blocks(self):
        return _htsat.stages(self.audio_branch)

    def features(self, audio):
        audio = crop(audio, WINDOW, seed=self.seed)
        audio = audio.repeat(1, WINDOW // audio.shape[1])
        return self.mel(zero_pad(audio, WINDOW))

    def encode(self, features):
        clip = self.audio_projection(_htsat.clip(self.audio_branch, features))
        return normalize(clip, dim=-1)[:, None]  # (B, 1, 512)

    def embed_tokens(self, input_ids, attention_mask):
        text = self.text_branch(input_ids=input_ids, attention_mask=attention_mask)
        return normalize(self.text_projection(text.pooler_output), dim=-1)


def _read(path: Path):
    """Reads the published file or the Hugging Face port, with the names used here."""
    state = _published.read(path, "state_dict")
    if not any(name.startswith("audio_model.") for name in state):
        return state
    for old, new in _PORT:
        state = {name.replace(old, new): value for name, value in state.items()}
    return state
