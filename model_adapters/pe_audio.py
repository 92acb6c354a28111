"""PE-A-Frame: Perception Encoder Audio with a caption space for every 40 ms (Meta, 2025)."""

from collections.abc import Mapping

import torch

from . import _text, _transformers

_HOP = 1920  # samples: 40 ms


class PeAudioFrame(_text.AudioLanguage):
    """PE-A-Frame's audio encoder, averaged over frames of 40 ms; a joint space with text.

    Vyas et al., "Pushing the frontier of audiovisual perception with large-scale multimodal
    correspondence learning", 2025. `weights` is a transformers folder of any size. In the joint
    space every frame has an embedding; a clip's is the mean over its frames (this harness's
    choice: the paper compares single frames with a caption). Clips are continued to whole frames
    by reflection, as the model's feature extractor does. `config` changes the network that is
    built where there is no folder; `tokenizer` is a folder or a hub name, by default `weights`.
    """

    sample_rate = 48000
    frame_seconds = 0.04
    TINY = {
        "config": {
            "audio_config": {
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 8,
                "dac_config": {
                    "encoder_hidden_size": 1,
                    "downsampling_ratios": [48, 40],
                    "hidden_size": 16,
                    "codebook_dim": 8,
                },
            },
            "text_config": {
                "model_type": "modernbert",
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
            },
        }
    }

    def __init__(
        self, weights=None, *, tokenizer: str | None = None, config: Mapping | None = None
    ):
        super().__init__(weights)
        from transformers import PeAudioConfig, PeAudioFrameLevelModel

        if weights is None:
            self.net = PeAudioFrameLevelModel(PeAudioConfig(**(config or {})))
        else:
            self.net = _transformers.pretrained(PeAudioFrameLevelModel, weights)
        text = self.net.config.text_config
        self.embed_dim = self.net.config.audio_config.hidden_size
        self.joint_dim = text.hidden_size
        name = tokenizer or str(weights or "facebook/pe-a-frame-base")
        self.tokenizer = _text.Tokenizer(name, text.vocab_size, max_length=512, whole=False)

    def encoder_blocks(self):
        return self.net.audio_encoder.layers

    def frames(self, audio):
        count = -(-audio.shape[1] // _HOP)
        audio = audio[:, _reflected(audio.shape[1], count * _HOP, audio.device)]
        return self.net.audio_encoder(audio[:, None]).last_hidden_state  # (B, count, D)

    def embed_joint(self, audio):
        return self.net.audio_head(self.frames(audio)).mean(dim=1)

    def embed_tokens(self, input_ids, attention_mask):
        text = self.net.text_model(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        )
        return self.net.text_audio_head(text.hidden_states[-1][:, 0])


def _reflected(samples: int, length: int, device):
    """(length,) indices that go on from the end backwards, and forwards again at the start."""
    period = max(1, 2 * (samples - 1))
    index = torch.arange(length, device=device) % period
    return torch.minimum(index, period - index) if samples > 1 else index * 0
