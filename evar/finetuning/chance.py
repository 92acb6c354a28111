"""All chance of a run, as a function of what it is for: a resumed run draws what it would have."""

from enum import IntEnum

import numpy as np
import torch


class For(IntEnum):
    """What a draw is for; no two share a generator."""

    HEAD = 0
    HOLD_OUT = 1
    ORDER = 2
    MIXUP = 3
    MASK = 4
    CROP = 5
    PATCHOUT = 6
    DROPOUT = 7


def seed_of(purpose: For, *key: int) -> int:
    """A number in [0, 2**63) that only the purpose and the key (seed, fold, epoch, ...) decide."""
    return int(np.random.SeedSequence([purpose, *key]).generate_state(1, np.uint64)[0] >> 1)


def generator(purpose: For, *key: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(purpose, *key))


def rng(purpose: For, *key: int) -> np.random.Generator:
    return np.random.default_rng([purpose, *key])
