"""How fast pre-training trains: `python benchmarks/pretrain.py [--config=FILE] [--batch_size=N]`.

Whole steps of the M2D-CLAP base configuration on noise (on a CPU a reduced network, which the first
line says): clips per second, peak memory and, on a GPU, the share of the card's dense peak. The
arithmetic is counted by `pretrain.estimate.flops_per_clip`, without the front end. Then the rate at
which shards of 10-s clips are read, decoded and cropped, alone.
"""

import resource
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import cards
import fire
import numpy as np
import soundfile
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
REDUCED = {
    "width": 192,
    "depth": 4,
    "heads": 3,
    "predictor_width": 128,
    "predictor_depth": 2,
    "predictor_heads": 4,
}


class Noise:
    """A stream of as many clips as the paper's, of which none is read."""

    caption_dim, identity, kind = 768, "noise", "flac"

    def __len__(self) -> int:
        return 2_000_000


def steps_of(config, device: str, steps: int) -> None:
    """Print seconds a step, clips a second, peak memory and share of the peak."""
    from evar.pretrain.data import Batch
    from evar.pretrain.estimate import flops_per_clip
    from evar.pretrain.train import Trainer

    trainer = Trainer(config, Noise(), "nowhere", device=device)
    size, gpu = config.batch_size, device.startswith("cuda")
    batch = Batch(
        0.1 * torch.randn(size, (config.input_size[1] - 1) * 160),
        torch.randn(size, Noise.caption_dim),
        torch.ones(size, dtype=torch.bool),
        torch.arange(size),
    )
    for warm in (True, False):
        if gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        started = perf_counter()
        for _ in range(3 if warm else steps):
            trainer.train_step(batch)
        if gpu:
            torch.cuda.synchronize()
    seconds = (perf_counter() - started) / steps
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if gpu:
        memory = torch.cuda.max_memory_allocated() / 2**20
    rate = flops_per_clip(config) * size / seconds
    name = torch.cuda.get_device_name() if gpu else "CPU"
    card = cards.peaks(name)
    share = f", {100 * rate / 1e12 / card[config.precision]:.0f} % of the peak" if card else ""
    how = config.precision + (", compiled" if config.compile else "")
    print(
        f"  {how}: {seconds:.2f} s a step, {size / seconds:,.1f} clips/s, peak {memory:,.0f} MB, "
        f"{rate / 1e12:.2f} TFLOP/s{share}; "
        f"300 epochs of 2 million clips: {600e6 / (size / seconds) / 86400:.1f} days"
    )


def largest_that_fits(config) -> int:
    """Returns the largest batch of 2048, 1024, ... that a GPU trains."""
    for size in (2048, 1024, 512, 256, 128):
        try:
            steps_of(config.changed({"batch_size": size, "precision": "bf16"}), "cuda", 1)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        else:
            return size
    return 64


def loading(clips: int, batch_size: int, frames: int, workers: int) -> None:
    """Print how many clips a second the stream gives, without training."""
    from evar.pretrain.data import ClipStream
    from evar.pretrain.prepare import prepare

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").mkdir()
        for i in range(clips):
            noise = np.convolve(rng.standard_normal(160_000), np.ones(8) / 8, "same")
            soundfile.write(f"{folder}/in/{i:05d}.flac", 0.1 * noise, 16000)
        for kind in ("flac", "logmel"):
            started = perf_counter()
            prepare(f"{folder}/in", f"{folder}/{kind}", kind=kind, quiet=True)
            made = perf_counter() - started
            stream = ClipStream(f"{folder}/{kind}", frames=frames)
            steps = range(max(1, 4 * clips // batch_size))
            started = perf_counter()
            for _ in stream.batches(batch_size, steps=steps, rank=0, world=1, workers=workers):
                pass
            rate = len(steps) * batch_size / (perf_counter() - started)
            print(f"  {kind} shards: made at {clips / made:,.0f} clips/s, read at {rate:,.0f}")


def main(
    *,
    config: str = str(ROOT / "pretrain/configs/m2d_clap_base.yaml"),
    batch_size: int | None = None,
    micro_batch: int | None = None,
    steps: int = 10,
    clips: int = 200,
    workers: int = 4,
) -> None:
    """Print every figure."""
    from evar.pretrain import config as config_

    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    made = config_.read(config)
    if not gpu:
        made = made.changed(REDUCED)
    made = made.changed({"micro_batch": micro_batch})
    size = batch_size or (largest_that_fits(made) if gpu else 32)
    made = made.changed({"batch_size": size})
    what = config if gpu else f"a reduced network ({made.width} x {made.depth})"
    print(f"{what}, batches of {size} clips, {'GPU' if gpu else 'CPU'}")
    ways = [("bf16", False), ("bf16", True), ("fp32", False)] if gpu else [("fp32", False)]
    for precision, compiled in ways:
        steps_of(made.changed({"precision": precision, "compile": compiled}), device, steps)
    print(f"data alone, {clips} clips of 10 s, {workers} threads:")
    loading(clips, 32, made.input_size[1], workers)


if __name__ == "__main__":
    fire.Fire(main)
