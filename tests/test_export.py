import pytest
import torch

from evar import Adapter, export
from evar.errors import UserError
from evar.model_adapters.ced import Ced
from evar.model_adapters.hear import HearModel


@pytest.fixture
def mine(tmp_path):
    """A user's adapter that has clip embeddings only."""
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\nfrom evar import Adapter\n\n\nclass Mine(Adapter):\n"
        "    sample_rate, embed_dim = 16000, 2\n\n    def embed(self, audio):\n"
        "        return torch.stack([audio.mean(dim=1), audio.std(dim=1)], dim=1)\n"
    )
    return f"{file}:Mine"


def audio(seconds=2.0, clips=3):
    return torch.rand(clips, int(16000 * seconds), generator=torch.Generator().manual_seed(0)) - 0.5


def assert_keeps_the_interface(model):
    """What the public validator of HEAR modules requires."""
    assert isinstance(model, torch.nn.Module)
    assert model.sample_rate in (16000, 22050, 44100, 48000)
    assert isinstance(model.scene_embedding_size, int)
    assert isinstance(model.timestamp_embedding_size, int)
    frames, times = export.get_timestamp_embeddings(audio(), model)
    assert frames.dtype == torch.float32
    assert frames.shape == (3, times.shape[1], model.timestamp_embedding_size)
    assert times.shape == frames.shape[:2]
    steps = times.diff()
    assert (steps - steps.mean()).abs().max() < 1e-3
    assert 0 < times[0, 0] < steps.mean()
    assert times[0, -1] < 2000
    scenes = export.get_scene_embeddings(audio(3.74), model)
    assert scenes.dtype == torch.float32
    assert scenes.shape == (3, model.scene_embedding_size)
    return steps.mean().item()


def test_frames_become_timestamp_embeddings():
    model = export.load_model("logmel")
    step = assert_keeps_the_interface(model)
    assert step == pytest.approx(10, rel=1e-4)
    torch.testing.assert_close(
        export.get_timestamp_embeddings(audio(), model)[0], model.adapter.frames(audio())[:, :200]
    )


def test_windows_where_there_are_no_frames(mine):
    model = export.load_model(mine)
    assert assert_keeps_the_interface(model) == pytest.approx(50, rel=1e-4)
    # The window around the middle of a clip of 2 s lies wholly inside it.
    frames, times = export.get_timestamp_embeddings(audio(), model)
    middle = int(times[0, 20] * 16)
    window = audio()[:, middle - 8000 : middle + 8000]
    torch.testing.assert_close(frames[:, 20], model.adapter.embed(window))


def test_times_of_an_adapter_that_fills_its_last_chunk_up():
    model = export.HearModel(Ced(**Ced.TINY).eval())
    clip = audio(seconds=11, clips=1)
    assert model.adapter.frames(clip).shape[1] == 2 * 63  # of 20.16 s
    frames, times = export.get_timestamp_embeddings(clip, model)
    assert frames.shape[1] == times.shape[1] == 69
    assert times[0, :2].tolist() == pytest.approx([80, 240])
    assert times[0, -1] < 11_000


def test_weights_after_an_at_sign(tmp_path):
    model = export.load_model("cnn14@random")
    assert isinstance(model.adapter, Adapter)
    with pytest.raises(UserError, match="no such weights file"):
        export.load_model(f"cnn14@{tmp_path}/none.pth")


def test_the_model_from_the_environment(monkeypatch):
    monkeypatch.setenv("EVAR_MODEL", "logmel")
    assert export.load_model().scene_embedding_size == 64
    monkeypatch.delenv("EVAR_MODEL")
    with pytest.raises(UserError, match="no model given"):
        export.load_model()


def test_there_and_back_again(monkeypatch):
    """An exported model, read as any HEAR module is, gives the adapter's own embeddings."""
    monkeypatch.setenv("EVAR_MODEL", "logmel")
    imported = HearModel("evar.export")
    own = export.load_model("logmel").adapter
    torch.testing.assert_close(imported.embed(audio()), own.embed(audio()))
    torch.testing.assert_close(imported.frames(audio()), own.frames(audio())[:, :200])
