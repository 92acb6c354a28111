"""What a GPU gives: the same scores as a CPU, and the speed of embedding, probing, fine-tuning.

    python benchmarks/gpu.py            # under 8 minutes; prints a line per measurement

First which kernel attention takes on this card (`attention.py`). Embedding is measured from memory
(`Encoder`, no decoding), so that the figure is the card's, and from files, with the share of the
time in which the card was at work (CUDA events around every batch), resampled on decoding threads
and on the card. Then the probe, its steps replayed from CUDA graphs and launched one by one, and
the steps of `finetune.py` and `pretrain.py` next to this file.
Share of peak: floating-point operations of the encoder's matrix products (2 per parameter and
token) over the time, against the dense peak of an H100 SXM (67 TFLOP/s in float32 without tensor
cores, 989 in bfloat16).
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import attention
import numpy as np
import torch

import evar
from evar import models
from evar.embedding import embeddings
from evar.embedding.encoder import Encoder
from evar.embedding.engine import Engine
from evar.embedding.resampling import OnDevice
from evar.precision import full_precision
from evar.probing import graphs, probe
from evar.runtime import Runtime, Training

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


class Busy:
    """Notes when a GPU begins and ends what functions have it do."""

    def __init__(self):
        self.events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def watch(self, function: Callable) -> Callable:
        """Returns the function, with events around what it launches."""

        def watched(*given):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            out = function(*given)
            end.record()
            self.events.append((begin, end))
            return out

        return watched

    def watch_engine(self, engine: Engine) -> None:
        """Watches the encoder of an engine, and the filters that resample on the card."""
        vars(engine.encoder)["start"] = self.watch(engine.encoder.start)
        if isinstance(engine.resampler, OnDevice):
            made = engine.resampler._filter
            vars(engine.resampler)["_filter"] = lambda rate: self.watch(made(rate))

    def seconds(self) -> float:
        """Returns the seconds in which the GPU was at work."""
        torch.cuda.synchronize()
        return sum(begin.elapsed_time(end) for begin, end in self.events) / 1000


def from_files(device: str, clips: int) -> None:
    """Prints clips per second of M2D from WAV files of 5 s at 44.1 kHz, decoded and resampled."""
    import linear

    from evar.data import opening

    model = models.load("m2d", weights="random")
    with tempfile.TemporaryDirectory() as folder:
        task = linear.make_set(Path(folder) / "set", clips, min(clips, 500))
        manifest = opening.open_task(str(task), data=folder)
        for precision, where in itertools.product(("fp32", "bf16"), ("cpu", "gpu")):
            how = {"device": device, "precision": precision, "resample": where}
            busy, on_gpu = Busy(), device.startswith("cuda")
            with embeddings.engine_for_task(
                model, manifest, Runtime(**how, batch_size=128)
            ) as engine:
                engine.prepare()
                if on_gpu:
                    busy.watch_engine(engine)
                engine.run()
            share = busy.seconds() / engine.seconds if on_gpu else 1.0
            waited = engine.waited / engine.seconds
            print(
                f"embed      {precision}, from files, --resample={where}: "
                f"{engine.clips_per_second:,.0f} clips/s, busy {100 * share:.0f} %, waiting for "
                f"decoding {100 * waited:.0f} % of the time"
            )


def probing(device: str, rows: int) -> None:
    """Prints the time of an epoch of three probes on `rows` x 768 embeddings.

    With the steps replayed from CUDA graphs, launched one by one, and on the CPU. The first epoch,
    in which the graph is recorded, is left out.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 768)).astype(np.float32)
    y = rng.integers(0, 50, rows)
    parts = np.split(rng.permutation(rows), [int(0.8 * rows), int(0.9 * rows)])
    jobs = [probe.Job(*parts, seed, 0) for seed in (42, 43, 44)]
    found = {}
    for where, steps in ((device, "graphs"), (device, "direct"), ("cpu", "direct")):
        settings = probe.ProbeSettings(epochs=20 if where == device else 3, patience=100)
        made = graphs.replays_on if steps == "graphs" else lambda _: graphs.Replays(None)
        ended: list[float] = []
        with mock.patch.object(graphs, "replays_on", made):
            found[where, steps] = probe.fit(
                x,
                y,
                jobs,
                settings,
                device=where,
                on_epoch=lambda *_, ended=ended: ended.append(time.perf_counter()),
            )
        took = 1000 * (ended[-1] - ended[0]) / (len(ended) - 1)
        print(f"probe      {rows:,} x 768, 3 probes, {where}, {steps}: {took:,.1f} ms per epoch")
    ours, theirs = (np.stack([f.logits for f in found[device, s]]) for s in ("graphs", "direct"))
    print(f"probe      logits of graphs and direct steps: {np.abs(ours - theirs).max():.1e} apart")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--clips", type=int, default=4000, help="files to embed")
    parser.add_argument("--steps", type=int, default=10, help="of fine-tuning and pre-training")
    given = parser.parse_args()
    name = torch.cuda.get_device_name() if given.device.startswith("cuda") else "CPU"
    print(f"{name}, torch {torch.__version__}")
    attention.report(given.device)
    same_scores(given.device)
    embedding(given.device, given.batch, given.rounds)
    from_files(given.device, given.clips)
    probing(given.device, given.rows)
    folder = Path(__file__).parent
    for script, more in (
        ("finetune.py", ["--batch_size=128", "--compile=False"]),
        ("pretrain.py", ["--clips=50"]),
    ):
        print(f"{script} {' '.join(more)}", flush=True)
        command = [sys.executable, str(folder / script), f"--steps={given.steps}", *more]
        subprocess.run(command, check=False)


if __name__ == "__main__":
    main()
