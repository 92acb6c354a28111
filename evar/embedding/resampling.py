"""Where clips get the encoder's sample rate: on decoding threads, or in batches on its device.

The threads' resampler is soxr's (`evar.data.audio`). On a device it is a windowed sinc, with a
Kaiser window fitted to the impulse response of soxr's HQ setting (48 to 16 kHz: 8e-6 of its energy
apart); docs/benchmarks.md has the differences on sounds. Crops are the same samples in both.
Letters: B clips, S samples of a unit, P samples of a clip at its file's own rate.
"""

import functools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from evar.data import audio
from evar.precision import full_precision
from evar.runtime import Runtime

_WIDTH, _ROLLOFF, _BETA = 92, 0.95687, 12.86  # zero crossings on a side, cutoff / Nyquist, Kaiser's
_LARGEST = 2**24  # coefficients of a filter: 22,254 to 16,000 Hz would need 90 million


@dataclass(frozen=True, eq=False)
class Native:
    """What a device needs of a clip, at the file's rate, to make its unit of `total` samples.

    samples (P,): the part from which the unit is computed, with the filter's reach. rate: in Hz.
    offset: where the unit begins in the resampled part. own: samples of the unit that are the
    clip's; the others are padding.
    """

    samples: NDArray
    rate: int
    offset: int
    own: int
    total: int

    @property
    def nbytes(self) -> int:
        return self.samples.nbytes


class Resampler(Protocol):
    """Loads clips on threads, and makes batches of those that are alike."""

    def load(
        self,
        path,
        *,
        samples: int | None,
        start: int = 0,
        span: audio.Span | None = None,
        silence: bool = False,
    ) -> Any:
        """Returns a clip; arguments and errors are those of `evar.data.audio.load_clip`."""

    def alike(self, clip: Any) -> Hashable:
        """Returns what clips of one batch have in common."""

    def batch(self, clips: Sequence) -> Tensor:
        """Returns the clips' waveforms (B, S) at the encoder's rate."""


class OnThreads:
    """Clips (S,) that are loaded at the encoder's rate."""

    def __init__(self, sample_rate: int, device: str):
        self.sample_rate, self.device = sample_rate, device

    def load(self, path, **how) -> NDArray:
        return audio.load_clip(path, sample_rate=self.sample_rate, **how)

    def alike(self, clip: NDArray) -> Hashable:
        return len(clip)

    def batch(self, clips: Sequence[NDArray]) -> Tensor:
        return _stacked(clips, self.device)


class OnDevice:
    """Clips that are loaded at their file's rate and resampled together.

    Rates whose ratio to the encoder's would need a filter of more than 2**24 coefficients are
    soxr's, on the threads.
    """

    def __init__(self, sample_rate: int, device: str):
        self.sample_rate, self.device = sample_rate, device
        self._filters: dict[int, torch.nn.Module] = {}

    def load(
        self,
        path,
        *,
        samples: int | None,
        start: int = 0,
        span: audio.Span | None = None,
        silence: bool = False,
    ) -> Native:
        mono, rate = audio.sound(path, span, silence=silence)
        if not _Ratio.of(rate, self.sample_rate).is_small:
            mono, rate = audio.resampled(mono, rate, self.sample_rate), self.sample_rate
        ratio = _Ratio.of(rate, self.sample_rate)
        whole = ratio.length(len(mono))
        total = whole if samples is None else samples
        first = audio.first_sample(whole, total, start)
        block = first // ratio.new - ratio.margin  # of `new` samples, made of `old` ones
        blocks = -(-total // ratio.new) + (1 + 2 * ratio.margin if ratio.changes else 0)
        return Native(
            _part(mono, block * ratio.old, blocks * ratio.old),
            rate,
            first - block * ratio.new,
            min(whole - first, total),
            total,
        )

    def alike(self, clip: Native) -> Hashable:
        return clip.rate, len(clip.samples), clip.total

    def batch(self, clips: Sequence[Native]) -> Tensor:
        native = _stacked([clip.samples for clip in clips], self.device)
        rate, total = clips[0].rate, clips[0].total
        if rate == self.sample_rate:
            return native
        with torch.inference_mode(), full_precision():
            long = self._filter(rate)(native.to(self.device, non_blocking=True))
            out = torch.stack(
                [row[c.offset : c.offset + total] for row, c in zip(long, clips, strict=True)]
            )
            for row, clip in zip(out, clips, strict=True):
                if clip.own < total:  # the filter rings beyond a clip's end
                    row[clip.own :] = 0
        return out

    def _filter(self, rate: int) -> torch.nn.Module:
        if rate not in self._filters:
            import torchaudio

            made = torchaudio.transforms.Resample(  # computed in float64, on the CPU
                rate,
                self.sample_rate,
                resampling_method="sinc_interp_kaiser",
                lowpass_filter_width=_WIDTH,
                rolloff=_ROLLOFF,
                beta=_BETA,
            )
            self._filters[rate] = made.to(self.device)
        return self._filters[rate]


def resampler(runtime: Runtime, sample_rate: int) -> Resampler:
    """Returns what `Runtime.resample` stands for, to so many Hz."""
    kind = OnDevice if runtime.resample == "gpu" else OnThreads
    return kind(sample_rate, runtime.device)


def identity(runtime: Runtime) -> str:
    """Returns what resamples, for the key of embeddings."""
    threads = f"soxr HQ {soxr.__version__}"
    if runtime.resample != "gpu":
        return threads
    import torchaudio

    version = torchaudio.__version__.partition("+")[0]  # behind it, what it was built for
    return f"torchaudio {version} Kaiser {_WIDTH} {_ROLLOFF} {_BETA}, large ratios {threads}"


@dataclass(frozen=True)
class _Ratio:
    """A change of sample rate in lowest terms: `old` samples become `new`."""

    old: int
    new: int

    @classmethod
    @functools.cache
    def of(cls, rate: int, sample_rate: int) -> "_Ratio":
        common = math.gcd(rate, sample_rate)
        return cls(rate // common, sample_rate // common)

    @property
    def changes(self) -> bool:
        return self.old != self.new

    @property
    def reach(self) -> int:
        """Returns how many samples on each side a resampled one depends on."""
        return math.ceil(_WIDTH * self.old / (min(self.old, self.new) * _ROLLOFF))

    @property
    def margin(self) -> int:
        """Returns the reach in blocks of `old` samples."""
        return -(-self.reach // self.old) if self.changes else 0

    @property
    def is_small(self) -> bool:
        return not self.changes or self.new * (self.old + 2 * self.reach) <= _LARGEST

    def length(self, samples: int) -> int:
        """Returns how many samples soxr makes of so many: rounded, halves upwards."""
        return (2 * samples * self.new + self.old) // (2 * self.old)


def _part(mono: NDArray, begin: int, count: int) -> NDArray:
    """Returns samples [begin, begin + count) of a sound (P,), zero outside of it; a copy."""
    out = np.zeros(count, np.float32)
    inside = mono[max(begin, 0) : max(begin + count, 0)]
    out[max(-begin, 0) :][: len(inside)] = inside
    return out


def _stacked(arrays: Sequence[NDArray], device: str) -> Tensor:
    """Returns arrays of one length as a batch, for a CUDA device in pinned memory.

    PyTorch gives pinned memory out again when the copies from it have ended (it notes an event for
    each): a few buffers go round.
    """
    pinned = torch.device(device).type == "cuda"
    out = torch.empty(len(arrays), len(arrays[0]), pin_memory=pinned)
    np.stack(arrays, out=out.numpy())
    return out
