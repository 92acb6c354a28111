"""Exports any model as a HEAR 2021 module, for tools that evaluate such modules.

    hear-validator evar.export --model=beats_iter3
    EVAR_MODEL=beats_iter3 python -m heareval.embeddings.runner evar.export

Turian et al., "HEAR: Holistic evaluation of audio representations", 2022,
https://hearbenchmark.com/hear-api.html

The validator (package hearvalidator, which needs TensorFlow for any model) accepts 16, 22.05, 44.1
and 48 kHz; models of 32 kHz (HTS-AT, WavCaps) fail there with an AttributeError. It warns about
frames more than 50 ms apart, which most transformers have.
"""

import os

import torch
from torch import Tensor, nn

from evar.adapter import Adapter
from evar.errors import UserError

_HOP = 0.05  # seconds between the windows of a model without uniform frames
_WINDOW = 1.0  # seconds


class HearModel(nn.Module):
    """An adapter with the attributes of the HEAR interface."""

    def __init__(self, adapter: Adapter):
        super().__init__()
        self.adapter = adapter
        self.sample_rate = adapter.sample_rate
        self.scene_embedding_size = adapter.embed_dim
        with torch.inference_mode():
            silence = torch.zeros(1, adapter.sample_rate)
            self.timestamp_embedding_size = self.timestamps(silence)[0].shape[2]

    def timestamps(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Embeds frames: (B, S) -> (B, T, D') and the times of their centres, (B, T) in ms.

        These are the frames of an adapter with `frame_seconds`, up to the clip's end. Frames of
        others may be patches or the whole clip: for them, clip embeddings of 1-s windows, one every
        50 ms, with silence around the clip.
        """
        seconds = audio.shape[1] / self.sample_rate
        if step := self.adapter.frame_seconds:
            frames = self.adapter.frames(audio)[:, : max(1, round(seconds / step))]
        else:
            frames = self._windows(audio)
            step = seconds / frames.shape[1]
        # In float64: validators require uniform spacing to a microsecond.
        centres = torch.arange(frames.shape[1], dtype=torch.float64, device=audio.device) + 0.5
        return frames, (1000 * step * centres).float().expand(len(audio), -1)

    def _windows(self, audio: Tensor) -> Tensor:
        window, hop = (round(s * self.sample_rate) for s in (_WINDOW, _HOP))
        count = max(1, round(audio.shape[1] / hop))
        centres = [round((i + 0.5) * audio.shape[1] / count) for i in range(count)]
        padded = nn.functional.pad(audio, (window // 2, window))
        return torch.stack([self.adapter.embed(padded[:, c : c + window]) for c in centres], dim=1)


def load_model(model_file_path: str = "") -> HearModel:
    """Loads the model that the argument or the environment variable EVAR_MODEL names.

    `MODEL` or `MODEL@WEIGHTS`: a registered name, path/to/file.py:ClassName, hf:ORG/NAME; after
    the @, its weights file ("random" for an untrained network). By default, the published file has
    to be in the weights folder.
    """
    from evar import models

    name = str(model_file_path) or os.environ.get("EVAR_MODEL", "")
    if not name:
        raise UserError(
            "no model given: pass MODEL or MODEL@WEIGHTS as the module's model file, or set "
            "EVAR_MODEL to it"
        )
    model, _, weights = name.partition("@")
    return HearModel(models.load(model, weights=weights or None).adapter)


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Embeds frames: (B, S) -> (B, T, D') embeddings and (B, T) timestamps in milliseconds."""
    return model.timestamps(audio)


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """Embeds clips: (B, S) -> (B, D)."""
    return model.adapter.embed(audio)
