"""MuQ-MuLan against the package's own class, around small networks that nothing is fetched for."""

import sys

import pytest
import torch
from safetensors.torch import save_file

from evar.errors import UserError
from evar.model_adapters.muq_mulan import MuqMulan
from helpers import standin
from helpers.golden_cases import EXACT, frozen, noise, tiny, write_tokenizer

TINY = MuqMulan.TINY
CONFIG = {
    "mulan": {"sr": 24000, "clip_secs": 10, "dim_latent": 512},
    "audio_model": {"name": "OpenMuQ/MuQ-large-msd-iter", "model_dim": 16, "use_layer_idx": -1},
    "text_model": {"name": "xlm-roberta-base", "model_dim": None, "use_layer_idx": -1},
    "audio_transformer": {"dim": 16, "tf_depth": 0},
    "text_transformer": {"dim": 16, "tf_depth": 1, "max_seq_len": 1024},
}


class Heard(torch.nn.Module):
    """MuQ's parts as the package wraps them; its own forward does not run under transformers 5."""

    def __init__(self, muq):
        super().__init__()
        self.model, self.front = muq.net, [muq]  # a list: the front end has no tensors in the file

    def forward(self, audio, output_hidden_states):
        return type("Output", (), {"hidden_states": [self.front[0].frames(audio)]})


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    audio = pytest.importorskip("muq.muq_mulan.models.audio", reason="needs the package muq")
    from muq.muq_mulan.models.text import TextTransformerPretrained
    from muq.muq_mulan.muq_mulan import MuQMuLan

    folder = tmp_path_factory.mktemp("muq_mulan")
    towers = tiny(MuqMulan)
    with pytest.MonkeyPatch.context() as patch:

        def heard(self, _):
            self.model = Heard(towers.muq)

        patch.setattr(audio.AudioSpectrogramTransformerPretrained, "_init_pretrained_model", heard)
        patch.setattr(
            TextTransformerPretrained, "_init_pretrained_model", lambda _: towers.text["model"]
        )
        torch.manual_seed(0)
        net = frozen(MuQMuLan(CONFIG))
    save_file({k: v.clone() for k, v in net.state_dict().items()}, folder / "model.safetensors")
    return folder, net


@pytest.mark.parametrize("seconds", [1, 7, 10, 23])
def test_equals_the_package(published, seconds):
    folder, net = published
    model = frozen(MuqMulan(folder, **TINY))
    audio = noise(2, 24000 * seconds)
    expected = net.extract_audio_latents(audio)
    assert standin.relative_error(model.embed_joint(audio), expected) <= EXACT
    assert model.frames(audio).shape[2] == 16


def test_captions_equal_the_package_one_by_one(published, tmp_path):
    folder, net = published
    model = frozen(
        MuqMulan(folder, **TINY, tokenizer=str(write_tokenizer(tmp_path, "xlm-roberta")))
    )
    net.mulan.text._tokenizer = model.tokenizer._tokenizer
    captions = ["sad piano", "a lively dance, with accordion and drums"]
    expected = torch.cat([net.extract_text_latents([caption]) for caption in captions])
    assert standin.relative_error(model.embed_text(captions), expected) <= EXACT


def test_a_missing_package_is_named(monkeypatch):
    pytest.importorskip("muq", reason="needs the package muq")
    monkeypatch.setitem(sys.modules, "muq.muq_mulan.modules.transformer", None)
    with pytest.raises(UserError, match="pip install muq"):
        MuqMulan(**TINY)
