"""Clips through one encoder: threads decode ahead, batches are embedded, shards are written."""

import contextlib
import os
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evar.data.manifest import Manifest
from evar.embedding.allocator import reused_buffers
from evar.embedding.encoder import Encoder, NotFinite, OnItsWay
from evar.embedding.resampling import Native, resampler
from evar.embedding.store import Shard, Store
from evar.errors import BadAudio, UserError, blaming
from evar.precision import full_precision
from evar.progress import Bar
from evar.runtime import Runtime

_SHARD_BYTES = 2**26  # of waveforms; two shards are in memory at a time
_SHARD_CLIPS = 512
Clip = NDArray | Native  # decoded: at the encoder's rate, or at the file's
_IN_FLIGHT = 2  # batches that wait for a GPU while the next ones are decoded and sent


class View(NamedTuple):  # there may be millions
    """One way to look at a clip: its row in the manifest, and where a longer clip is cropped.

    span: a window of it, [first, last) in frames of its file; None: the whole clip.
    """

    row: int
    start: int  # 0: its first unit
    span: tuple[int, int] | None = None


@dataclass(eq=False)
class _Open:
    """A shard that is being computed: batches that have not ended; whole: all have been started."""

    number: int
    content: Shard
    batches: int = 0
    whole: bool = False


