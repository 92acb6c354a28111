"""Frame embeddings of a task, kept as ragged shards.

A clip's frames are those of `Adapter.frames` for one unit, without the ones that begin after the
clip's own end, where `frame_seconds` says when that is. On disk they are float32, or float16; what
computes with them does so in float32. Letters: B clips, S samples, T frames, D embedding, V views.
"""

import functools
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evar.adapter import Adapter
from evar.data import audio
from evar.data.manifest import Manifest
from evar.embedding import embeddings
from evar.embedding.embeddings import Embeddings
from evar.embedding.engine import View, shard_starts
from evar.embedding.gathering import layout
from evar.embedding.store import Shard, Store
from evar.errors import UserError
from evar.models import Model
from evar.runtime import Runtime

VERSION = 1  # raise it when the frames that are kept change


class EveryFrame(Adapter):
    """The frames of an adapter's unit as one long embedding: embed() returns (B, T * D).

    count, width: T and D. Raises UserError for an adapter without frames.
    """

    def __init__(self, adapter: Adapter, *, seconds: float):
        super().__init__()
        self.adapter = adapter
        self.sample_rate, self.fit_clips = adapter.sample_rate, adapter.fit_clips
        self.text_options, self.frame_seconds = adapter.text_options, adapter.frame_seconds
        device = next((p.device for p in adapter.parameters()), torch.device("cpu"))
        silence = torch.zeros(1, max(1, int(seconds * adapter.sample_rate)), device=device)
        try:
            with torch.inference_mode():
                self.count, self.width = adapter.frames(silence).shape[1:]
        except NotImplementedError as error:
            raise UserError(
                f"{type(adapter).__name__} has no frames ({error}): a probe on frames needs them"
            ) from error
        self.embed_dim = self.count * self.width

    def fit(self, batches: Iterable[Tensor]) -> dict[str, float]:
        return self.adapter.fit(batches)

    def fitted(self, statistics: dict[str, float]) -> None:
        self.adapter.fitted(statistics)

    def embed(self, audio: Tensor) -> Tensor:
        return self.adapter.frames(audio).flatten(1)


