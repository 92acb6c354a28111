"""CED: distilled from AudioSet taggers (Xiaomi)."""

from torch.nn.functional import pad

from ._dasheng import MelTransformer


class Ced(MelTransformer):
    """CED's tokens after the final norm, averaged: 768-d.

    Dinkel et al., "CED: Consistent ensemble distillation for audio tagging", ICASSP 2024. Clips
    longer than 10.12 s are encoded in chunks; the last one is padded. The published code mixes the
    chunks of a batch's clips and drops a last chunk that is exactly full; here every clip keeps its
    own.
    """

    patch, length = (16, 16), 1012
    frame_seconds = 0.16
    TINY = {"width": 16, "depth": 1, "heads": 2}

    def __init__(self, weights=None, *, width: int = 768, depth: int = 12, heads: int = 12):
        super().__init__(weights, width, depth, heads)

    def tokens(self, features):
        spectrogram = self.normalise(features)
        chunks = list(spectrogram.split(self.length, dim=3))
        if len(chunks) > 1:
            chunks[-1] = pad(chunks[-1], (0, self.length - chunks[-1].shape[3]))
        return [self.net.forward_features(self.net.patch_embed(chunk)) for chunk in chunks]
