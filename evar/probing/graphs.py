"""Steps that are recorded once and then replayed, so that a GPU need not wait for their launches.

A step of the linear probe is a dozen kernels of a few microseconds; to launch them from Python
takes ten times as long. A CUDA graph launches all at once (PyTorch documentation, "CUDA semantics",
section "CUDA Graphs"; Nguyen et al. 2021, "Accelerating PyTorch with CUDA Graphs"). It repeats the
same kernels on the same addresses: inputs are copied to buffers that stay, and what a step changes
must be changed in place.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

EAGER = 16  # steps before the first is recorded: to record takes as long as about so many
_WARM_UP = 3  # calls before the capture, as many as in PyTorch's documentation
_TOLERANCE = 1e-4  # of a replayed step against a direct one, relative


class Recording(Protocol):
    """What a recorder returns: `replay` does again what was done while it recorded."""

    def replay(self) -> None: ...


class Recorder(Protocol):
    """Records what a function without arguments does on the device."""

    def capture(self, function: Callable[[], None]) -> Recording:
        """Returns the recording; calls the function any number of times for it.

        Raises RuntimeError where the function cannot be recorded.
        """


class CudaRecorder:
    """Records CUDA graphs. Each has memory of its own, which goes back with it.

    (PyTorch's allocator refuses to share a pool of which no graph is left, and here one is dropped
    before the next is made.)
    """

    def __init__(self, device: torch.device):
        self.device = device

    def capture(self, function: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Returns a graph of the function's kernels, after calls that let libraries set up."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device):
            current, side = torch.cuda.current_stream(), torch.cuda.Stream()
            side.wait_stream(current)
            try:
                with torch.cuda.stream(side):
                    for _ in range(_WARM_UP):
                        function()
            finally:
                current.wait_stream(side)
            # The outer block restores the stream where ending a failed capture raises. Meanwhile
            # other threads of this process may use the GPU.
            with (
                torch.cuda.stream(current),
                torch.cuda.graph(graph, capture_error_mode="thread_local"),
            ):
                function()
        return graph


class Replays:
    """Makes steps that are all alike: the first ones directly, then by replaying a recording.

    recorder: None makes all steps directly. eager: how many are made before one is recorded. A
    recording is compared with a direct step. Where it cannot be made or differs, a warning says so
    and all further steps are made directly.
    """

    def __init__(self, recorder: Recorder | None, *, eager: int = EAGER):
        self.recorder, self._eager = recorder, eager
        self.forget()

    def forget(self) -> None:
        """Drops the recording, before steps that are of another shape or on another state."""
        self._made = 0
        self._recording: Recording | None = None
        self._buffers: list[Tensor] = []

    def run(
        self,
        step: Callable[..., None],
        inputs: Sequence[Tensor],
        state: Callable[[], Sequence[Tensor]],
    ) -> None:
        """Makes step(*inputs), which changes the tensors of `state` in place and nothing else."""
        if self._recording is not None:
            self._fill(inputs)
            self._recording.replay()
        elif self.recorder is None or self._made < self._eager:
            self._made += 1
            step(*inputs)
        else:
            self._record(self.recorder, step, inputs, state())

    def _record(
        self,
        recorder: Recorder,
        step: Callable[..., None],
        inputs: Sequence[Tensor],
        state: Sequence[Tensor],
    ) -> None:
        """Makes a step, records it, and goes back to the direct one if the recording differs."""
        self._buffers = [torch.empty_like(given) for given in inputs]
        self._fill(inputs)
        before = [tensor.clone() for tensor in state]
        step(*self._buffers)
        after = [tensor.clone() for tensor in state]
        try:
            recording = recorder.capture(lambda: step(*self._buffers))
            _restore(state, before)
            self._fill(inputs)  # a recorder may have used them up
            recording.replay()
            refused = "" if _close(state, after) else "replayed steps differ from direct ones"
        except RuntimeError as error:
            refused = f"{error}".strip().split("\n")[0] or type(error).__name__
        if refused:
            _restore(state, after)
            self.recorder = None
            warnings.warn(f"probes are trained without CUDA graphs: {refused}", stacklevel=2)
        else:
            self._recording = recording

    def _fill(self, inputs: Sequence[Tensor]) -> None:
        for buffer, given in zip(self._buffers, inputs, strict=True):
            buffer.copy_(given)


def replays_on(device: torch.device) -> Replays:
    """Returns what makes the steps of probes on a device."""
    return Replays(CudaRecorder(device) if device.type == "cuda" else None)


def _restore(state: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(state, values, strict=True):
        tensor.copy_(value)


def _close(state: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Tells whether tensors agree, up to rounding; NaN equals NaN, of probes that diverge.

    Rounding can flip the sign of a weight's first update where its gradient is almost 0. Then a
    recording is refused without need, which makes probes slower, not wrong.
    """
    pairs = zip(state, expected, strict=True)
    return all(torch.allclose(a, b, _TOLERANCE, _absolute(b), equal_nan=True) for a, b in pairs)


def _absolute(values: Tensor) -> float:
    largest = values.nan_to_num(0.0, 0.0, 0.0).abs().max()
    return _TOLERANCE * float(largest)
