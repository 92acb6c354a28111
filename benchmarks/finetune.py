"""How fast fine-tuning trains: `python benchmarks/finetune.py [--batch_size=32] [--seconds=5]`.

Whole steps (forward, backward, optimiser) of the untrained `m2d` adapter with its published
settings of ESC-50, on noise that is already decoded: in float32, under bfloat16, and compiled.
Prints steps and clips per second, peak memory and, on a GPU, what share of the card's peak that is.
Each way runs in a process of its own, so that peaks are its own. Decoding is not in it: a run's
"seconds" against steps tells how well that is hidden.
"""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import cards
import torch

FOLDER = Path(__file__).resolve().parent
WAYS = {
    "float32": ("fp32", False),
    "bfloat16": ("bf16", False),
    "float32, compiled": ("fp32", True),
    "bfloat16, compiled": ("bf16", True),
}


def measure(
    precision: str, compiled: bool, *, model: str, batch_size: int, seconds: float, steps: int
) -> None:
    """Print one line: seconds a step, peak memory in MB, operations a step."""
    from torch.utils.flop_counter import FlopCounterMode

    from evar import models
    from evar.finetuning import model as model_
    from evar.finetuning import optim
    from evar.finetuning import settings as settings_
    from evar.precision import full_precision

    device = "cuda" if torch.cuda.is_available() else "cpu"
    adapter = models.load(model, weights="random", flat=True).adapter
    values = settings_.usual("esc50") | {"precision": precision, "compile": compiled}
    settings = settings_.Settings(select="last", **values)
    first = torch.Generator().manual_seed(0)
    adapter.to(device)
    network = (
        model_.Classifier(adapter, 50, settings, seconds=seconds, generator=first)
        .to(device)
        .train()
    )
    groups = optim.parameter_groups(
        network.layers, network.head.parameters(), lr=1e-4, weight_decay=0.0
    )
    optimizer = optim.build(settings.optimizer, groups, lr=1e-4)
    x = 0.1 * torch.randn(batch_size, int(seconds * adapter.sample_rate), generator=first)
    y = torch.nn.functional.one_hot(torch.arange(batch_size) % 50, 50).float().to(device)

    def step(number: int) -> None:
        network.augment.key, network.augment.places = (0, 0, 0, number), list(range(batch_size))
        loss = model_.summed_loss(network(x.to(device)), y, multi_label=False) / batch_size
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    with full_precision():
        for number in range(2 if not compiled else 8):  # compiling takes several, of several sizes
            step(number)
        counter = FlopCounterMode(display=False)
        if not compiled:
            with counter:
                step(0)
        _synchronise(device)
        started = time.perf_counter()
        for number in range(steps):
            step(number)
        _synchronise(device)
    taken = (time.perf_counter() - started) / steps
    if device == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**20
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(taken, memory, counter.get_total_flops())


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main(
    *,
    model: str = "m2d",
    batch_size: int = 32,
    seconds: float = 5.0,
    steps: int = 5,
    compile: bool = True,
) -> None:
    """Print all figures."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    peaks = cards.peaks(card)
    print(f"{model} on {card}, {batch_size} clips of {seconds:g} s a step, half of the patches")
    plain, operations = None, 0.0
    for way, (precision, compiled) in WAYS.items():
        if compiled and not compile:
            continue
        sizes = {"model": model, "batch_size": batch_size, "seconds": seconds, "steps": steps}
        call = f"import finetune; finetune.measure({precision!r}, {compiled}, **{sizes})"
        command = [sys.executable, "-c", call]
        environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent)}
        done = subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True)
        if done.returncode:
            print(f"  {way:<20} failed: {done.stderr.strip().splitlines()[-1][:120]}")
            continue
        taken, memory, counted = map(float, done.stdout.split()[-3:])
        plain, operations = plain or taken, counted or operations  # those of the same way, plain
        line = f"  {way:<20} {1 / taken:6.2f} steps/s  {batch_size / taken:7.1f} clips/s"
        line += f"  x{plain / taken:.2f}  peak {memory:,.0f} MB"
        if peaks:
            share = operations / taken / (1e12 * peaks[precision])
            line += f"  {100 * share:.0f} % of the card's {peaks[precision]} T/s"
        print(line)


if __name__ == "__main__":
    import fire

    fire.Fire(main)
