"""Which kernel attention takes for the shapes of a ViT-Base, and what each would cost.

    python benchmarks/attention.py [--device=cuda]

`scaled_dot_product_attention` chooses; its choice is the operator that the profiler sees. Every
kernel that accepts the shape is also timed alone. Shapes are (B, heads, tokens, width of a head).
"""

import argparse
import time
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile

from evar.pretrain.config import Config

_KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,  # not fused: the B x heads x tokens^2 weights are in memory
}
_OPERATOR = "aten::_scaled_dot_product_"
_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Shape(NamedTuple):
    """An attention of a ViT-Base; trained: with a backward pass."""

    name: str
    heads: int
    tokens: int
    width: int
    trained: bool


def shapes(config: Config) -> list[Shape]:
    """Returns the attentions of embedding a clip of the configuration's length, and of a step."""
    head = config.width // config.heads
    visible = int(config.patches * (1 - config.mask_ratio))
    small = config.predictor_width // config.predictor_heads
    return [
        Shape("embedding", config.heads, 1 + config.patches, head, False),
        Shape("online", config.heads, 1 + visible, head, True),
        Shape("target", config.heads, 1 + config.patches - visible, head, False),
        Shape("predictor", config.predictor_heads, 1 + config.patches, small, True),
    ]


def pass_of(shape: Shape, batch: int, dtype: torch.dtype, device: str) -> Callable[[], object]:
    """Returns a function that computes one attention, with its gradient where it is trained."""
    size = batch, shape.heads, shape.tokens, shape.width
    q, k, v = (
        torch.randn(size, dtype=dtype, device=device, requires_grad=shape.trained) for _ in range(3)
    )

    def once() -> Tensor | tuple[Tensor, ...]:
        out = scaled_dot_product_attention(q, k, v)
        return torch.autograd.grad(out.sum(), (q, k, v)) if shape.trained else out

    return once


def chosen(once: Callable[[], object]) -> str:
    """Returns the operator that was chosen: "flash_attention", "attention_math", ..."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen:
        once()
    found = (event.name for event in seen.events() if event.name.startswith(_OPERATOR))
    return next((name.removeprefix(_OPERATOR) for name in found if "backward" not in name), "none")


def milliseconds(once: Callable[[], object], device: str, repeats: int) -> float:
    """Returns the mean time of a call, after one that is not counted."""
    once()
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    started = time.perf_counter()
    for _ in range(repeats):
        once()
    wait()
    return 1000 * (time.perf_counter() - started) / repeats


def report(device: str, *, batch: int = 256, repeats: int = 20) -> None:
    """Prints a line per shape and precision; on a CPU, of a few clips."""
    if not device.startswith("cuda"):
        batch, repeats = 4, 2
        print("attention  no GPU: these are the kernels of the CPU")
    for shape in shapes(Config()):
        for precision, dtype in _PRECISIONS.items():
            once = pass_of(shape, batch, dtype, device)
            name = chosen(once)
            fused = "not fused" if name.endswith("math") or name == "none" else "fused"
            print(
                f"attention  {shape.name} ({batch}, {shape.heads}, {shape.tokens}, {shape.width}) "
                f"{precision}: {name} ({fused}); {_alone(once, device, repeats)}"
            )


def _alone(once: Callable[[], object], device: str, repeats: int) -> str:
    """Returns the time of each kernel alone."""
    found = []
    for name, kernel in _KERNELS.items():
        try:
            with sdpa_kernel([kernel]), warnings.catch_warnings(action="ignore"):
                found.append(f"{name} {milliseconds(once, device, repeats):.2f} ms")
        except RuntimeError:  # it does not take this shape, precision or device
            found.append(f"{name} -")
    return ", ".join(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    report(parser.parse_args().device)
