"""Derives every random generator from (purpose, seed, fold, epoch, step).

No generator is carried from one step to the next: a resumed run draws what an uninterrupted one
would have drawn.
"""

import contextlib
import random
from collections.abc import Iterator, Sequence
from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What random numbers are used for; no two purposes share a generator."""

    HEAD = 0
    HOLD_OUT = 1
    ORDER = 2
    MIXUP = 3
    MASK = 4
    CROP = 5
    PATCHOUT = 6
    DROPOUT = 7


def seed_of(purpose: Purpose, *key: int) -> int:
    """Returns a seed in [0, 2**63) from the purpose and a key (seed, fold, epoch, ...)."""
    return int(np.random.SeedSequence([purpose, *key]).generate_state(1, np.uint64)[0] >> 1)


def generator(purpose: Purpose, *key: int) -> torch.Generator:
    """Returns a PyTorch generator on the CPU."""
    return torch.Generator().manual_seed(seed_of(purpose, *key))


def rng(purpose: Purpose, *key: int) -> np.random.Generator:
    """Returns a NumPy generator."""
    return np.random.default_rng([purpose, *key])


def seed_all(purpose: Purpose, *key: int) -> None:
    """Seeds the global generators of PyTorch, NumPy and Python, which an adapter may draw from."""
    seed = seed_of(purpose, *key)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextlib.contextmanager
def forked(devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """Restores, on exit, the states of the generators that `seed_all` seeds."""
    numpy, python = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        np.random.set_state(numpy)
        random.setstate(python)
