"""One adapter on one device: waveforms in, checked embeddings out.

Letters: B clips, S samples, D embedding, E joint space.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evar.adapter import Adapter
from evar.errors import UserError, blaming

_UNSTEADY = 1e-2  # relative difference; honest encoders are below 1e-4 (evar.check)


@dataclass(frozen=True, eq=False)
class OnItsWay:
    """Embeddings (B, D) that a GPU is at work on, and whether they are finite, as host memory.

    They are there when the event has arrived, which batches that were started later do not delay.
    """

    values: Tensor
    finite: Tensor
    arrived: torch.cuda.Event

    @classmethod
    def send(cls, out: Tensor) -> "OnItsWay":
        """Starts copying what a GPU computes to pinned memory, behind nothing but itself."""
        values, finite = (
            torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(
                tensor, non_blocking=True
            )
            for tensor in (out, torch.isfinite(out).all())
        )
        event = torch.cuda.Event()
        event.record()
        return cls(values, finite, event)


@dataclass(frozen=True, eq=False)
class Encoder:
    """An adapter as the engine runs it. `joint`: `embed_joint` (B, E), else `embed` (B, D)."""

    adapter: Adapter
    device: str = "cpu"
    precision: str = "fp32"
    joint: bool = False

    @property
    def dim(self) -> int:
        """Returns the width of an embedding: D, or E in the joint space."""
        if not self.joint:
            return self.adapter.embed_dim
        if self.adapter.joint_dim is None:
            raise UserError(f"{type(self.adapter).__name__} has no joint space: set joint_dim")
        return self.adapter.joint_dim

    @property
    def method(self) -> str:
        """Returns the name of the adapter's method that computes the embeddings."""
        return "embed_joint" if self.joint else "embed"

    def start(self, batch: NDArray | Tensor) -> Tensor | OnItsWay:
        """Hands (B, S) float32 waveforms to the encoder. A GPU returns before it is done."""
        waveforms = torch.as_tensor(batch)
        kind = torch.device(self.device).type
        if kind == "cuda" and waveforms.device.type == "cpu":
            waveforms = waveforms.pin_memory().to(self.device, non_blocking=True)
        mixed = torch.autocast(kind, torch.bfloat16, enabled=self.precision == "bf16")
        place = f"{type(self.adapter).__name__}.{self.method}() of {tuple(batch.shape)} samples"
        with torch.inference_mode(), mixed, blaming(place):
            out = getattr(self.adapter, self.method)(waveforms.to(self.device))
            if isinstance(out, Tensor):
                out = out.detach().float() if self.precision == "bf16" else out.detach()
                if out.device.type == "cuda":
                    return OnItsWay.send(out)
        return out

    def finish(self, out: Tensor | OnItsWay, rows: int) -> NDArray:
        """Returns what `start` gave as a checked (B, D) float32 array; waits for a GPU."""
        return checked(out, (rows, self.dim), self.adapter, self.method)

    def __call__(self, batch: NDArray | Tensor) -> NDArray:
        """Returns the (B, D) float32 embeddings of (B, S) float32 waveforms.

        Raises UserError where the adapter returns another shape or dtype, or values that are not
        finite.
        """
        return self.finish(self.start(batch), len(batch))

    def require_steady(self, batch: NDArray, rows: NDArray) -> None:
        """Raises UserError where the quietest clip of a batch alone gets another embedding.

        The scores of such an encoder would be random, or depend on the batch size.
        """
        quietest = int(np.square(batch).mean(axis=1).argmin())
        alone = self(batch[quietest, None])[0]
        norm = max(float(np.linalg.norm(alone)), 1e-12)
        error = float(np.linalg.norm(alone - rows[quietest])) / norm
        if error > _UNSTEADY:
            raise UserError(
                f"{type(self.adapter).__name__}: the same clip, alone, gets another embedding than "
                f"in its batch (relative difference {error:.2g}): no score would mean anything. "
                "`python -m evar.check MODEL` shows what is wrong"
            )


class NotFinite(UserError):
    """An embedding with NaN or infinity in it; `row` is the first such row of its batch."""

    def __init__(self, text: str, row: int):
        self.row = row
        super().__init__(text)


def checked(
    out: object | OnItsWay, expected: tuple[int, int], adapter: Adapter, method: str
) -> NDArray:
    """Returns what an adapter gave as an array; UserError where it is not what was promised.

    NotFinite is raised for values that are NaN or infinite.
    """
    name = f"{type(adapter).__name__}.{method}"
    remedy = "`python -m evar.check MODEL` shows where"
    finite: Tensor | None = None
    if isinstance(out, OnItsWay):
        out.arrived.synchronize()
        finite, out = out.finite, out.values
    if not isinstance(out, Tensor):
        raise UserError(f"{name} gave a {type(out).__name__}, not a tensor; {remedy}")
    if tuple(out.shape) != expected:
        raise UserError(f"{name} gave shape {tuple(out.shape)}, not {expected}; {remedy}")
    if out.dtype != torch.float32:
        raise UserError(f"{name} gave {out.dtype}, not torch.float32; {remedy}")
    if out.layout is not torch.strided or out.is_meta:
        kind = "meta" if out.is_meta else "sparse"
        raise UserError(f"{name} gave a {kind} tensor, not one with values; {remedy}")
    if not (torch.isfinite(out).all() if finite is None else finite):
        row = int(torch.isfinite(out).all(dim=1).int().argmin())  # the first that is not
        raise NotFinite(f"{name} gave values that are not finite (NaN or inf); {remedy}", row)
    return out.detach().cpu().numpy()
