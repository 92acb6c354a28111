"""Several processes train one model: each has a share of every batch (started by torchrun)."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class World:
    """The processes of a run, and which of them this one is. Without others, nothing is sent."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, items: NDArray) -> NDArray:
        """This process' part of (N,) items; all parts together are the items in order."""
        return np.array_split(items, self.size)[self.rank]

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype by their sums over all processes."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        sums = flat.split([t.numel() for t in tensors])
        for tensor, total in zip(tensors, sums, strict=True):
            tensor.copy_(total.view_as(tensor))

    def joined(self, part: NDArray) -> NDArray:
        """The rows of all processes, in order of their ranks."""
        if self.size == 1:
            return part
        parts: list = [None] * self.size
        dist.all_gather_object(parts, part)
        return np.concatenate(parts)

    def gathered(self, tensor: Tensor) -> Tensor:
        """The rows (n, ...) of all processes, as many of each, in order of their ranks."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def of_first(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by what the first process has in them."""
        if self.size == 1:
            return
        for tensor in tensors:
            value = tensor.detach().clone(memory_format=torch.contiguous_format)
            dist.broadcast(value, src=0)
            if not torch.equal(value, tensor):
                tensor.copy_(value)

    def agreed(self, value):
        """What the first process has here."""
        if self.size == 1:
            return value
        holder = [value]
        dist.broadcast_object_list(holder, src=0)
        return holder[0]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


ALONE = World()


@contextmanager
def joined_world(device: str) -> Iterator[tuple[World, str]]:
    """The world that torchrun's environment tells of, and this process' own device in it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE, device
        return
    if device.startswith("cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size()), device
    finally:
        dist.destroy_process_group()
