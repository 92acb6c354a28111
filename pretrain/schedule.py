"""Schedules of the learning rate and of the target network's decay, in closed form."""

import math


def learning_rate(step: int, *, peak: float, steps: int, warmup: float) -> float:
    """Returns the rate of a step: linear warm-up from 0 over `warmup` steps, then cosine to 0."""
    if step < warmup:
        return peak * step / warmup
    return peak / 2 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def target_decay(step: int, *, start: float, end: float, steps: int) -> float:
    """Returns the decay of the moving average at a step: linear from `start` to `end`."""
    return start + (end - start) * step / max(steps, 1)
