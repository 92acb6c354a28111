"""Dasheng: a masked autoencoder trained on 272,000 hours of audio (Xiaomi)."""

from torch.nn.functional import pad

from ._dasheng import MelTransformer


class Dasheng(MelTransformer):
    """Dasheng's frames, one every 40 ms, averaged: 768-d, 1280-d (0.6B) or 1536-d (1.2B).

    Dinkel et al., "Scaling up masked audio encoder learning for general audio classification",
    Interspeech 2024. Clips longer than 10.08 s are encoded in chunks.
    """

    patch, length = (64, 4), 1008
    frame_seconds = 0.04
    TINY = {"width": 16, "depth": 1, "heads": 2}

    def __init__(self, weights=None, *, width: int = 768, depth: int = 12, heads: int = 12):
        super().__init__(weights, width, depth, heads)

    def tokens(self, features):
        spectrogram = self.normalise(features)
        frames, chunks = spectrogram.shape[3], []
        for start in range(0, frames - self.patch[1] + 1, self.length):
            chunk = spectrogram[..., start : start + self.length]
            count = chunk.shape[3] // self.patch[1]
            if start:  # as published: padded, and the output for the padding is dropped
                chunk = pad(chunk, (0, self.length - chunk.shape[3]))
            chunks.append(self.net.forward_features(self.net.patch_embed(chunk))[:, :count])
        return chunks