class Engine:
    """Decoding threads feed one encoder; shard by shard, so that memory stays flat.

    plan: the views to embed, in order. lengths: of each view in samples, an upper bound serves.
    samples: of every clip (one unit, for `embed`); None: clips are read whole.
    """

    def __init__(
        self,
        encoder: Encoder,
        manifest: Manifest,
        plan: list[View],
        store: Store,
        runtime: Runtime,
        *,
        lengths: Sequence[int],
        samples: int | None,
    ):
        self.encoder, self.manifest, self.plan, self.store = encoder, manifest, plan, store
        self.runtime, self.samples = runtime, samples
        self.resampler = resampler(runtime, encoder.adapter.sample_rate)
        self.batch_size = runtime.batch_size or (16 if runtime.device == "cpu" else 64)
        self.starts = shard_starts(lengths)
        self.workers = os.cpu_count() or 1
        self.computed, self.seconds = 0, 0.0  # views embedded by this process, and how long it took
        self.waited = 0.0  # of these, seconds for clips that were still being decoded
        self.statistics: dict | None = None  # what the adapter has learnt from training clips
        self.decoded: dict[View, Clip] = {}  # for that, and not embedded yet
        self.in_flight = 0 if runtime.device == "cpu" else _IN_FLIGHT
        self.started: deque[tuple[_Open, list[int], Tensor | OnItsWay]] = deque()
        self.steady = runtime.precision != "fp32"  # bfloat16 rounds by the size of a batch

    def run(self) -> tuple[NDArray, dict[int, str]]:
        """Returns the embeddings (V, D) of all views, and those that cannot be decoded.

        Reads what the store has. Raises BadAudio for a clip that cannot be decoded, unless
        `runtime.skip_bad`.
        """
        self.prepare()
        gathering = self.store.gathering(self.starts, self.encoder.dim)
        there = self.store.present(self.shards)
        self._read_hashes(there)
        damaged = set(gathering.add(there))  # what is kept is checked as it is read, once
        missing = sorted(damaged | (set(range(self.shards)) - set(there)))
        self._fill(missing, len(self.plan))
        for number in gathering.add(missing):
            raise self.store.vanished(number)
        self._read_hashes(missing)  # other processes may have computed some
        values, bad = gathering.result()
        if bad and not self.runtime.skip_bad:
            number, reason = next(iter(bad.items()))
            raise BadAudio(self._path(self.plan[number]), reason)
        return values, bad

    @property
    def shards(self) -> int:
        """Returns the number of shards that hold the whole plan."""
        return len(self.starts) - 1

    def prepare(self) -> None:
        """Fits an adapter that learns from training clips, or reads what an earlier run learnt."""
        adapter = self.encoder.adapter
        if adapter.fit_clips:
            self.statistics = self.store.once("fit", self._fit)
            adapter.fitted(self.statistics)

    def fill(self, part: tuple[int, int] = (0, 1)) -> int:
        """Has shards I, I + N, ... of `part` (I, N) in the store; returns their number of views."""
        self.prepare()
        mine = range(part[0], self.shards, part[1])
        views = sum(len(self.views_of(n)) for n in mine)
        self._fill([n for n in self.store.missing(self.shards) if n in mine], views)
        return views

    def _fill(self, missing: list[int], views: int) -> None:
        """Computes shards, of so many views with those that are kept already."""
        self.store.announce(missing)
        bar = self.runtime.progress.bar("decode and embed", "clip", total=views)
        with full_precision(), reused_buffers(), bar as shown:
            shown.update(views - sum(len(self.views_of(n)) for n in missing))
            started = perf_counter()
            self.store.fill(missing, lambda claims: self._compute(claims, shown))
            self.seconds += perf_counter() - started
        self.decoded.clear()
        if measured := self._measured():
            self.store.keep_speed(self.runtime.device, measured)

    @property
    def clips_per_second(self) -> float | None:
        """Returns the speed of decoding and embedding: measured here, or kept beside the shards.

        None where they were computed in parts, or on another device.
        """
        return self._measured() or self.store.speed(self.runtime.device)

    def _measured(self) -> float | None:
        """Returns the views per second of this process; None unless it computed them all."""
        whole = self.computed == len(self.plan) > 0 and self.seconds > 0
        return self.computed / self.seconds if whole else None

    def views_of(self, shard: int) -> range:
        """Returns the numbers of the views in a shard."""
        return range(self.starts[shard], self.starts[shard + 1])

    def _path(self, view: View):
        return self.manifest.root / self.manifest.table.file[view.row]

    def load(self, view: View) -> Clip | BadAudio:
        """Returns a decoded clip, or why there is none where `runtime.skip_bad`."""
        known = self.decoded.pop(view, None)
        return self._decode(view) if known is None else known

    def _decode(self, view: View) -> Clip | BadAudio:
        task = self.manifest.task
        try:
            with self._hashing(view):
                return self.resampler.load(
                    self._path(view),
                    samples=self.samples,
                    start=view.start,
                    span=view.span or self.manifest.span(view.row),
                    silence=task.silence or task.windows is not None,  # a recording may pause
                )
        except BadAudio as error:
            if not self.runtime.skip_bad:
                raise
            return error

    def _hashing(self, view: View) -> contextlib.AbstractContextManager[None]:
        unhashed = self.manifest.unhashed
        if unhashed is None:
            return contextlib.nullcontext()
        return unhashed.hashing(self.manifest.table.file[view.row])

    def _keep_hashes(self, number: int) -> None:
        """Keeps the fingerprints of a shard's files with it, for a run that goes on with it."""
        if unhashed := self.manifest.unhashed:
            files = {self.manifest.table.file[self.plan[i].row] for i in self.views_of(number)}
            self.store.keep(_hashes(number), unhashed.known(files))

    def _read_hashes(self, numbers: Iterable[int]) -> None:
        """Takes the fingerprints of files whose embeddings an earlier run has kept."""
        if unhashed := self.manifest.unhashed:
            for number in numbers:
                unhashed.update(self.store.kept(_hashes(number)) or {})

    def _fit(self) -> dict:
        """Shows the adapter evenly spaced training clips, without their labels.

        In cross-validation every clip is a training clip of some fold, and one fit serves all. So
        it does for sounds without a training side.
        """
        task, table, adapter = self.manifest.task, self.manifest.table, self.encoder.adapter
        of_all = task.folds or not task.trains  # without a training side: what there is
        train = [view for view in self.plan if of_all or table[task.column][view.row] == "train"]
        if not train:
            raise UserError(
                f"{task.name}: no training clip is left to fit {type(adapter).__name__} to"
            )
        count = min(len(train), adapter.fit_clips)
        chosen = [train[i * len(train) // count] for i in range(count)]
        seen: list[int] = []
        room = _SHARD_BYTES  # of clips that need not be decoded again

        def batches() -> Iterator[Tensor]:
            nonlocal room
            with ThreadPoolExecutor(self.workers) as pool:
                size = self.batch_size if self.samples else 1  # whole clips differ in length
                for at in range(0, count, size):
                    part = chosen[at : at + size]
                    loaded = zip(part, pool.map(self.load, part), strict=True)
                    good = [(view, clip) for view, clip in loaded if not isinstance(clip, BadAudio)]
                    for view, clip in good:
                        room -= clip.nbytes
                        if room >= 0:
                            self.decoded[view] = clip
                    clips = [clip for _, clip in good]
                    for _, alike in groupby(clips, key=self.resampler.alike):
                        stacked = self.resampler.batch(list(alike))
                        seen.append(len(stacked))
                        yield stacked.to(self.runtime.device)
            if not seen:
                raise UserError(f"{task.name}: no training clip can be decoded: nothing to learn")

        with torch.inference_mode(), blaming(f"{type(adapter).__name__}.fit()"):
            return adapter.fit(batches())

    def _compute(self, claims: Iterator[int], bar: Bar) -> None:
        """Computes and writes the claimed shards, the next one decoding while one is embedded."""
        pool = ThreadPoolExecutor(self.workers)
        try:
            ahead: list[tuple[int, list[Future]]] = []
            for number in claims:
                loading = [pool.submit(self.load, self.plan[i]) for i in self.views_of(number)]
                ahead.append((number, loading))
                if len(ahead) == 2:
                    self.write(*ahead.pop(0), bar, drain=False)
            while ahead:
                self.write(*ahead.pop(0), bar, drain=False)
            self.drain()
        finally:
            self.started.clear()
            pool.shutdown(cancel_futures=True)

    def write(self, number: int, loading: list[Future], bar: Bar, *, drain: bool = True) -> None:
        """Embeds and writes a shard of clips that are being decoded; empties `loading`.

        drain=False: a GPU may still be at work on its last batches when this returns; the shard is
        then written by the next call, or by `drain`.
        """
        rows = np.full((len(loading), self.encoder.dim), np.nan, np.float32)
        shard = _Open(number, Shard(rows, {}))
        for at in range(0, len(loading), self.batch_size):
            numbers = range(at, at + self.batch_size)
            alike = self._of_equal_length(loading, numbers, shard.content.bad)
            for where, batch in alike:
                self.started.append((shard, where, self.encoder.start(batch)))
                shard.batches += 1
                if not self.steady:  # the first batch of the run
                    self.drain()
                    self.encoder.require_steady(batch.cpu().numpy(), rows[where])
                    self.steady = True
                while len(self.started) > self.in_flight:
                    self._finish()
            bar.update(sum(len(where) for where, _ in alike))
        shard.whole = True
        self._write(shard)
        if drain:
            self.drain()

    def drain(self) -> None:
        """Waits for the batches that a GPU is at work on, and writes their shards."""
        while self.started:
            self._finish()

    def _finish(self) -> None:
        """Waits for the oldest batch that was started."""
        shard, where, out = self.started.popleft()
        try:
            shard.content.rows[where] = self.encoder.finish(out, len(where))
        except NotFinite as error:
            clip = self._path(self.plan[self.views_of(shard.number)[where[error.row]]])
            raise UserError(f"{clip}: {error}") from error
        shard.batches -= 1
        self._write(shard)

    def _write(self, shard: "_Open") -> None:
        """Writes a shard when all of its batches have been started and have ended."""
        if shard.whole and not shard.batches:
            self.computed += len(shard.content.rows)
            self._keep_hashes(shard.number)
            self.store.write(shard.number, shard.content)

    def _of_equal_length(
        self, loading: list, numbers: range, bad: dict[int, str]
    ) -> list[tuple[list[int], Tensor]]:
        """Returns batches of decoded clips, each of one length, since no clip is padded."""
        alike: dict[Hashable, list[tuple[int, Clip]]] = {}
        for i in numbers:
            if i >= len(loading):
                break
            started = perf_counter()
            clip = loading[i].result()
            self.waited += perf_counter() - started
            loading[i] = None  # its samples are not needed any more
            if isinstance(clip, BadAudio):
                bad[i] = clip.reason
            else:
                alike.setdefault(self.resampler.alike(clip), []).append((i, clip))
        return [
            ([i for i, _ in group], self.resampler.batch([clip for _, clip in group]))
            for group in alike.values()
        ]


def _hashes(number: int) -> str:
    """Returns what the fingerprints of a shard's files are kept as."""
    return f"files-{number:06d}"


def shard_starts(lengths: Sequence[int]) -> list[int]:
    """Where each shard of clips of these lengths (samples) begins in the plan, and the end.

    A shard is as many clips as fit into _SHARD_BYTES, one at least and _SHARD_CLIPS at most; no
    batch is larger than its shard.
    """
    starts, held = [0], 0
    for number, length in enumerate(lengths):
        full = held + 4 * length > _SHARD_BYTES or number - starts[-1] == _SHARD_CLIPS
        if full and number > starts[-1]:
            starts.append(number)
            held = 0
        held += 4 * length
    return [*starts, len(lengths)] if lengths else starts
