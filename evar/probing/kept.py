"""Keeps trained probes with their scalers as one safetensors file, and applies them again.

Letters: N rows, D embedding, C classes.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from evar import files
from evar.errors import UserError
from evar.probing import probe
from evar.probing.stacked import Stack, stacked
from evar.probing.training import CHUNK, Fitted, Scaler

SUFFIX = "probe.safetensors"  # behind the run's id
_VERSION = 1
_KEY = "evar"  # of safetensors' metadata


@dataclass(frozen=True, eq=False)
class Kept:
    """One trained probe: which run and fold it is of, its layers and its scalers (`Fitted`)."""

    seed: int
    fold: str
    layers: tuple[tuple[NDArray, NDArray], ...]
    scaler: Scaler
    base: Scaler


@dataclass(frozen=True, eq=False)
class Probes:
    """The probes of a run.

    classes: (C,) names. multi_label: whether a clip can have several. statistics: what the adapter
    has learnt from the training clips (`Adapter.fit`); None for most.
    """

    classes: tuple[str, ...]
    multi_label: bool
    statistics: Mapping[str, float] | None
    probes: tuple[Kept, ...]

    @property
    def width(self) -> int:
        """Returns D of the embeddings that the probes take."""
        return len(self.probes[0].scaler[0])

    def scores(self, x: NDArray) -> list[NDArray]:
        """Returns for each probe the scores (N, C) of embeddings (N, D), as the run has them."""
        found: dict[int, NDArray] = {}
        standardised: tuple[int, torch.Tensor] | None = None
        for i in sorted(range(len(self.probes)), key=lambda i: id(self.probes[i].base)):
            kept = self.probes[i]
            if standardised is None or standardised[0] != id(kept.base):
                standardised = id(kept.base), probe.standardised(x, kept.base)
            found[i] = probe.predicted_scores(_logits(kept, standardised[1]))
        return [found[i] for i in range(len(self.probes))]


def _logits(kept: Kept, x: torch.Tensor) -> NDArray:
    """Returns logits (N, C) by the products of training, so that the bits are the same."""
    layers = [(torch.from_numpy(w), torch.from_numpy(b)) for w, b in kept.layers]
    scale = probe.input_scale(kept.base, [kept.scaler], "cpu")
    stack = Stack(stacked([layers]), scale)
    parts = [stack.logits(x[at : at + CHUNK][None])[0] for at in range(0, len(x), CHUNK)]
    return np.concatenate([np.ascontiguousarray(part.numpy()) for part in parts])


def to_bytes(
    fitted: Mapping[tuple[int, str], Fitted],
    *,
    classes: Sequence[str],
    multi_label: bool,
    statistics: Mapping[str, float] | None,
) -> bytes:
    """Returns the file of a run's probes, by seed and fold."""
    from safetensors.numpy import save

    tensors: dict[str, NDArray] = {}
    numbers: dict[int, int] = {}  # of scalers, each written once

    def number_of(scaler: Scaler) -> int:
        number = numbers.setdefault(id(scaler[0]), len(numbers))
        for name, values in zip(("mean", "scale"), scaler, strict=True):
            tensors[f"scaler.{number}.{name}"] = np.ascontiguousarray(values, np.float64)
        return number

    probes = []
    for i, ((seed, fold), one) in enumerate(fitted.items()):
        assert one.scaler is not None
        assert one.base is not None
        for number, (weight, bias) in enumerate(one.layers):
            tensors[f"probe.{i}.{number}.weight"] = np.ascontiguousarray(weight)
            tensors[f"probe.{i}.{number}.bias"] = np.ascontiguousarray(bias)
        scaler, base = number_of(one.scaler), number_of(one.base)
        probes.append(
            {
                "seed": seed,
                "fold": fold,
                "layers": len(one.layers),
                "scaler": scaler,
                "base": base,
            }
        )
    about = {
        "version": _VERSION,
        "classes": list(classes),
        "multi_label": multi_label,
        "statistics": statistics,
        "probes": probes,
    }
    return save(tensors, metadata={_KEY: json.dumps(about)})


def read(path) -> Probes:
    """Returns the probes in a file. Raises UserError for a file that is damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    with files.reading(path):
        content = Path(path).read_bytes()
    try:
        tensors = load(content)
        (length,) = struct.unpack_from("<Q", content)
        about = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_KEY])
        if about["version"] != _VERSION:
            raise UserError(f"{path}: of another version of evar. Run the evaluation again.")
        return _probes(about, tensors)
    except (SafetensorError, ValueError, KeyError, TypeError, struct.error) as error:
        raise UserError(
            f"{path}: not the probes of a run ({type(error).__name__}). Run the evaluation again."
        ) from error


def _probes(about: Mapping, tensors: Mapping[str, NDArray]) -> Probes:
    count = 1 + max(max(p["scaler"], p["base"]) for p in about["probes"])
    scalers = [(tensors[f"scaler.{i}.mean"], tensors[f"scaler.{i}.scale"]) for i in range(count)]
    kept = tuple(
        Kept(
            p["seed"],
            p["fold"],
            tuple(
                (tensors[f"probe.{i}.{n}.weight"], tensors[f"probe.{i}.{n}.bias"])
                for n in range(p["layers"])
            ),
            scalers[p["scaler"]],
            scalers[p["base"]],
        )
        for i, p in enumerate(about["probes"])
    )
    return Probes(tuple(about["classes"]), about["multi_label"], about["statistics"], kept)
