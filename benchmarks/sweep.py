"""Six models one by one against one sweep: `python benchmarks/sweep.py [--clips=2000]`.

Clips are stereo FLAC files at 44,100 Hz, generated; the models are tiny ones of one sample rate, so
that decoding decides. Prints the wall-clock time of both ways, the time that their threads
spend in decoding and resampling, and how often a clip was decoded.
"""

import contextlib
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch

from evar import Adapter, models
from evar.data import audio, opening
from evar.embedding import embeddings
from evar.embedding.together import fill_together
from evar.runtime import Runtime, usable_device

RATE = 44100


class Tiny(Adapter):
    """Energies of 64 frames: next to nothing beside the decoding."""

    sample_rate = 16000
    embed_dim = 64

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.register_buffer("scale", torch.tensor(scale))

    def embed(self, audio):  # (B, S) -> (B, 64)
        frames = audio[:, : audio.shape[1] // 64 * 64].unflatten(1, (64, -1))
        return self.scale * frames.square().mean(2)


class Decoding:
    """Counts decoded clips, and the CPU seconds of the threads that decode them."""

    def __init__(self) -> None:
        self.load, self.lock = audio.load_clip, threading.Lock()
        self.clips, self.seconds = 0, 0.0

    def __call__(self, *arguments, **options):
        started = time.thread_time()
        try:
            return self.load(*arguments, **options)
        finally:
            with self.lock:
                self.clips += 1
                self.seconds += time.thread_time() - started


def write_clips(folder: Path, count: int, seconds: float) -> pd.DataFrame:
    """Writes noise of two colours; returns the table of a task."""
    rng, rows = np.random.default_rng(0), []
    for i in range(count):
        noise = 0.1 * rng.standard_normal((round(RATE * seconds), 2))
        samples = noise if i % 2 else np.cumsum(noise, 0) / 50
        path = folder / f"{i}.flac"
        soundfile.write(path, np.clip(samples, -1, 1), RATE)
        rows.append((str(path), "white" if i % 2 else "red", "test" if i % 5 < 2 else "train"))
    return pd.DataFrame(rows, columns=["file", "label", "split"])


def one_by_one(loaded, manifest, runtime: Runtime) -> None:
    for model in loaded:
        embeddings.fill_task(model, manifest, runtime)


def one_sweep(loaded, manifest, runtime: Runtime) -> None:
    def failed(number: int, error: Exception) -> None:
        raise error

    with contextlib.ExitStack() as stack:
        engines = [
            stack.enter_context(embeddings.engine_for_task(model, manifest, runtime))
            for model in loaded
        ]
        fill_together(engines, failed=failed)


def main(*, clips: int = 2000, seconds: float = 2, count: int = 6, device: str = "auto") -> None:
    """Print the figures."""
    device = usable_device(device)
    ways: dict[str, Callable] = {"one by one": one_by_one, "one sweep": one_sweep}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        manifest = opening.open_task(write_clips(folder, clips, seconds), seconds=seconds)
        loaded = [models.load(Tiny(1.0 + i)) for i in range(count)]
        print(f"{count} models of one sample rate, {clips:,} clips of {seconds:g} s, {device}")
        for name, way in ways.items():
            decoding = Decoding()
            audio.load_clip = decoding
            started, cpu = time.perf_counter(), time.process_time()
            way(loaded, manifest, Runtime(device=device, cache=folder / name))
            wall, cpu = time.perf_counter() - started, time.process_time() - cpu
            audio.load_clip = decoding.load
            print(
                f"  {name:<10} {wall:7.1f} s, CPU {cpu:7.1f} s, of it decoding "
                f"{decoding.seconds:7.1f} s, {decoding.clips / clips:.2f} times a clip",
                flush=True,
            )


if __name__ == "__main__":
    import fire

    fire.Fire(main)
