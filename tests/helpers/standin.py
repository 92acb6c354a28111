"""Stand-in weights and test waveforms of the golden cases, made from names, shapes and a seed.

A golden case (`tests/golden/<case>.json` with names and shapes, `<case>.npz` with outputs of the
original implementation) needs no stored checkpoint: every tensor follows from its name.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent.parent / "golden"


def _generator(text: str) -> np.random.Generator:
    seed = hashlib.sha256(text.encode()).digest()[:8]
    return np.random.Generator(np.random.PCG64(int.from_bytes(seed, "little")))


def tensor(name: str, shape, seed: int = 0) -> np.ndarray:
    """The float32 stand-in for one parameter; scaled so that deep networks stay healthy."""
    noise = _generator(f"{seed}:{name}").standard_normal(tuple(shape)).astype(np.float32)
    if name.endswith("running_var"):
        return 1 + 0.1 * np.abs(noise)
    if noise.ndim > 1:
        fan_in = np.prod(noise.shape[1:])
        return noise / np.float32(np.sqrt(fan_in))
    return 1 + 0.1 * noise if name.endswith("weight") else 0.02 * noise


# The random tensors of the last case: the next is often its variant, with most of them the same,
# and numbers for a network of 86 million parameters take a second.
_last: dict[tuple, np.ndarray] = {}


def state_dict(case: str, seed: int = 0) -> dict[str, np.ndarray]:
    """All tensors of `tests/golden/<case>.json`; fixed sine-cosine positions are left out."""
    global _last
    tensors, drawn = {}, {}
    for name, spec in json.loads((GOLDEN / f"{case}.json").read_text()).items():
        if isinstance(spec, dict):
            tensors[name] = np.asarray(spec["const"], dtype=spec.get("dtype", "float32"))
        elif spec != "sincos":
            key = (seed, name, tuple(spec))
            drawn[key] = tensor(name, spec, seed) if key not in _last else _last[key]
            tensors[name] = drawn[key].copy()  # the caller's own, to be changed
    _last = drawn
    return tensors


def audio(seconds: float, sample_rate: int, seed: int = 0, batch: int = 2) -> np.ndarray:
    """(batch, samples) float32: gliding tones with harmonics, in bursts, with a little noise."""
    rng = np.random.Generator(np.random.PCG64(seed))
    t = np.arange(int(round(seconds * sample_rate))) / sample_rate
    rows = []
    for _ in range(batch):
        low, high = rng.uniform(80, 400), rng.uniform(400, 2000)
        glide = low * t + (high - low) * t * t / (2 * max(seconds, 1e-9))
        tone = sum(np.sin(k * (2 * np.pi * glide)) / k for k in range(1, 6))
        tone *= np.sin(2 * np.pi * rng.uniform(1, 5) * t) > -0.3
        noise = 0.02 * rng.standard_normal(t.shape)
        rows.append(np.clip(0.15 * tone + noise, -1, 1))
    return np.asarray(rows, dtype=np.float32)


def relative_error(ours, golden) -> float:
    """||ours - golden|| / ||golden||."""
    ours, golden = np.asarray(ours, np.float64), np.asarray(golden, np.float64)
    assert ours.shape == golden.shape, f"{ours.shape} is not {golden.shape}"
    return float(np.linalg.norm(ours - golden) / np.linalg.norm(golden))
