"""Every registered adapter, built tiny and untrained, keeps the contract."""

import sys
from pathlib import Path

import pytest

from evar import check, models

sys.path.append(str(Path(__file__).parent / "model_adapters"))

NAMES = models.names()
WITHOUT_PACKAGE = {
    name for name in NAMES if models.adapter_class(models.config(name).adapter).TINY is None
}

TOKENIZERS = {
    "laion_clap": "roberta",
    "clap_2022": "bert",
    "clap_2023": "gpt2",
    "wavcaps": "bert",
    "wavcaps_zs": "bert",
}


def text_options(name, folder):
    """Files of a text tower that a tiny audio-language model can be built with."""
    from golden_cases import write_tokenizer

    if name in TOKENIZERS:
        write_tokenizer(folder, TOKENIZERS[name])
        return {"tokenizer": str(folder)}
    if name.startswith("m2d_clap"):
        from transformers import BertConfig, BertModel

        write_tokenizer(folder, "bert")
        sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        BertModel(BertConfig(intermediate_size=24, **sizes)).save_pretrained(folder)
        return {"text_encoder": str(folder)}
    return {}


@pytest.mark.parametrize("name", NAMES)
def test_adapter_conforms(name, tmp_path):
    config = models.config(name)
    cls = models.adapter_class(config.adapter)
    if cls.TINY is None:
        pytest.skip(f"{name} needs an optional package")
    adapter = cls(**{**config.options, **cls.TINY, **text_options(name, tmp_path)}).eval()
    failed = [finding for finding in check.check(adapter) if not finding.ok]
    assert not failed, failed


def test_few_adapters_cannot_be_built_here():
    assert {"openl3", "opensmile"} >= WITHOUT_PACKAGE


@pytest.mark.parametrize("name", NAMES)
def test_every_model_is_documented(name):
    config = models.config(name)
    cls = models.adapter_class(config.adapter)
    assert config.title or cls.__doc__
    if config.weights is not None:
        assert config.weights.url or config.weights.how
        assert config.paper
        assert config.verified
        assert "VERIFIED_" not in config.verified
