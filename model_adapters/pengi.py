"""Pengi's audio encoder: HTS-AT, trained to prefix a language model (Deshmukh et al., 2023)."""

from collections.abc import Sequence

from evar.adapter import Adapter

from . import _htsat, _published
from ._frontend import LogMelFrontEnd, crop, repeat_cut
from .msclap import projected

WINDOW = 308_700  # samples: 7 s


class Pengi(Adapter):
    """Pengi's audio encoder with its projection: 1,024-d, not of unit length.

    Deshmukh et al., "Pengi: An audio language model for audio tasks", NeurIPS 2023. It hears 7 s: a
    shorter clip is repeated and cut, of a longer one, one window is heard (`seed`). There is no
    joint space: sound and text meet inside GPT-2, which this harness does not run.
    """

    sample_rate = 44100
    embed_dim = 1024
    TINY = {"width": 24, "depths": (1, 1, 1, 1)}

    def __init__(
        self,
        weights=None,
        *,
        seed: int = 0,
        width: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
    ):
        super().__init__(weights)
        self.seed = seed
        # Audio at 44.1 kHz, mel bands laid out as if it were at 32 kHz: so the model was trained.
        self.mel = LogMelFrontEnd(32000)
        net = _htsat.build(width, depths)
        self.audio_encoder = projected(net, net.config.hidden_size)
        if weights is not None:
            state = _published.read(weights, "model")
            state = {name.removeprefix("module."): value for name, value in state.items()}
            self.mel.check(state, weights)
            state = _htsat.rename(state, "audio_encoder.base.htsat.", "audio_encoder.base.")
            unused = ("caption_encoder.", "caption_decoder.")
            _published.load(self, state, weights, ignore=unused)

    def encoder_blocks(self):
        return _htsat.stages(self.audio_encoder["base"])

    def features(self, audio):
        return self.mel(crop(repeat_cut(audio, WINDOW), WINDOW, seed=self.seed))

    def encode(self, features):
        clip = _htsat.clip(self.audio_encoder["base"], features)
        return self.audio_encoder["projection"](clip)[:, None]  # (B, 1, 1024)
