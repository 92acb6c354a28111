"""Loaded models of a worker: each is loaded once, and as many are kept as memory allows."""

import os
from collections.abc import Callable
from typing import Any

from evar import files, models, protocol, run
from evar.models import Model
from evar.sweeping.job import Job
from evar.task import Windows

_SHARE = 0.5  # of the free memory; the rest is for activations and decoded clips


class Shelf:
    """Models by name, weights and options of the adapter.

    Parameters and buffers take half at most of what is free now on the device, divided by
    `sharing`, the number of processes that use it.
    """

    def __init__(self, device: str = "auto", *, sharing: int = 1):
        self.budget = free_bytes(device) * _SHARE / sharing
        self.bytes = 0
        self._models: dict[str, Model] = {}

    def __contains__(self, job: Job) -> bool:
        return self._key(job) in self._models

    @property
    def full(self) -> bool:
        """Returns whether another model of the mean size of those here would exceed the budget."""
        count = len(self._models)
        return count > 0 and self.bytes * (count + 1) / count > self.budget

    def model(self, job: Job) -> Model:
        """Returns the model of a job, loaded where it is not on the shelf."""
        key = self._key(job)
        if key not in self._models:
            of_adapter, rest = split(job)
            model = models.load(job.model, weights=rest.get("weights"), **of_adapter)
            self._models[key] = model
            tensors = [*model.adapter.parameters(), *model.adapter.buffers()]
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return self._models[key]

    def clear(self) -> None:
        """Forgets all models."""
        self._models.clear()
        self.bytes = 0

    @staticmethod
    def _key(job: Job) -> str:
        of_adapter, rest = split(job)
        return files.canonical_json([job.model, rest.get("weights"), of_adapter])


def split(job: Job) -> tuple[dict, dict]:
    """Returns the options of a job's adapter, and the others."""
    options = ordered(job)
    windows = Windows.taken_from(options)
    call = {k: options.pop(k) for k in run.ARGUMENTS if k in options}
    call |= {"windows": windows} if windows else {}
    chosen = protocol.of_command(job.protocol)
    _, _, of_adapter = run.split_options(chosen, job.model, options)
    return of_adapter, call | {k: v for k, v in options.items() if k not in of_adapter}


def ordered(job: Job) -> dict[str, Any]:
    """Returns a job's options in the order of its command line, which results show them in."""
    options = dict(job.options)
    settings = [n for n in protocol.of_command(job.protocol).options() if n in options]
    return {n: options[n] for n in (*settings, *(o for o in options if o not in settings))}


def free_bytes(device: str) -> int:
    """Returns the free memory of a device: of the GPU, else of the machine."""
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # a system that does not tell
        return 4 * 2**30


Report = Callable[..., None]  # (event, job, **details)
