"""What a GPU gives: the same scores as a CPU, and the speed of embedding, probing, fine-tuning.

    python benchmarks/gpu.py            # a few minutes; prints a line per measurement

Embedding is measured from memory (`Encoder`, no decoding), so that the figure is the card's. Share
of peak: floating-point operations of the encoder's matrix products (2 per parameter and token)
over the time, against the dense peak of an H100 SXM (67 TFLOP/s in float32 without tensor cores,
989 in bfloat16).
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import evar
from evar import models
from evar.embedding.encoder import Encoder
from evar.precision import full_precision
from evar.probing import probe
from evar.runtime import Training

_PEAK = {"fp32": 67e12, "bf16": 989e12}


def same_scores(device: str) -> None:
    """Prints scores of the demo set on the CPU and on the device, protocol by protocol."""
    for protocol, more in (("linear", {"seeds": 2}), ("knn", {}), ("layers", {"seeds": 1})):
        model, weights = ("m2d", "random") if protocol == "layers" else ("logmel", None)
        how = {"weights": weights, "cache": None, **more}
        if protocol == "layers":
            how |= models.adapter_class("m2d:M2D").TINY
        scores = [evar.evaluate(model, "demo", protocol, device=d, **how) for d in ("cpu", device)]
        agree = np.mean(
            [a == b for a, b in zip(*(s.predictions["predicted"] for s in scores), strict=True)]
        )
        print(
            f"{protocol:<10} cpu {100 * scores[0].score:.2f} %, {device} "
            f"{100 * scores[1].score:.2f} %, equal predictions {100 * agree:.1f} %"
        )
    with tempfile.TemporaryDirectory() as folder:
        run = evar.evaluate(
            "m2d",
            "demo",
            "finetune",
            weights="random",
            device=device,
            epochs=3,
            seeds=1,
            patchout=0.5,
            training=Training(folder=Path(folder)),
            **models.adapter_class("m2d:M2D").TINY,
        )
        print(f"finetune   {device} {100 * run.score:.2f} % after 3 epochs with patchout")


def embedding(device: str, batch: int, rounds: int) -> None:
    """Prints clips per second of M2D (ViT-B, 80 x 608 input) on clips of 6 s from memory."""
    model = models.load("m2d", weights="random")
    clips = np.random.default_rng(0).standard_normal((batch, 6 * 16000)).astype(np.float32) * 0.1
    blocks = sum(p.numel() for p in model.adapter.backbone.parameters() if p.ndim > 1)
    tokens = 5 * 38  # patches of 16 x 16 in 80 bands x 608 frames
    for precision in ("fp32", "bf16"):
        encoder = Encoder(model.adapter.to(device), device, precision)
        with full_precision():
            encoder(clips)
            torch.cuda.synchronize()
            started = time.perf_counter()
            pending = [encoder.start(clips) for _ in range(rounds)]
            for out in pending:
                encoder.finish(out, batch)
            took = time.perf_counter() - started
        rate = rounds * batch / took
        share = rate * 2 * blocks * tokens / _PEAK[precision]
        print(f"embed      {precision}: {rate:,.0f} clips/s, {100 * share:.0f} % of dense peak")


def probing(device: str, rows: int) -> None:
    """Prints the time of three probes of 20 epochs on `rows` x 768 embeddings."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 768)).astype(np.float32)
    y = rng.integers(0, 50, rows)
    parts = np.split(rng.permutation(rows), [int(0.8 * rows), int(0.9 * rows)])
    jobs = [probe.Job(*parts, seed, 0) for seed in (42, 43, 44)]
    for where in (device, "cpu"):
        settings = probe.ProbeSettings(epochs=20 if where == device else 2, patience=100)
        started = time.perf_counter()
        probe.fit(x, y, jobs, settings, device=where)
        took = (time.perf_counter() - started) / settings.epochs
        print(f"probe      {rows:,} x 768, 3 probes, {where}: {1000 * took:,.0f} ms per epoch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rows", type=int, default=100_000)
    given = parser.parse_args()
    name = torch.cuda.get_device_name() if given.device.startswith("cuda") else "CPU"
    print(f"{name}, torch {torch.__version__}")
    same_scores(given.device)
    embedding(given.device, given.batch, given.rounds)
    probing(given.device, given.rows)


if __name__ == "__main__":
    main()
