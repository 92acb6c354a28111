import sys
import textwrap

import pytest
import torch

from evar import models
from evar.check import check
from evar.errors import UserError
from evar.model_adapters.hear import HearModel
from helpers.golden_cases import noise

MODULE = """
import torch

class Mean(torch.nn.Module):
    sample_rate = 16000
    scene_embedding_size = timestamp_embedding_size = 4
    scale = 1.0

def load_model(model_file_path=""):
    model = Mean()
    if model_file_path:
        model.scale = float(open(model_file_path).read())
    return model

def get_timestamp_embeddings(audio, model):
    frames = torch.nn.functional.pad(audio, (0, 4000)).unfold(1, 4000, 4000)
    times = torch.arange(frames.shape[1]) * 250.0
    return model.scale * frames.unflatten(2, (4, 1000)).mean(dim=3), times.expand(len(audio), -1)

def get_scene_embeddings(audio, model):
    return get_timestamp_embeddings(audio, model)[0].mean(dim=1)
"""


@pytest.fixture
def hear_module(tmp_path, monkeypatch):
    """Writes an importable module and returns its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(text=MODULE, name="evar_test_hear"):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    return write


def test_embeds(hear_module, tmp_path):
    model = HearModel(hear_module())
    assert (model.sample_rate, model.embed_dim) == (16000, 4)
    audio = noise(3, 16000)
    assert model.frames(audio).shape == (3, 5, 4)
    torch.testing.assert_close(model.embed(audio), model.frames(audio).mean(dim=1))
    assert all(finding.ok for finding in check(model.eval()))


def test_weights_after_a_colon(hear_module, tmp_path):
    name = hear_module()
    weights = tmp_path / "scale.txt"
    weights.write_text("2.0")
    plain, scaled = HearModel(name), HearModel(f"{name}:{weights}")
    audio = noise(1, 16000)
    torch.testing.assert_close(scaled.embed(audio), 2 * plain.embed(audio))
    assert not torch.equal(plain.origin, scaled.origin)  # another model to the cache
    with pytest.raises(UserError, match="weights file .* does not exist"):
        HearModel(f"{name}:{tmp_path}/none.pt")


def test_every_file_of_the_package_is_part_of_the_model(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "evar_test_package"
    package.mkdir()
    (package / "__init__.py").write_text("from .net import *\n")

    def origin(scale):
        (package / "net.py").write_text(MODULE.replace("scale = 1.0", f"scale = {scale}"))
        for name in [n for n in sys.modules if n.startswith("evar_test_package")]:
            monkeypatch.delitem(sys.modules, name)
        return HearModel("evar_test_package").origin.tolist()

    assert origin(1.0) == origin(1.0) != origin(20.0)


def test_a_module_without_timestamps_passes_the_checks(hear_module):
    text = MODULE.replace("def get_timestamp_embeddings", "def frames").replace(
        "return get_timestamp_embeddings", "return frames"
    )
    model = HearModel(hear_module(text))
    assert [str(finding) for finding in check(model.eval()) if not finding.ok] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_of_this_name", "cannot be imported .ModuleNotFoundError"),
        ("x = 1", "load_model and get_scene_embeddings missing"),
        (MODULE.replace("model = Mean()", "return 3"), "load_model returned a int"),
        (MODULE.replace("16000", "16000.0"), "`sample_rate` must be a whole number"),
    ],
)
def test_modules_that_cannot_be_used_are_named(hear_module, text, message):
    with pytest.raises(UserError, match=message):
        HearModel(hear_module(text))


def test_output_that_is_no_tensor_is_named(hear_module):
    text = MODULE + "\ndef get_scene_embeddings(audio, model):\n    return audio.numpy()\n"
    with pytest.raises(UserError, match="returned a ndarray, not a torch tensor"):
        HearModel(hear_module(text)).embed(noise(1, 100))


def test_named_by_its_prefix(hear_module):
    loaded = models.load(f"hear:{hear_module()}")
    adapter, config = loaded.adapter, loaded.config
    assert isinstance(adapter, HearModel)
    assert config.lr == adapter.lr
