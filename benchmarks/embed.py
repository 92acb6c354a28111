"""Clips per second through a ViT-Base encoder: `python benchmarks/embed.py [--clips=48]`.

The untrained `m2d` adapter on 5-s clips: batches in float32, batches under bfloat16 autocast, and
one clip at a time in float32. Prints clips per second and ratios, measured in turns in one process;
on a GPU the share of time in which decoding is not hidden is for `lineareval.py` to tell.
"""

import time

import numpy as np
import torch

from evar import models
from evar.embedding.encoder import Encoder
from evar.precision import full_precision


def rate(adapter, clips: np.ndarray, batch: int, device: str, precision: str) -> float:
    started = time.perf_counter()
    for at in range(0, len(clips), batch):
        Encoder(adapter, device, precision)(clips[at : at + batch])
    return len(clips) / (time.perf_counter() - started)


def main(*, model: str = "m2d", clips: int = 48, batch: int = 16, rounds: int = 3) -> None:
    """Print the figures."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    adapter = models.load(model, weights="random").adapter
    adapter.to(device)
    samples = np.random.default_rng(0).standard_normal((clips, 5 * adapter.sample_rate))
    samples = (0.1 * samples).astype(np.float32)
    ways = {
        f"float32, {batch} at a time": (batch, "fp32"),
        f"bfloat16, {batch} at a time": (batch, "bf16"),
        "float32, one at a time": (1, "fp32"),
    }
    with full_precision():
        for size, precision in ways.values():  # warm up
            rate(adapter, samples[:size], size, device, precision)
        rates = {
            way: np.median([rate(adapter, samples, size, device, how) for _ in range(rounds)])
            for way, (size, how) in ways.items()
        }
        a, b = (Encoder(adapter, device, p)(samples[:4]) for p in ("fp32", "bf16"))
    alone = rates["float32, one at a time"]
    print(f"{model} on {device}, 5-s clips:")
    for way, value in rates.items():
        print(f"  {way:<28} {value:7.1f} clips/s  x{value / alone:.2f}")
    print(f"  bfloat16 differs from float32 by {np.linalg.norm(a - b) / np.linalg.norm(a):.1e}")


if __name__ == "__main__":
    import fire

    fire.Fire(main)
