"""Dasheng, a masked autoencoder trained on 272,000 hours of sound (Xiaomi)."""

from ._dasheng import MelTransformer


class Dasheng(MelTransformer):
    """Dasheng's frames, one every 40 ms, averaged: 768-d, 1280-d (0.6B) or 1536-d (1.2B).

    Dinkel et al., "Scaling up masked audio encoder learning for general audio classification",
    Interspeech 2024. Clips above 10.08 s are taken in chunks, the last one as long as it is.
    """

    patch, length = (64, 4), 1008
    TINY = {"width": 16, "depth": 1, "heads": 2}

    def __init__(self, weights=None, *, width: int = 768, depth: int = 12, heads: int = 12):
        super().__init__(weights, width, depth, heads)

    def tokens(self, features):
        patches = self.net.patch_embed(self.normalise(features))  # (B, D, 1, T')
        chunks = patches.split(self.length // self.patch[1], dim=3)
        return [self.net.forward_features(chunk) for chunk in chunks]
