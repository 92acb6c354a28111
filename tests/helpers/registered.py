"""Every registered model as a tiny untrained build, with the text tower that it needs."""

import pytest
import torch

from evar import models
from helpers.golden_cases import write_tokenizer

TOKENIZERS = {
    "laion_clap": "roberta",
    "clap_2022": "bert",
    "clap_2023": "gpt2",
    "wavcaps": "bert",
    "wavcaps_zs": "bert",
    "biolingual": "roberta",
    "pe_a_frame_small": "bert",
    "pe_a_frame_base": "bert",
    "pe_a_frame_large": "bert",
    "audioclip": "clip",
    "glap": "nllb",
    "muq_mulan": "xlm-roberta",
}

PACKAGES = {
    "muq": ("muq",),
    "muq_mulan": ("muq",),
}  # of adapters whose class is defined without them


def text_options(name, folder):
    """Files of a text tower that a tiny audio-language model can be built with."""
    if name in TOKENIZERS:
        write_tokenizer(folder, TOKENIZERS[name])
        return {"tokenizer": str(folder)}
    if name == "wav2clip":
        from evar.model_adapters import _clip

        write_tokenizer(folder, "clip")
        _clip.build(64, 1).save_pretrained(folder)
        return {"text_encoder": str(folder)}
    if name.startswith("m2d_clap"):
        from transformers import BertConfig, BertModel

        write_tokenizer(folder, "bert")
        sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        BertModel(BertConfig(intermediate_size=24, **sizes)).save_pretrained(folder)
        return {"text_encoder": str(folder)}
    return {}


def distinct(names):
    """One name for every tiny build: models of one class that differ in size alone share theirs."""
    builds = {}
    for name in names:
        config = models.config(name)
        small = models.adapter_class(config.adapter).TINY
        options = {"name": name} if small is None else {**config.options, **small}
        builds.setdefault((config.adapter, repr(sorted(options.items()))), name)
    return list(builds.values())


def tiny(name, folder):
    """A registered model, built tiny and untrained, in evaluation mode."""
    config = models.config(name)
    cls = models.adapter_class(config.adapter)
    if cls.TINY is None:
        pytest.skip(f"{name} needs an optional package")
    for package in PACKAGES.get(config.adapter, ()):
        pytest.importorskip(package, reason=f"{name} needs the optional package {package}")
    torch.manual_seed(0)  # so narrow a network can be deaf by chance
    return cls(**{**config.options, **cls.TINY, **text_options(name, folder)}).eval()
