import numpy as np
import pytest
import soxr
import torch
import torchaudio

from evar.errors import UserError
from evar.model_adapters._frontend import LogMelFrontEnd
from evar.model_adapters.msclap import Clap2022, Clap2023
from helpers.golden_cases import (
    EXACT,
    Case,
    assert_reads_captions,
    assert_steady,
    build,
    noise,
    published_cnn14,
    published_htsat,
    tiny,
    windows,
    write_tokenizer,
)

YEARS = {"2022": Clap2022, "2023": Clap2023}
AUDIO = {year: Case(f"msclap_{year}_audio") for year in YEARS}
TEXT = {year: Case(f"msclap_{year}_text") for year in YEARS}


@pytest.fixture(scope="module", params=YEARS)
def year_and_model(request, tmp_path_factory):
    year = request.param
    if year == "2022":
        extras = published_cnn14("audio_encoder.base.", LogMelFrontEnd(44100))
        name = "caption_encoder.base.embeddings.position_ids"
        extras[name] = torch.arange(512)[None]
    else:
        extras = published_htsat("audio_encoder.base.htsat.", LogMelFrontEnd(32000))
        for layer in range(12):
            name = f"caption_encoder.base.h.{layer}.attn"
            extras[f"{name}.bias"] = torch.ones(1, 1, 1024, 1024, dtype=torch.uint8)
            extras[f"{name}.masked_bias"] = torch.tensor(-1e4)
    extras["logit_scale"] = torch.tensor(2.66)
    content = {"model": {**AUDIO[year].state(), **TEXT[year].state(), **extras}}
    return year, build(YEARS[year], content, tmp_path_factory.mktemp("msclap"))


def test_equals_the_original(year_and_model):
    year, model = year_and_model
    case = AUDIO[year]
    for seconds in case.seconds:
        audio = case.audio(seconds, 44100)
        if seconds > 7:
            audio = windows(audio, case.outputs["crop_start_11s"], model.window)
        clip = model.embed(audio)
        for key in (f"clip_{seconds}s", f"clap_audio_{seconds}s"):
            assert case.error(clip, key) <= EXACT, key
    assert TEXT[year].text_error(model) <= EXACT


def test_copies_at_32_khz_explain_what_differs_from_the_paper(year_and_model):
    """The paper's copies were read at 32 kHz and resampled by torchaudio, whose images above 16 kHz
    fill the last mel bands; soxr, from the same copy, leaves these bands empty."""
    year, model = year_and_model
    copy = AUDIO[year].audio(1, 32000)
    with_images = torchaudio.functional.resample(copy, 32000, 44100)
    without = [soxr.resample(row, 32000, 44100, quality="HQ") for row in copy.numpy()]
    key = "clip_from32k_1s"
    assert AUDIO[year].error(model.embed(with_images), key) <= EXACT
    differs = AUDIO[year].error(model.embed(torch.from_numpy(np.stack(without))), key)
    assert differs == pytest.approx({"2022": 5.3e-4, "2023": 2.3e-2}[year], rel=0.1)


@pytest.mark.parametrize("year", YEARS)
def test_log_mel_equals_the_original(year):
    features = tiny(YEARS[year]).features(AUDIO[year].audio(1, 44100)).mT
    assert list(features.shape) == AUDIO[year].outputs["features_shape_1s"].tolist()
    assert AUDIO[year].error(features[:, :40], "features_1s") <= EXACT


@pytest.mark.parametrize("cls", YEARS.values())
def test_steady(cls):
    assert_steady(tiny(cls))


@pytest.mark.parametrize("cls", YEARS.values())
def test_of_a_long_clip_one_window_is_heard_always_the_same(cls):
    audio = noise(2, cls.window + 44100)
    first, again, other = (tiny(cls, seed=s).embed(audio) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("cls", YEARS.values())
def test_a_short_clip_is_repeated_and_cut(cls):
    model = tiny(cls)
    audio = noise(1, 100_000)
    assert torch.equal(model.embed(audio), model.embed(audio.repeat(1, 4)[:, : cls.window]))


def test_captions_are_read_2022(tmp_path):
    assert_reads_captions(Clap2022, "bert", tmp_path)


def test_captions_are_read_2023(tmp_path):
    assert_reads_captions(Clap2023, "gpt2", tmp_path)


def test_2023_takes_the_state_at_the_end_of_text(tmp_path):
    model = tiny(Clap2023, tokenizer=str(write_tokenizer(tmp_path, "gpt2")))
    ids, mask = model.tokenizer(["rain <|endoftext|>"])
    assert ids[0, -1] == 256  # where write_tokenizer puts <|endoftext|>
    padded = torch.nn.functional.pad(ids, (0, 5)), torch.nn.functional.pad(mask, (0, 5))
    torch.testing.assert_close(model.embed_text(["rain"]), model.embed_tokens(*padded))


@pytest.mark.parametrize("year", YEARS)
def test_a_checkpoint_of_another_model_is_named(year, tmp_path):
    other = {"2022": "2023", "2023": "2022"}[year]
    cls = YEARS[year]
    with pytest.raises(UserError, match=rf"not a checkpoint of Clap{year}: .*unexpected \(audio"):
        build(cls, {"model": AUDIO[other].blank()}, tmp_path, **cls.TINY)
