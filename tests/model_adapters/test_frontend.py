import pytest
import torch
import torchaudio

from evar.errors import UserError
from evar.model_adapters._frontend import LogMelFrontEnd, crop, repeat_cut, zero_pad
from helpers.golden_cases import noise


def test_a_crop_depends_on_the_clip_and_the_seed_alone():
    audio = noise(4, 1000)
    together = crop(audio, 300)
    assert together.shape == (4, 300)
    assert torch.equal(together, torch.cat([crop(row[None], 300) for row in audio]))
    assert torch.equal(together.flip(0), crop(audio.flip(0), 300))
    assert not torch.equal(together, crop(audio, 300, seed=1))
    for row, window in zip(audio, together, strict=True):
        assert any(torch.equal(window, row[s : s + 300]) for s in range(701))


def test_a_crop_can_begin_anywhere():
    clips = noise(400, 12)
    starts = {
        int((row.unfold(0, 9, 1) == window).all(dim=1).nonzero()[0])
        for row, window in zip(clips, crop(clips, 9), strict=True)
    }
    assert starts == {0, 1, 2, 3}


def test_a_crop_is_never_taken_from_padding():
    padded = zero_pad(noise(50, 400), 1000)
    assert (crop(padded, 300)[:, -1] != 0).all()
    assert torch.equal(crop(padded, 600), padded[:, :600])
    assert torch.equal(crop(torch.zeros(1, 1000), 300), torch.zeros(1, 300))


def test_short_clips_are_repeated_or_padded_and_long_ones_left_alone():
    audio = torch.tensor([[1.0, 2.0, 3.0]])
    assert repeat_cut(audio, 7).tolist() == [[1, 2, 3, 1, 2, 3, 1]]
    assert zero_pad(audio, 5).tolist() == [[1, 2, 3, 0, 0]]
    for function in (crop, repeat_cut, zero_pad):
        assert torch.equal(function(audio, 3), audio)
    assert torch.equal(repeat_cut(audio, 2), audio)
    assert torch.equal(zero_pad(audio, 2), audio)


def test_log_mel_is_torchaudios_in_decibels():
    mel = torchaudio.transforms.MelSpectrogram(
        32000, 1024, hop_length=320, f_min=50, f_max=14000, n_mels=64, norm="slaney",
        mel_scale="slaney",
    )  # fmt: skip
    audio = noise(2, 8000)
    expected = torchaudio.functional.amplitude_to_DB(mel(audio), 10, 1e-10, 0)
    torch.testing.assert_close(LogMelFrontEnd(32000)(audio), expected, rtol=0, atol=1e-4)


def test_log_mel_of_silence_and_of_a_single_sample_is_finite():
    assert LogMelFrontEnd(32000)(torch.zeros(1, 640)).eq(-100).all()
    assert torch.isfinite(LogMelFrontEnd(32000)(torch.ones(1, 1))).all()


def test_mel_bands_of_another_model_are_refused():
    stored = {"audio.logmel_extractor.melW": LogMelFrontEnd(32000).bands}
    LogMelFrontEnd(32000).check(stored, "file.pt")
    with pytest.raises(UserError, match=r"file.pt: audio.logmel_extractor.melW holds other mel"):
        LogMelFrontEnd(44100).check(stored, "file.pt")
