import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from evar.errors import UserError
from evar.model_adapters.audioclip import AudioClip, Fbsp
from helpers import standin
from helpers.golden_cases import EXACT, Case, assert_steady, build, tiny, write_tokenizer

CASE = Case("audioclip_audio")
TEXT = Case("audioclip_text")
TINY_SIZES = {k: v for k, v in AudioClip.TINY.items() if not k.startswith("text_")}


@pytest.fixture(scope="module")
def audioclip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audioclip")
    extras = {  # the image tower, the loss's scales, counters and the window
        "visual.conv1.weight": torch.ones(32, 3, 3, 3),
        "logit_scale": torch.tensor(4.6),
        "logit_scale_ai": torch.tensor(4.6),
        "audio.window": torch.ones(1654),
        "audio.bn1.num_batches_tracked": torch.tensor(1000),
        "audio.att5.bn.num_batches_tracked": torch.tensor(1000),
    }
    content = {**CASE.state(), **TEXT.state(), **extras}
    return build(AudioClip, content, folder, tokenizer=str(write_tokenizer(folder, "clip")))


@pytest.mark.parametrize("seconds", CASE.seconds)
def test_equals_the_original(audioclip, seconds):
    audio = CASE.audio(seconds, 44100)
    features = audioclip.features(audio)
    image = features.unflatten(1, (3, -1))[:, None]
    assert list(image.shape) == CASE.outputs[f"features_shape_{seconds}s"].tolist()
    clip = audioclip.encode(features)[:, 0]
    assert CASE.error(clip, f"clip_{seconds}s") <= EXACT
    assert CASE.error(audioclip.audio.fc(clip), f"clap_audio_{seconds}s") <= EXACT


def test_front_end_equals_the_original(audioclip):
    image = audioclip.features(CASE.audio(1, 44100)).unflatten(1, (3, -1))
    assert CASE.error(image[:, :, ::20, :24], "features_1s") <= EXACT


def test_embeddings_are_those_of_its_parts(audioclip):
    audio = CASE.audio(1, 44100)
    assert CASE.error(audioclip.embed(audio), "clip_1s") <= EXACT
    assert CASE.error(audioclip.embed_joint(audio), "clap_audio_1s") <= EXACT
    assert (audioclip.embed_dim, audioclip.joint_dim) == (2048, 1024)


def test_waveforms_are_scaled_to_the_range_of_16_bits(audioclip):
    """Without that, the original gives what it gives a clip 90 dB more quiet.

    So quiet a clip has few digits left behind the shift by 32,768, and an error in the last of
    them is 10 times what it is elsewhere: 1e-3, as for front ends of other libraries.
    """
    quiet = CASE.audio(1, 44100) / 32768
    assert CASE.error(audioclip.embed_joint(quiet), "clap_audio_unscaled_1s") <= 1e-3


def test_captions_equal_the_original_from_text_to_logits(audioclip):
    assert TEXT.text_error(audioclip) <= EXACT
    text = audioclip.embed_text(TEXT.outputs["captions"].tolist())
    assert TEXT.error(text, "clap_text") <= EXACT
    audio = audioclip.embed_joint(TEXT.audio(5, 44100))
    scale = math.exp(4.5)  # logit_scale_at of the case, below the limit of 100
    logits = scale * normalize(audio) @ normalize(text).T
    assert standin.relative_error(logits, TEXT.outputs["logits_5s"]) <= EXACT


def test_kernel_as_it_is_before_training_is_a_fourier_transform():
    kernel = Fbsp().kernel(1023).numpy()
    window = kernel[:, 0] * np.sqrt(2048)  # bin 0: a cosine of 1
    t = np.pi * np.linspace(-1, 1, 2048)[197:-197]
    np.testing.assert_allclose(kernel[:, 7] * np.sqrt(2048), window * np.cos(7 * t), atol=1e-4)
    np.testing.assert_allclose(
        kernel[:, 1023 + 7] * np.sqrt(2048), -window * np.sin(7 * t), atol=1e-4
    )
    assert window.max() == pytest.approx(1, abs=1e-4)


def test_captions_alone_and_together(tmp_path):
    model = tiny(AudioClip, tokenizer=str(write_tokenizer(tmp_path, "clip")))
    captions = ["rain can be heard", "a dog", "someone talking, calmly and at great length " * 9]
    together = model.embed_text(captions)
    alone = torch.cat([model.embed_text([caption]) for caption in captions])
    assert together.shape == (3, 1024)
    assert standin.relative_error(alone, together) <= EXACT


def test_steady():
    assert_steady(tiny(AudioClip))


def test_frames_are_counted_as_in_the_original():
    model = tiny(AudioClip, bins=1023)
    for samples, frames in ((1, 1), (1654, 1), (1655, 2), (1654 + 561, 2), (1654 + 562, 3)):
        assert model.features(torch.zeros(1, samples)).shape == (1, 1023, frames)


def test_a_file_without_text_tower_still_embeds_audio(tmp_path):
    state = {n: v for n, v in tiny(AudioClip).state_dict().items() if not n.startswith("text.")}
    model = build(AudioClip, state, tmp_path, **TINY_SIZES)
    assert model.embed(torch.zeros(1, 4410)).shape == (1, 64)
    with pytest.raises(UserError, match="holds no text tower"):
        model.embed_text(["rain"])


def test_a_checkpoint_that_lacks_the_learned_transform_is_named(tmp_path):
    state = tiny(AudioClip).state_dict()
    state = {n: v for n, v in state.items() if not n.startswith(("text.", "audio.fbsp.fb"))}
    with pytest.raises(UserError, match=r"not a checkpoint of AudioClip: 1 missing \(audio\.fbsp"):
        build(AudioClip, state, tmp_path, **TINY_SIZES)
