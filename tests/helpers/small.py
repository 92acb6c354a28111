"""What the tests of pre-training share: a small network and small shards of real sounds."""

from pathlib import Path

import torch

from evar.model_adapters import _text
from evar.pretrain import captions, prepare
from evar.pretrain.config import Config
from evar.pretrain.data import ClipStream

CONFIG = Config(
    input_size=(80, 64),
    width=24,
    depth=1,
    heads=2,
    predictor_width=16,
    predictor_depth=1,
    predictor_heads=2,
    batch_size=8,
    base_lr=0.03,
    epochs=3,
    warmup_epochs=1,
    precision="fp32",
    workers=0,
    save_steps=4,
    save_epochs=1,
)


def shards(folder: Path, source, **options) -> Path:
    """Shards of a folder, CSV or task; returns their folder."""
    prepare.prepare(str(source), str(folder), quiet=True, workers=1, **options)
    return folder


def text_encoder(folder: Path) -> Path:
    """A tiny BERT with a tokenizer: no understanding, but another vector for every text."""
    from helpers.golden_cases import write_tokenizer

    write_tokenizer(folder, "bert")
    torch.manual_seed(0)
    model = _text.bert(64, 1)
    model.save_pretrained(folder)
    return folder


def captioned(folder: Path, shards_: Path, **options) -> Path:
    """A file of caption embeddings for shards."""
    out = folder / "captions.safetensors"
    encoder = text_encoder(folder / "text_encoder")
    captions.captions(
        str(shards_), str(out), text_encoder=str(encoder), quiet=True, device="cpu", **options
    )
    return out


def stream(folder: Path, source, *, seed: int = 0, frames: int = 64, **options) -> ClipStream:
    """A stream of captioned clips."""
    made = shards(folder / "shards", source, **options)
    return ClipStream(made, frames=frames, seed=seed, captions=captioned(folder, made))
