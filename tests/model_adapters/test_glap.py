"""GLAP against the package glap_model's own classes, at small size."""

import pytest
import torch

from evar.errors import UserError
from evar.model_adapters.glap import Glap
from helpers import standin
from helpers.golden_cases import (
    EXACT,
    Case,
    build,
    noise,
    tiny,
    write_tokenizer,
)

CASE = Case("glap")
SIZES = {
    "width": 48,
    "depth": 2,
    "heads": 4,
    "text_width": 32,
    "text_layers": 2,
    "text_heads": 4,
    "text_hidden": 64,
    "vocabulary": 1100,
}
TABLE = "text_encoder.model.encoder_frontend.embed.weight"


def released(hub: bool):
    """The stand-in weights as the first release or the hub names them."""
    state = CASE.state()
    state[TABLE][0] = 0.0  # of padding
    if not hub:
        return {"model": state, "config": {"model": "GLAP"}}
    return {name.replace("_encoder.model.", "_encoder."): value for name, value in state.items()}


@pytest.fixture(scope="module", params=[False, True], ids=["zenodo", "hub"])
def glap(request, tmp_path_factory):
    return build(Glap, released(request.param), tmp_path_factory.mktemp("glap"), **SIZES)


def test_equals_the_original(glap):
    for seconds in CASE.seconds:
        audio = CASE.audio(seconds, 16000)
        assert CASE.error(glap.embed(audio), f"clip_{seconds}s") <= EXACT, seconds
        assert CASE.error(glap.embed_joint(audio), f"joint_{seconds}s") <= EXACT, seconds


def test_text_equals_the_original(glap):
    """SONAR counts <pad> <unk> <s> </s>, transformers <s> <pad> </s> <unk>."""
    ids = torch.from_numpy(CASE.outputs["input_ids"])
    ours = torch.where(ids < 4, torch.tensor([1, 3, 0, 2])[ids.clamp(max=3)], ids)
    assert CASE.error(glap.embed_tokens(ours, (ids != 0).long()), "clap_text") <= EXACT


def test_frames_are_those_of_the_clip(glap):
    """What fills the last chunk up to 10.08 s counts in the mean, as published, and is no frame."""
    assert glap.frames(noise(1, 16000)).shape == (1, 25, 48)
    assert glap.frames(noise(1, 16000 * 11)).shape == (1, 275, 48)
    audio = noise(1, 16000 * 5)
    assert standin.relative_error(glap.embed(audio), glap.frames(audio).mean(dim=1)) <= EXACT


def test_reads_captions(tmp_path):
    model = tiny(Glap, tokenizer=str(write_tokenizer(tmp_path, "nllb")))
    captions = ["rain can be heard", "a dog", "someone talking, calmly and at great length " * 2]
    together = model.embed_text(captions)
    alone = torch.cat([model.embed_text([caption]) for caption in captions])
    assert together.shape == (3, 1024)
    assert standin.relative_error(alone, together) <= EXACT


def test_a_caption_begins_with_its_language(tmp_path):
    folder = str(write_tokenizer(tmp_path, "nllb"))
    first = {}
    for language in ("eng_Latn", "deu_Latn"):
        model = tiny(Glap, tokenizer=folder, language=language)
        ids, _ = model.tokenizer(["a dog"])
        token = model.tokenizer._tokenizer.convert_tokens_to_ids(language)
        assert ids[0, 0] == token
        assert ids[0, -1] == 2  # </s>
        first[language] = (model.embed_text(["a dog"]), model.text_identity())
    assert not torch.equal(first["eng_Latn"][0], first["deu_Latn"][0])
    assert first["eng_Latn"][1] != first["deu_Latn"][1]


def test_a_language_that_nllb_lacks_is_named(tmp_path):
    model = tiny(Glap, tokenizer=str(write_tokenizer(tmp_path, "nllb")), language="german")
    with pytest.raises(UserError, match="has no token german"):
        model.embed_text(["a dog"])


def test_a_file_without_the_text_tower_embeds_audio(tmp_path):
    state = {k: v for k, v in released(hub=True).items() if not k.startswith("text_")}
    model = build(Glap, state, tmp_path, **SIZES)
    assert model.embed(noise(1, 16000)).shape == (1, 48)
    with pytest.raises(UserError, match="holds no text tower"):
        model.embed_text(["a dog"])