class FrameTable(Sequence):
    """The frames of every view: table[v] is (T_v, D), read from disk when it is asked for."""

    def __init__(self, shards: Sequence[NDArray], counts: Sequence[NDArray]):
        self.shards = shards  # each (sum of T, D)
        self.places = [
            (number, int(end - count), int(end))
            for number, of_shard in enumerate(counts)
            for end, count in zip(np.cumsum(of_shard), of_shard, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, view: int) -> NDArray:  # type: ignore[override]  # no slices
        shard, begin, end = self.places[view]
        return self.shards[shard][begin:end]


class RaggedStore(Store):
    """Shards of frames: of each view as many as `counts` says, (V,)."""

    def __init__(
        self,
        folder: Path,
        identity: dict,
        *,
        counts: NDArray,
        starts: Sequence[int],
        width: int,
        dtype: np.dtype,
        note: Callable[[str], None],
    ):
        super().__init__(folder, identity)
        self.counts, self.starts, self.width = counts, starts, width
        self.dtype, self.note = dtype, note

    def announce(self, missing: Sequence[int]) -> None:
        """Says how much disk the missing shards need; raises UserError where there is less."""
        if missing:
            self._announce(sum(int(self.counts_of(n).sum()) for n in missing))

    def _announce(self, frames: int) -> None:
        needed = frames * self.width * self.dtype.itemsize
        free = shutil.disk_usage(self.folder).free
        self.note(
            f"{frames:,} frames of {self.width} {self.dtype.name} values need "
            f"{needed / 1e9:.2f} GB in {self.folder} ({free / 1e9:.0f} GB are free)"
        )
        if needed > free:
            raise UserError(
                f"{self.folder}: {needed / 1e9:.1f} GB of frames do not fit into the "
                f"{free / 1e9:.1f} GB that are free: --half needs half of that, --cache=DIR names "
                "another disk"
            )

    def write(self, number: int, shard: Shard) -> None:
        """Writes (n, T * D) frames as (sum of T_v, D)."""
        frames = shard.rows.reshape(len(shard.rows), -1, self.width)
        kept = np.concatenate(
            [of_view[:count] for of_view, count in zip(frames, self.counts_of(number), strict=True)]
        )
        with np.errstate(over="ignore"):
            stored = kept.astype(self.dtype)
        if (np.isfinite(kept) & ~np.isfinite(stored)).any():
            raise UserError("--half: values of this encoder are beyond float16; leave --half out")
        super().write(number, Shard(stored, shard.bad))

    def gathering(  # type: ignore[override]  # a table of mapped frames instead of an array
        self, starts: Sequence[int], width: int
    ) -> "MappedFrames":
        """Returns what checks shards and maps them; their sizes are known here."""
        return MappedFrames(self)

    def counts_of(self, number: int) -> NDArray:
        """Returns the frames of each view in a shard, (V,)."""
        return self.counts[self.starts[number] : self.starts[number + 1]]

    def mapped(self, number: int) -> NDArray:
        """Returns the rows of an intact shard, (sum of T_v, D), without reading them."""
        with self.path(number).open("rb") as file:
            found, _ = layout(file)
        return np.memmap(self.path(number), self.dtype, "r", found.begin, found.shape)


class MappedFrames:
    """The shards of a store, checked by `add` and mapped by `result`."""

    def __init__(self, store: RaggedStore):
        self.store, self.bad = store, dict[int, str]()

    def add(self, numbers: Iterable[int]) -> list[int]:
        """Checks shards; returns the numbers of those that are missing or damaged."""
        missing = []
        for number in numbers:
            bad = self.store.bad_rows(number)
            if bad is None:
                missing.append(number)
            else:
                start = self.store.starts[number]
                self.bad |= {start + row: reason for row, reason in bad.items()}
        return missing

    def result(self) -> tuple[FrameTable, dict[int, str]]:
        """Returns the frames of all views, mapped from the shards, and the bad views."""
        numbers = range(len(self.store.starts) - 1)
        shards = [self.store.mapped(number) for number in numbers]
        counts = [self.store.counts_of(number) for number in numbers]
        return FrameTable(shards, counts), dict(sorted(self.bad.items()))


def embed_frames(
    model: Model,
    manifest: Manifest,
    runtime: Runtime,
    *,
    crop_seed: int = 42,
    half: bool = False,
) -> Embeddings:
    """Embeds the frames of every clip, or reads what an earlier run has kept.

    `values` of the result is a FrameTable. half: keep them in float16. The disk they need is
    reported (`Progress.note`) before they are made. Raises UserError where that is not free, and
    for an adapter without frames.
    """
    seconds = manifest.task.seconds
    if seconds is None:
        raise UserError(f"{manifest.task.name}: its clips have no common length to embed frames of")
    adapter = EveryFrame(model.adapter, seconds=seconds).eval()
    dtype = np.dtype(np.float16 if half else np.float32)
    identity = {**model.identity, "output": f"frames, {dtype.name}, version {VERSION}"}
    rate = adapter.sample_rate
    plan = embeddings.views(manifest, sample_rate=rate, crop_seed=crop_seed)
    store = functools.partial(
        RaggedStore,
        counts=frame_counts(manifest, plan, adapter),
        starts=shard_starts([manifest.task.unit_samples(rate)] * len(plan)),
        width=adapter.width,
        dtype=dtype,
        note=runtime.progress.note,
    )
    of_frames = replace(model, adapter=adapter, identity=identity)
    return embeddings.embed_task(of_frames, manifest, runtime, crop_seed=crop_seed, kept_in=store)


def frame_counts(manifest: Manifest, plan: Sequence[View], adapter: EveryFrame) -> NDArray:
    """Returns how many frames of each view are the clip's own, (V,); one at least."""
    if adapter.frame_seconds is None:
        return np.full(len(plan), adapter.count)
    rows, rate = [view.row for view in plan], adapter.sample_rate
    table = manifest.table.loc[rows]
    samples = np.array(
        [
            audio.resampled_length(int(frames), int(original), rate)
            for frames, original in zip(table.frames, table.sample_rate, strict=True)
        ]
    )
    own = np.ceil(samples / rate / adapter.frame_seconds - 1e-6)  # 0.6 / 0.2 is no whole number
    return np.clip(own, 1, adapter.count).astype(np.int64)
