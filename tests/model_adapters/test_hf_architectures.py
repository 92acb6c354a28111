"""hf: over every audio architecture of the installed transformers that can be built tiny."""

import pytest
import torch
import transformers
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING_NAMES

from evar.errors import UserError
from evar.model_adapters import _hf_inputs
from evar.model_adapters.hf import HfModel
from helpers import standin
from helpers.audio_architectures import save
from helpers.golden_cases import EXACT, frozen, noise

# Extractors that transformers does not list, by the model's type: those of audio towers alone.
EXTRACTORS = {
    "audioflamingo3": "WhisperFeatureExtractor",
    "audioflamingo3_encoder": "WhisperFeatureExtractor",
    "fun_asr_nano_encoder": "FunAsrNanoFeatureExtractor",
    "gemma3n_audio": "Gemma3nAudioFeatureExtractor",
    "gemma4_audio": "Gemma4AudioFeatureExtractor",
    "glmasr_encoder": "WhisperFeatureExtractor",
    "mimi_encoder": "EncodecFeatureExtractor",
    "moss_transcribe_diarize_audio": "MossTranscribeDiarizeFeatureExtractor",
    "muse_spark_audio": "MuseSparkFeatureExtractor",
    "nemotron3_diarization_audio": "NemotronAsrStreamingFeatureExtractor",
    "omniasr_audio": "OmniASRFeatureExtractor",
    "pe_audio_encoder": "PeAudioFeatureExtractor",
    "qwen2_audio_encoder": "WhisperFeatureExtractor",
    "qwen3_asr_encoder": "Qwen3ASRFeatureExtractor",
    "vibevoice_acoustic_tokenizer_encoder": "VibeVoiceAcousticTokenizerFeatureExtractor",
    "voxtral_encoder": "WhisperFeatureExtractor",
    "voxtral_realtime_encoder": "VoxtralRealtimeFeatureExtractor",
    "wavtokenizer_encoder": "WavTokenizerFeatureExtractor",
    # transformers lists Wav2Vec2FeatureExtractor; published folders name this one.
    "wav2vec2-bert": "SeamlessM4TFeatureExtractor",
}
MELS = {
    "WhisperFeatureExtractor": 128,
    "canary": 128,
    "nemotron3_diarization_audio": 128,
    "whisper": 80,
}
CHANGES = {  # where sizes depend on each other
    "clap": {
        "audio_config.patch_embeds_hidden_size": 24,
        "audio_config.hidden_size": 192,
        "audio_config.depths": [1, 1, 1, 1],
        "audio_config.num_attention_heads": [1, 2, 4, 8],
        "audio_config.enable_fusion": True,
    },
    "fun_asr_nano": {"adaptor_config.intermediate_size": 8},
    "granite_speech": {"encoder_config.num_layers": 2, "encoder_config.num_heads": 2},
    "granite_speech_plus": {"encoder_config.num_layers": 2},
    "mimi": {"upsample_groups": 32},
    "muse_spark_audio": {
        "num_hidden_layers": 4,
        "hidden_sizes": [4, 8, 8, 16],
        "depths": [1, 1, 1, 1],
        "out_hidden_size": 16,
    },
    "pocket_tts_audio_tokenizer": {"upsample_groups": 32},
    "qwen3_asr_encoder": {"downsample_hidden_size": 8, "output_dim": 16},
    "wavtokenizer_encoder": {"codebook_dim": 32, "decoder_hidden_size": 32},
}
# fmt: off
WORKS = [
    "audio-spectrogram-transformer", "audioflamingo3", "audioflamingo3_encoder", "canary",
    "clap", "cohere_asr", "dac", "data2vec-audio", "encodec", "fun_asr_nano",
    "fun_asr_nano_encoder", "gemma3n_audio", "gemma4_audio", "glmasr", "glmasr_encoder",
    "granite_speech", "granite_speech_plus", "granite_speech5_ctc", "granite_speech5_encoder",
    "hubert", "lasr_ctc", "lasr_encoder", "mimi", "mimi_encoder", "moonshine",
    "moss_transcribe_diarize", "moss_transcribe_diarize_audio", "muse_spark_audio",
    "nemotron3_5_asr", "nemotron3_diarization_audio", "nemotron_asr_streaming",
    "nemotron_asr_streaming_encoder", "omniasr", "omniasr_audio", "omniasr_ctc",
    "parakeet_ctc", "parakeet_encoder", "parakeet_rnnt", "parakeet_tdt", "pe_audio",
    "pe_audio_encoder", "pocket_tts_audio_tokenizer", "qwen2_audio", "qwen2_audio_encoder",
    "qwen3_asr_encoder", "seamless_m4t", "seamless_m4t_v2", "sew", "sew-d", "speech_to_text",
    "unispeech", "unispeech-sat", "vibevoice_acoustic_tokenizer",
    "vibevoice_acoustic_tokenizer_encoder", "voxtral", "voxtral_encoder", "voxtral_realtime",
    "voxtral_realtime_encoder", "wav2vec2", "wav2vec2-bert", "wav2vec2-conformer", "wavlm",
    "wavtokenizer_encoder", "whisper",
]
# fmt: on
TEXT_ONLY = "reads text, and no part that hears was found"
NO_GENERAL = "builds no general model of its kind"
REFUSED = {
    "clvp": TEXT_ONLY,
    "dia": TEXT_ONLY,
    "kyutai_speech_to_text": TEXT_ONLY,
    "moshi": TEXT_ONLY,
    "phi4_multimodal": TEXT_ONLY,
    "qwen2_5_omni": NO_GENERAL,
    "qwen3_omni_moe": NO_GENERAL,
    "speecht5": "SpeechT5EncoderWithoutPrenet does not take what SpeechT5FeatureExtractor gives",
    "univnet": "returns no hidden states",
    "neucodec": "joins them in its codes only",
    "xcodec": "joins them in its codes only",
    "xcodec2": "joins them in its codes only",
}
LARGE = "its language model cannot be built tiny here; what hears is "
UNTRIED = {
    "apertus1p5": LARGE + "wavtokenizer_encoder",
    "csm": "it speaks; its codec is mimi",
    "dots3_note": LARGE + "part of it only",
    "embedding_gemma2": LARGE + "gemma4_audio",
    "gemma3n": LARGE + "gemma3n_audio",
    "gemma4": LARGE + "gemma4_audio",
    "gemma4_unified": LARGE + "gemma4_audio",
    "gradium_phonon_tts": "it speaks and does not hear",
    "higgs_audio_v2_tokenizer": "sizes depend on each other; it is built as xcodec",
    "inkling_mm_model": LARGE + "part of it only",
    "muse_spark": LARGE + "muse_spark_audio",
    "musicgen": "AutoModel cannot build it from its configuration alone",
    "musicgen_melody": "AutoModel cannot build it from its configuration alone",
    "nemo_speechlm": LARGE + "part of it only",
    "nemotron3_diarization": "sizes depend on each other; see nemotron3_diarization_audio",
    "pe_audio_video": "its video model needs timm's weights; what hears is pe_audio",
    "pocket_tts": "it speaks and does not hear",
    "pop2piano": "its extractor needs the packages librosa and essentia",
    "qwen3_asr": LARGE + "qwen3_asr_encoder",
    "vibevoice": "sizes depend on each other; what hears is vibevoice_acoustic_tokenizer",
    "vibevoice_asr": LARGE + "vibevoice_acoustic_tokenizer_encoder",
    "wavtokenizer": "sizes depend on each other; what hears is wavtokenizer_encoder",
}


