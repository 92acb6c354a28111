"""Any model with the HEAR 2021 interface: the model name `hear:MODULE[:WEIGHTS]`."""

import hashlib
import importlib
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from evar.adapter import Adapter
from evar.errors import UserError
from evar.sources import library_versions, module_sources

_NEEDED = ("load_model", "get_scene_embeddings")


class HearModel(Adapter):
    """A HEAR module's scene embeddings; its timestamp embeddings are the frames.

    Turian et al., "HEAR: Holistic evaluation of audio representations", 2022. `source` is the
    name of an importable Python module and, after a colon, the file that its `load_model` loads.
    `python -m evar.check hear:MODULE` verifies that the module embeds each clip of a batch
    independently.
    """

    TINY = None  # needs a module

    def __init__(self, source: str):
        super().__init__()
        name, _, weights = source.partition(":")
        self.module = _import(name)
        if weights and not Path(weights).exists():
            raise UserError(f"hear:{source}: weights file {weights} does not exist")
        # The HEAR API: load_model(model_file_path="").
        self.model = self.module.load_model(*([weights] if weights else []))
        if not isinstance(self.model, nn.Module):
            raise UserError(
                f"hear:{source}: load_model returned a {type(self.model).__name__}; evar needs a "
                "torch.nn.Module (TensorFlow models cannot be evaluated)"
            )
        for attribute in ("sample_rate", "scene_embedding_size"):
            if not isinstance(getattr(self.model, attribute, None), int):
                raise UserError(f"hear:{source}: the model's `{attribute}` must be a whole number")
        self.sample_rate = self.model.sample_rate
        self.embed_dim = self.model.scene_embedding_size
        # Part of the model's identity: a module may hold arrays that are not parameters.
        self.register_buffer("origin", _digest(self.module, weights))

    def frames(self, audio):
        if not hasattr(self.module, "get_timestamp_embeddings"):
            raise NotImplementedError(f"{self.module.__name__} has no get_timestamp_embeddings")
        return self._tensor(self.module.get_timestamp_embeddings(audio, self.model)[0])

    def embed(self, audio):
        return self._tensor(self.module.get_scene_embeddings(audio, self.model))

    def _tensor(self, embeddings) -> Tensor:
        if not isinstance(embeddings, Tensor):
            kind = type(embeddings).__name__
            raise UserError(f"hear:{self.module.__name__} returned a {kind}, not a torch tensor")
        return embeddings


def _import(name: str):
    if "" not in sys.path:
        sys.path.append("")  # also modules in the current folder, after installed ones
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a third-party module can raise anything
        raise UserError(
            f"hear:{name}: cannot be imported ({type(error).__name__}: {error}). MODULE is the "
            "name of an installed package, or of a module in this folder."
        ) from error
    absent = [function for function in _NEEDED if not hasattr(module, function)]
    if absent:
        raise UserError(f"hear:{name}: not a HEAR module: {' and '.join(absent)} missing")
    return module


def _digest(module, weights: str) -> Tensor:
    """Returns SHA-256 as (32,) bytes: of the module's package, its imports and the weights."""
    package = module.__name__.partition(".")[0]
    sources = module_sources([module.__name__], package)
    digest = hashlib.sha256(repr(library_versions(sources)).encode())
    for code in sorted(source.code for source in sources):
        digest.update(hashlib.sha256(code).digest())
    if Path(weights).is_file():
        with open(weights, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
