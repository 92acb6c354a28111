"""All chance of a run, as a function of what it is for: a resumed run draws what it would have."""

import contextlib
import random
from collections.abc import Iterator, Sequence
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


def seed_all(purpose: For, *key: int) -> None:
    """Seed what somebody's own code may draw from: the generators of torch, NumPy and Python."""
    seed = seed_of(purpose, *key)
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextlib.contextmanager
def forked(devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """Afterwards, the generators that `seed_all` seeds are as they were."""
    numpy, python = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        np.random.set_state(numpy)
        random.setstate(python)


def rng(purpose: For, *key: int) -> np.random.Generator:
    return np.random.default_rng([purpose, *key])
