"""What a model computes of a few fixed sounds, as a short text: its state, wherever it is kept.

Hashes of parameters, code and files miss what lies elsewhere: an ONNX session, an array in a
closure, a value from the environment. What it does to the embeddings shows here.
"""

import contextlib
import hashlib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from evar.precision import full_precision

if TYPE_CHECKING:
    from evar.adapter import Adapter

_SECONDS = (1.0, 10.0)  # of the sounds; the longer ones where the shorter are refused
_DIRECTIONS = 32
_WIDTH = 8192  # values that the directions are drawn for
# Steps in which directions are read. Rounding differs between processors by 1e-7 to 1e-5 of the
# embedding, which takes up to one model in 50 over an edge (its clips are then embedded again);
# a change of 1e-3 shows in 7 of 10 cases, one of 1e-2 always (tests/test_fingerprint.py).
_STEP = 1 / 64
_CAPTIONS = ["a dog barks", "rain on a tin roof"]


def of(adapter: "Adapter") -> str:
    """Returns what an adapter computes of fixed sounds, and of captions if it reads them.

    It runs in float32 on the CPU, without gradients; random numbers are the same in each call.
    The part of a method that fails is empty: the run will show its error.
    """
    with contextlib.suppress(Exception):  # quantised networks stay where they are
        adapter.cpu()
    parts = [_first_that_works(adapter.embed, adapter.sample_rate)]
    if adapter.reads_text:
        parts.append(_first_that_works(adapter.embed_joint, adapter.sample_rate))
        parts.append(_read(lambda _: adapter.embed_text(list(_CAPTIONS)), torch.empty(0)))
    adapter.eval().requires_grad_(False)  # also what has just been loaded
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16] if any(parts) else ""


def _first_that_works(embed: Callable[[Tensor], Tensor], sample_rate: int) -> str:
    found = (_read(embed, sounds(sample_rate, seconds)) for seconds in _SECONDS)
    return next((text for text in found if text), "")


def _read(embed: Callable[[Tensor], Tensor], audio: Tensor) -> str:
    # No inference mode: what an adapter makes now may be trained later.
    with torch.random.fork_rng(devices=[]), torch.no_grad(), full_precision():
        torch.manual_seed(0)
        with contextlib.suppress(Exception, SystemExit):  # a user's code raises anything
            return read(np.asarray(embed(audio).float().cpu()))
    return ""


def read(embeddings: np.ndarray) -> str:
    """Returns embeddings (B, D) as whole numbers, one per direction; slight noise keeps them."""
    flat = embeddings.reshape(-1).astype(np.float64)
    norm = float(np.linalg.norm(flat))
    if not math.isfinite(norm):
        return "not finite"
    folded = _folded(flat)
    norm = max(norm, 1e-30)
    along = _signs(_DIRECTIONS, len(folded)) @ folded / norm  # of variance 1 each
    along = np.append(along, math.log(norm))
    # The offset: sums that cancel to nothing would lie on an edge.
    return f"{embeddings.shape} {np.floor(along / _STEP + 0.37).astype(int).tolist()}"


def _folded(values: np.ndarray) -> np.ndarray:
    """Returns values (n,), or sums of them with random signs where there are very many."""
    if len(values) <= _WIDTH:
        return values
    signed = values * _signs(1, len(values))[0]
    return np.pad(signed, (0, -len(signed) % _WIDTH)).reshape(-1, _WIDTH).sum(axis=0)


def _signs(rows: int, columns: int) -> np.ndarray:
    """Returns (rows, columns) of -1 and 1, the same with every version of NumPy."""
    count = rows * columns
    bits = np.frombuffer(hashlib.shake_128(b"evar").digest(-(-count // 8)), np.uint8)
    return 2.0 * np.unpackbits(bits)[:count].reshape(rows, columns) - 1


def sounds(sample_rate: int, seconds: float) -> Tensor:
    """Returns two clips (2, S): a rising tone with harmonics, and bursts of noise."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    sweep = 2 * np.pi * (120 * time + 200 * time**2 / seconds)
    tone = sum(np.sin(k * sweep) / k for k in range(1, 6))
    noise = np.frombuffer(hashlib.shake_128(b"noise").digest(2 * len(time)), "<i2") / 2**15
    bursts = noise * (np.sin(2 * np.pi * 5 * time) > 0)
    return torch.from_numpy(np.stack([0.15 * tone, 0.2 * bursts]).astype(np.float32))
