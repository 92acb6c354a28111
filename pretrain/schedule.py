"""What changes over the steps of a run, in closed form."""

import math


def learning_rate(step: int, *, peak: float, steps: int, warmup: float) -> float:
    """The rate of a step: a line from 0 over `warmup` steps, then half a cosine to 0."""
    if step < warmup:
        return peak * step / warmup
    return peak / 2 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def target_decay(step: int, *, start: float, end: float, steps: int) -> float:
    """The moving average's decay at a step: a line from `start` to `end`."""
    return start + (end - start) * step / max(steps, 1)
