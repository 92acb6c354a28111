"""Sums gradients over processes while the backward pass is still computing others.

Parameters are summed in buckets, in the reverse of their order, which is about the order in which
their gradients appear (as in PyTorch's DistributedDataParallel; Li et al., VLDB 2020). A bucket is
sent when its last gradient is there, and every process sends them in the same order.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from evar.parallel import World

_BUCKET = 25 * 2**20  # bytes


class Overlap:
    """Buckets of a model's parameters.

    bucket: bytes of one message; a parameter above it is a bucket of its own.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], world: World, *, bucket: int = _BUCKET):
        self.world = world
        self.buckets: list[list[nn.Parameter]] = []
        size = bucket
        for parameter in reversed([p for p in parameters if p.requires_grad]):
            if size >= bucket:
                self.buckets.append([])
                size = 0
            self.buckets[-1].append(parameter)
            size += parameter.numel() * parameter.element_size()
        self._sent: list[tuple[list[Tensor], Tensor, dist.Work]] = []
        self._waiting: list[int] = []  # gradients that each bucket still waits for

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Sends gradients as they are accumulated; to be used around the last backward pass only.

        Gradients of earlier passes are part of what is sent.
        """
        self._waiting = [len(bucket) for bucket in self.buckets]
        hooks = [
            parameter.register_post_accumulate_grad_hook(
                lambda _, number=number: self._arrived(number)
            )
            for number, bucket in enumerate(self.buckets)
            for parameter in bucket
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def finish(self) -> None:
        """Sends what is left, of parameters without a gradient nothing, and waits for all sums."""
        while len(self._sent) < len(self.buckets):
            self._send()
        for gradients, flat, work in self._sent:
            work.wait()
            sums = flat.split([g.numel() for g in gradients])
            torch._foreach_copy_(
                gradients, [s.view_as(g) for s, g in zip(sums, gradients, strict=True)]
            )
        self._sent.clear()

    def _arrived(self, number: int) -> None:
        self._waiting[number] -= 1
        while len(self._sent) < len(self.buckets) and not self._waiting[len(self._sent)]:
            self._send()

    def _send(self) -> None:
        """Sends the next bucket."""
        bucket = self.buckets[len(self._sent)]
        gradients = [p.grad for p in bucket if p.grad is not None]
        if gradients:
            flat = torch.cat([g.reshape(-1) for g in gradients])
        else:  # the same on every process
            flat = torch.zeros(1, device=bucket[0].device)
        work = dist.all_reduce(flat, async_op=True)
        assert work is not None
        self._sent.append((gradients, flat if gradients else flat[:0], work))