def folder(path, model_type):
    name = EXTRACTORS.get(model_type) or FEATURE_EXTRACTOR_MAPPING_NAMES.get(model_type)
    if name is None or model_type not in CONFIG_MAPPING_NAMES:
        pytest.skip(f"this version of transformers has no {model_type}")
    mels = MELS.get(model_type) or MELS.get(name)
    extractor = getattr(transformers, name)(**({"feature_size": mels} if mels else {}))
    return save(path, model_type, extractor, **CHANGES.get(model_type, {}))


@pytest.mark.parametrize("model_type", WORKS)
def test_works(model_type, tmp_path):
    """A clip is embedded, the same alone as in a batch; 10 ms and silence are finite.

    And time is the second axis: twice the clip, about twice the frames, also where an extractor
    fills up to 30 s. One test, since building a model takes longer than all that is asked of it.
    """
    model = frozen(HfModel(folder(tmp_path, model_type)))
    audio = noise(2, round(1.03 * model.sample_rate)) * torch.tensor([[1.0], [5.0]])
    together = model.embed(audio)
    assert together.shape == (2, model.embed_dim)
    assert torch.isfinite(together).all()
    assert not torch.equal(together[0], together[1])
    alone = model.embed(audio[:1])
    assert torch.equal(alone, model.embed(audio[:1]))
    assert standin.relative_error(alone, together[:1]) <= EXACT
    for clip in (audio[:, : model.sample_rate // 100], torch.zeros_like(audio)):
        assert torch.isfinite(model.embed(clip)).all()
    one, two = (model.frames(noise(1, s * model.sample_rate)).shape for s in (1, 2))
    assert one[2] == two[2] == model.embed_dim
    if model_type not in ("clap", "audio-spectrogram-transformer"):  # always 10 s, frequencies too
        assert one[1] < two[1] <= 2 * one[1] + 3


@pytest.mark.parametrize("model_type", REFUSED)
def test_refused_for_what_it_is(model_type, tmp_path):
    if REFUSED[model_type] is NO_GENERAL:
        AutoConfig.for_model(model_type).save_pretrained(tmp_path)
        transformers.WhisperFeatureExtractor().save_pretrained(tmp_path)
        path = str(tmp_path)
    else:
        path = folder(tmp_path, model_type)
    with pytest.raises(UserError, match=REFUSED[model_type]):
        HfModel(path)


def test_every_architecture_has_its_line():
    """Those of the version that this table was made with; a newer version may add its own."""
    tables = [set(WORKS), set(REFUSED), set(UNTRIED)]
    assert len(set.union(*tables)) == sum(map(len, tables))
    unknown = set(FEATURE_EXTRACTOR_MAPPING_NAMES) - set.union(*tables)
    if unknown and transformers.__version__ != "5.24.0":
        pytest.skip(f"transformers {transformers.__version__} added {', '.join(sorted(unknown))}")
    assert not unknown


@pytest.mark.parametrize("model_type", ["qwen2_audio_encoder", "audioflamingo3_encoder"])
def test_what_the_extractor_fills_in_is_not_attended_to(model_type, tmp_path):
    """Noise in the place of the silence that fills 30 s changes the frames beside it alone."""
    model = frozen(HfModel(folder(tmp_path, model_type)))
    inputs = _hf_inputs.extract(model.extractor, list(noise(2, 16000).numpy()))
    mask = _hf_inputs.mask_of(inputs)
    assert mask.sum(dim=1).tolist() == [100, 100]
    other = dict(inputs)
    other["input_features"] = inputs["input_features"].clone()
    other["input_features"][..., 100:] = noise(1, 2900)

    def frames(features):
        arguments = _hf_inputs.arguments(model.net, features, model.mask_form)
        return model.net(**arguments).last_hidden_state[:, :24]  # the last of 25 hears beyond

    # Convolutions before the mask hear two steps beyond the clip: frame 50 of their 50.
    change = standin.relative_error(frames(inputs), frames(other))
    assert change < 0.05
    model.mask_form = "none"
    if model_type == "qwen2_audio_encoder":
        unmasked = [
            model.net(input_features=f["input_features"]).last_hidden_state[:, :24]
            for f in (inputs, other)
        ]
        assert standin.relative_error(*unmasked) > 2 * change


def test_masks_that_mark_padding_are_inverted(tmp_path):
    model = frozen(HfModel(folder(tmp_path, "gemma3n_audio")))
    inputs = _hf_inputs.extract(model.extractor, list(noise(2, 16000).numpy()))
    arguments = _hf_inputs.arguments(model.net, inputs, model.mask_form)
    assert not arguments["audio_mel_mask"][:, 0].any()


def test_the_tower_is_that_of_the_whole_model(tmp_path):
    """As the multi-modal model itself hears: its own get_audio_features."""
    path = folder(tmp_path, "audioflamingo3")
    model = frozen(HfModel(path))
    whole = frozen(transformers.AutoModel.from_pretrained(path))
    audio = noise(2, 16000)
    inputs = model.extractor(
        list(audio.numpy()), sampling_rate=16000, return_tensors="pt", return_attention_mask=True
    )
    with torch.inference_mode():
        expected = whole.get_audio_features(inputs.input_features, inputs.attention_mask)
    frames = model.frames(audio)
    assert standin.relative_error(frames, expected.last_hidden_state[:, :25]) <= EXACT


def test_a_codec_gives_its_latents_before_the_codes(tmp_path):
    path = folder(tmp_path, "dac")
    model = frozen(HfModel(path))
    whole = frozen(transformers.AutoModel.from_pretrained(path))
    audio = noise(2, 512 * 40)
    expected = whole.encoder(audio[:, None]).transpose(1, 2)
    assert standin.relative_error(model.frames(audio), expected) <= EXACT
