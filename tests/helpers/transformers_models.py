"""Tiny random models of transformers on disk, as a hub would hold them."""

import torch
from transformers import AutoConfig, AutoModel, Wav2Vec2FeatureExtractor

from evar.model_adapters.speech import Speech
from helpers.golden_cases import noise

CONFIG = Speech.TINY["config"]
AUDIO = noise(2, 16000) + 0.05
WHISPER = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 16,
    "num_mel_bins": 8,
    "vocab_size": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


def save(folder, model_type="wav2vec2", kind=AutoModel, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = kind.from_config(AutoConfig.for_model(model_type, **{**CONFIG, **changes}))
    model.save_pretrained(folder)
    return model.eval()


def normalised(audio):
    """As the published processor prepares the clips."""
    extractor = Wav2Vec2FeatureExtractor()
    clips = list(audio.numpy())
    return extractor(clips, sampling_rate=16000, return_tensors="pt").input_values
