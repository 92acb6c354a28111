"""What an encoder must do to be evaluated: the base class of every adapter."""

import functools
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn


def _in_float32(features):
    @functools.wraps(features)
    def wrapped(self, audio):
        with torch.autocast(audio.device.type, enabled=False):
            return features(self, audio)

    return wrapped


class Adapter(nn.Module):
    """An audio encoder: float32 waveforms in, embeddings out.

    A subclass sets `sample_rate` (Hz) and `embed_dim` (D), and writes either `frames` or the two
    halves of it, `features` and `encode` (fine-tuning augments between them). It may write `embed`
    where a clip embedding is not the mean of its frames.

    Waveforms are (B, S), mono, in [-1, 1], at `sample_rate`, all of one length; silence pads what
    is shorter than the task's unit. The same clip must give the same embedding, alone or in any
    batch. Audio-language models also write `embed_joint` and `embed_text`.
    """

    sample_rate: int
    embed_dim: int
    lr: float = 3e-4  # of the linear probe, where the configuration names none
    fit_clips: int = 0  # training clips that `fit` wants to see; 0: nothing is fitted
    joint_dim: int | None = None  # E of an audio-language model's joint space
    frame_seconds: float | None = None  # from one frame to the next, where that is constant
    TINY: dict | None = None  # options of a tiny untrained build, for tests; None: impossible

    def __init_subclass__(cls, **more):
        """Keep every front end in float32: a log-mel computed in bfloat16 is another log-mel."""
        super().__init_subclass__(**more)
        if "features" in vars(cls):
            cls.features = _in_float32(cls.features)

    def __init__(self, weights: Path | None = None):
        super().__init__()
        self.weights = weights

    def features(self, audio: Tensor) -> Tensor:
        """(B, S) waveforms -> (B, F, T) spectrogram as the encoder wants it."""
        raise NotImplementedError(f"{type(self).__name__} has no features()")

    def encode(self, features: Tensor) -> Tensor:
        """(B, F, T) spectrogram -> (B, T', D) frame embeddings."""
        raise NotImplementedError(f"{type(self).__name__} has no encode()")

    def frames(self, audio: Tensor) -> Tensor:
        """(B, S) waveforms -> (B, T, D) frame embeddings."""
        return self.encode(self.features(audio))

    def embed(self, audio: Tensor) -> Tensor:
        """(B, S) waveforms -> (B, D) clip embeddings: the mean over time unless overridden."""
        return self.frames(audio).mean(dim=1)

    def fit(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """Learn statistics, without labels, from up to `fit_clips` training clips.

        `batches` yields (B, S) waveforms. Returns what was learned as plain numbers; `fitted`
        takes it back, so that a cached fit needs no audio.
        """
        raise NotImplementedError(f"{type(self).__name__} sets fit_clips but has no fit()")

    def fitted(self, statistics: dict[str, float]) -> None:
        """Take the statistics that `fit` returned, now or in an earlier run."""
        raise NotImplementedError(f"{type(self).__name__} sets fit_clips but has no fitted()")

    def embed_joint(self, audio: Tensor) -> Tensor:
        """(B, S) waveforms -> (B, E) embeddings in the space shared with captions."""
        raise NotImplementedError(f"{type(self).__name__} is an audio-only model")

    def embed_text(self, captions: list[str]) -> Tensor:
        """N captions -> (N, E) embeddings in the space shared with audio."""
        raise NotImplementedError(f"{type(self).__name__} is an audio-only model")

    @property
    def reads_text(self) -> bool:
        """Whether this is an audio-language model."""
        return type(self).embed_text is not Adapter.embed_text
