"""CNN14 of PANNs, supervised on AudioSet."""

from evar.adapter import Adapter
from evar.errors import UserError

from . import _cnn14, _published
from ._frontend import LogMelFrontEnd

_FRONT_ENDS = {
    16000: {"n_fft": 512, "hop": 160, "f_max": 8000.0},
    32000: {"n_fft": 1024, "hop": 320, "f_max": 14000.0},
}


class Cnn14(Adapter):
    """CNN14's last hidden layer: 2,048-d.

    Kong et al., "PANNs: Large-scale pretrained audio neural networks for audio pattern
    recognition", TASLP 2020. Clips have any length; those below 0.3 s are padded with silence.
    """

    frame_seconds = 0.32
    TINY = {"width": 2}

    def __init__(self, weights=None, *, rate: int = 16000, width: int = 64):
        super().__init__(weights)
        if rate not in _FRONT_ENDS:
            raise UserError(f"CNN14 was not published for {rate} Hz; known: 16000, 32000")
        self.sample_rate = rate
        self.mel = LogMelFrontEnd(rate, **_FRONT_ENDS[rate])
        self.net = _cnn14.Cnn14Net(width)
        self.embed_dim = self.net.dim
        if weights is not None:
            state = _published.read(weights, "model")
            self.mel.check(state, weights)
            _published.load(self.net, state, weights, ignore=_cnn14.UNUSED)

    def features(self, audio):
        return self.mel(_cnn14.enough(audio, self.mel.hop))

    def encode(self, features):
        return self.net.frames(features)

    def encoder_blocks(self):
        return self.net.blocks()

    def embed(self, audio):
        return self.net.clip(self.frames(audio))
