"""Audio towers of language models that grew from Whisper: AF-Whisper, Qwen2-Audio's."""

import json
from pathlib import Path

import torch

from evar.errors import UserError
from evar.weights import first_line, load_checkpoint, load_strict

from . import _hf_inputs
from .whisper import Whisper

_TYPES = {"audioflamingo3": "audioflamingo3_encoder", "qwen2_audio": "qwen2_audio_encoder"}
_TOWER = "audio_tower."


class WhisperTower(Whisper):
    """The audio tower of Audio Flamingo 3 or Qwen2-Audio, averaged over its frames: 1280-d.

    Goel et al., "Audio Flamingo 3: Advancing audio intelligence with fully open large audio
    language models", 2025; Chu et al., "Qwen2-Audio technical report", 2024. Whisper's encoder,
    trained on, that does not attend to what fills a window of 30 s, and averages two frames: 40 ms.
    `weights` is the folder of the whole model, of which the tower alone is read, or of the tower.
    """

    frame_seconds = 0.04

    def __init__(
        self,
        weights=None,
        *,
        architecture: str = "audioflamingo3",
        width: int = 1280,
        depth: int = 32,
        heads: int = 20,
        n_mels: int = 128,
    ):
        if architecture not in _TYPES:
            raise UserError(f"--architecture={architecture}: known are {', '.join(_TYPES)}")
        self._type = _TYPES[architecture]
        super().__init__(weights, width=width, depth=depth, heads=heads, n_mels=n_mels)

    def _encoder(self, weights, width: int, depth: int, heads: int, n_mels: int):
        from transformers import AutoConfig, AutoModel

        sizes = {"d_model": width, "encoder_layers": depth, "encoder_attention_heads": heads}
        sizes |= {"encoder_ffn_dim": 4 * width, "num_mel_bins": n_mels}
        if weights is not None:
            sizes = _config(Path(weights), self._type)
        net = AutoModel.from_config(AutoConfig.for_model(self._type, **sizes))
        if weights is not None:
            state = load_checkpoint(weights, part=_TOWER) or load_checkpoint(weights)
            state = {name.rpartition(_TOWER)[2]: value for name, value in state.items()}
            load_strict(net, state, weights)
        return net.float()

    def _states(self, filled, frames: int):
        mask = torch.arange(filled.shape[2], device=filled.device) < frames
        inputs = {"input_features": filled, "attention_mask": mask.expand(len(filled), -1)}
        states = self.net(**_hf_inputs.arguments(self.net, inputs, "given")).last_hidden_state
        return states[:, : max(1, frames // 4)]


def _config(folder: Path, model_type: str) -> dict:
    """The tower's sizes, from the config.json of the whole model or of the tower alone."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content = content.get("audio_config", content)
        found = content["model_type"]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path}: no configuration of a model with an audio tower ({first_line(error)}). Give "
            "the model's whole folder."
        ) from error
    if found != model_type:
        raise UserError(f"{folder}: holds a {found}, not a {model_type}")
    return {k: v for k, v in content.items() if k not in ("model_type", "dtype", "torch_dtype")}
