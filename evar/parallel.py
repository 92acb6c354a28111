"""Several processes that train one model together, each on its part of every batch (torchrun)."""

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
    """The processes of a run and the rank of this one.

    Every process must call the same collectives in the same order. In a world of one process they
    return at once.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Returns whether this is rank 0, the process that writes files."""
        return self.rank == 0

    def shard(self, items: NDArray) -> NDArray:
        """Returns this process' part of (N,) items; the parts in rank order are the items."""
        return np.array_split(items, self.size)[self.rank]

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors of one dtype by their sums over all processes, in one message."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        sums = flat.split([t.numel() for t in tensors])
        for tensor, total in zip(tensors, sums, strict=True):
            tensor.copy_(total.view_as(tensor))

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Returns the rows (n, ...) of all processes in rank order; n is the same on each."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def all_gather_rows(self, part: NDArray) -> NDArray:
        """Returns the rows (n, ...) of all processes in rank order; n may differ."""
        if self.size == 1:
            return part
        parts: list = [None] * self.size
        dist.all_gather_object(parts, part)
        return np.concatenate(parts)

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors by those of rank 0."""
        if self.size == 1:
            return
        for tensor in tensors:
            value = tensor.detach().clone(memory_format=torch.contiguous_format)
            dist.broadcast(value, src=0)
            if not torch.equal(value, tensor):
                tensor.copy_(value)

    def broadcast_object(self, value):
        """Returns rank 0's value, any picklable object."""
        if self.size == 1:
            return value
        holder = [value]
        dist.broadcast_object_list(holder, src=0)
        return holder[0]

    def barrier(self) -> None:
        """Waits until all processes have reached this call."""
        if self.size > 1:
            dist.barrier()


SINGLE_PROCESS = World()


@contextmanager
def process_group(device: str) -> Iterator[tuple[World, str]]:
    """Joins the process group that torchrun's environment variables describe.

    Yields the world and this process' device: with CUDA, the GPU of its local rank. Without
    torchrun the world is a single process, and the device is the one that was given.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield SINGLE_PROCESS, device
        return
    if device.startswith("cuda"):
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size()), device
    finally:
        dist.destroy_process_group()
