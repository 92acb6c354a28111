"""Estimates what a run needs before it starts: parameters, arithmetic, memory, time."""

from time import perf_counter

import torch

from .config import Config
from .data import HOP, Batch

_TIMED = 3  # steps, after one to warm up
_FEW = 8  # clips per timed step on a CPU


def flops_per_clip(config: Config) -> float:
    """Returns the floating-point operations of one clip's forward and backward pass.

    2 per weight and token, 4 L^2 D per block for attention; the backward pass takes twice the
    forward pass, and the target network has none. Front end and projector, less than 1 %, are left
    out.
    """
    length, kept = config.patches, int(config.patches * (1 - config.mask_ratio))
    (high, wide), width, inner = config.patch_size, config.width, config.predictor_width

    def blocks(tokens: int, dim: int, depth: int) -> float:
        return depth * (2 * 12 * dim**2 * tokens + 4 * tokens**2 * dim)

    embed = 2 * high * wide * width * length
    online = blocks(kept + 1, width, config.depth)
    predicted = high * wide if config.objective == "msm_mae" else width
    into, out = 2 * width * inner * (kept + 1), 2 * inner * predicted * (length + 1)
    predictor = into + blocks(length + 1, inner, config.predictor_depth) + out
    target = 0.0
    if config.objective != "msm_mae":
        target = blocks(length - kept + 1, width, config.depth)
    return 3 * (embed + online + predictor) + target


def estimate(trainer) -> str:
    """Returns the text of `--dry_run`; trains a few steps on random input to time them."""
    config, model = trainer.config, trainer.model
    count = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    own = config.batch_size // trainer.world.size
    memory = 4 * (count + 3 * trained)  # weights, gradient, two moments
    how, peak = "", 0
    try:
        seconds, peak, how = _step(trainer, own)
        time = f"{seconds:.2f} s per step, {seconds * trainer.steps / 3600:,.1f} hours in all"
    except torch.OutOfMemoryError:
        time = "unknown: a step does not fit on this GPU; --micro_batch=N computes it in parts of N"
    total = flops_per_clip(config) * config.batch_size * trainer.steps
    lines = [
        f"parameters: {count / 1e6:,.1f} million, {trained / 1e6:,.1f} of them trained",
        f"data: {len(trainer.stream):,} clips, captions of {trainer.stream.caption_dim} numbers",
        f"steps: {trainer.steps:,} of {config.batch_size:,} clips, {config.epochs:g} epochs",
        f"arithmetic: {total:.2e} floating-point operations",
        f"memory: {memory / 1e9:.2f} GB for weights, gradients and moments"
        + (f", {peak / 1e9:.2f} GB at the peak of a step" if peak else ""),
        f"time: {time} (without reading data{how})",
    ]
    return "\n".join(lines)


def _step(trainer, size: int) -> tuple[float, int, str]:
    """Returns seconds per step, peak bytes on a GPU, and a note on how they were measured.

    On a CPU a few clips are timed: a step of 2,048 would need more memory than laptops have.
    """
    if trainer.device.startswith("cuda") or size <= _FEW:
        return *_timed_step(trainer, size), ""
    few, half = _timed_step(trainer, _FEW)[0], _timed_step(trainer, _FEW // 2)[0]
    a_clip = max(few - half, few / _FEW / 2) / (_FEW - _FEW // 2)
    return few + a_clip * (size - _FEW), 0, f"; extrapolated from {_FEW} clips"


def _timed_step(trainer, size: int) -> tuple[float, int]:
    """Returns seconds per step, and peak bytes on a GPU (0 on a CPU)."""
    config, device = trainer.config, trainer.device
    batch = Batch(
        0.1 * torch.randn(size, (config.input_size[1] - 1) * HOP),
        torch.randn(size, trainer.stream.caption_dim),
        torch.ones(size, dtype=torch.bool),
        torch.arange(size),
    )
    gpu = device.startswith("cuda")
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    for step in range(1 + _TIMED):
        if step == 1:
            _wait(gpu)
            started = perf_counter()
        trainer.train_step(batch)
    _wait(gpu)
    peak = torch.cuda.max_memory_allocated(device) if gpu else 0
    return (perf_counter() - started) / _TIMED, peak


def _wait(gpu: bool) -> None:
    if gpu:
        torch.cuda.synchronize()
