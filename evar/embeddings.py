"""Clips and captions through an encoder, each once: decode ahead, embed in batches, keep on disk.

Linear evaluation embeds one unit of every clip; zero-shot classification and retrieval embed whole
clips, and captions, in the space that both share.
"""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor

from evar import audio
from evar.adapter import Adapter
from evar.clips import Manifest
from evar.errors import BadAudio, UserError
from evar.store import Shard, Store

VERSION = 1  # raise it when decoding, cropping or batching changes what an encoder is given
_SHARD_BYTES = 2**26  # of waveforms; two shards are in memory at a time
_IN_FLIGHT = 2  # batches that wait for a GPU while the next ones are decoded and sent


@dataclass(frozen=True)
class View:
    """One way to look at a clip: its row in the manifest, and where a longer clip is cropped."""

    row: int
    start: int  # 0: its first unit


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of a whole task.

    `values` (V, D) float32, one row a view. `first[i]` is the row of clip i's first unit,
    `cropped[i]` that of its random crop (-1: this clip has none). `bad`: clips left out because
    they cannot be decoded (row in the manifest: reason).
    """

    values: np.ndarray
    first: np.ndarray
    cropped: np.ndarray
    bad: dict[int, str]


def views(manifest: Manifest, *, sample_rate: int, crop_seed: int) -> list[View]:
    """What must be embedded: the first unit of test clips, a random crop of the others.

    (Protocol facts, section 1.) A clip that a fold uses on both sides has both views, a clip no
    longer than the unit has one, whichever side it is on.
    """
    task, table = manifest.task, manifest.good
    unit = task.unit_samples(sample_rate)
    columns = (table.file, table[task.column], table.frames, table.sample_rate)
    plan = []
    for row, file, side, frames, rate in zip(table.index, *columns, strict=True):
        longer = audio.resampled_length(int(frames), int(rate), sample_rate) > unit
        if not longer or task.folds or side == "test":
            plan.append(View(row, 0))
        if longer and (task.folds or side != "test"):
            plan.append(View(row, audio.random_start(crop_seed, file)))
    return plan


def embed_task(
    adapter: Adapter,
    identity: dict,
    manifest: Manifest,
    *,
    cache: Path | None,
    crop_seed: int = 42,
    device: str = "cpu",
    precision: str = "fp32",
    batch_size: int | None = None,
    skip_bad: bool = False,
    progress: Callable | None = None,
) -> Embeddings:
    """Embed every clip of a task, or read what an earlier run has kept.

    `identity` is what the adapter's embeddings depend on (`evar.models.identity`). `cache=None`
    keeps nothing. `precision`: "fp32", or "bf16" for mixed precision behind the front end.
    Raises BadAudio for a clip that cannot be decoded, unless `skip_bad`; UserError where the
    adapter gives anything but finite (B, D) float32.
    """
    plan = views(manifest, sample_rate=adapter.sample_rate, crop_seed=crop_seed)
    key = _key(identity, manifest, precision) | {
        "seconds": manifest.task.seconds,
        "sample_rate": adapter.sample_rate,
        "crop_seed": crop_seed,
    }
    unit = manifest.task.unit_samples(adapter.sample_rate)
    with _store(cache, key) as store:
        values, bad_views = _Engine(
            adapter.to(device),
            manifest,
            plan,
            store,
            device,
            precision,
            batch_size,
            skip_bad,
            progress,
            samples=unit,
            longest=unit,
        ).run()
    first = np.full(len(manifest.table), -1)
    cropped = np.full(len(manifest.table), -1)
    for number, view in enumerate(plan):
        (cropped if view.start else first)[view.row] = number
    bad = {plan[number].row: reason for number, reason in bad_views.items()}
    return Embeddings(values, first, cropped, bad)


def embed_whole(
    adapter: Adapter,
    identity: dict,
    manifest: Manifest,
    rows: Sequence[int],
    *,
    cache: Path | None,
    device: str = "cpu",
    precision: str = "fp32",
    batch_size: int | None = None,
    skip_bad: bool = False,
    progress: Callable | None = None,
) -> tuple[np.ndarray, dict[int, str]]:
    """Joint-space embeddings (N, E) of whole clips, and the bad ones among them (row: reason).

    `rows` are rows of the manifest's table. Clips are read from beginning to end; what an encoder
    does with long ones is its own business. Options and errors are those of `embed_task`.
    """
    chosen = manifest.table.loc[list(rows)]
    lengths = [
        audio.resampled_length(int(frames), int(rate), adapter.sample_rate)
        for frames, rate in zip(chosen.frames, chosen.sample_rate, strict=True)
    ]
    order = np.argsort(lengths, kind="stable")  # clips of one length share a batch
    plan = [View(int(chosen.index[i]), 0) for i in order]
    key = _key(identity, manifest, precision) | {
        "space": "joint",
        "sample_rate": adapter.sample_rate,
        "clips": hashlib.sha256(repr([view.row for view in plan]).encode()).hexdigest(),
    }
    with _store(cache, key) as store:
        sorted_values, bad = _Engine(
            adapter.to(device),
            manifest,
            plan,
            store,
            device,
            precision,
            batch_size,
            skip_bad,
            progress,
            samples=None,
            longest=max(lengths),
        ).run()
    values = np.empty(sorted_values.shape, np.float32)
    values[order] = sorted_values
    return values, {plan[number].row: reason for number, reason in bad.items()}


def embed_captions(
    adapter: Adapter,
    identity: dict,
    captions: Sequence[str],
    *,
    cache: Path | None,
    device: str = "cpu",
    batch_size: int = 64,
    progress: Callable | None = None,
) -> np.ndarray:
    """Joint-space embeddings (N, E) of captions. `identity` says which text tower reads them.

    Always in float32. Raises UserError where the adapter gives anything but finite (N, E) float32.
    """
    per_shard = 64 * batch_size
    starts = range(0, len(captions), per_shard)
    key = {
        "model": identity,
        "task": f"{len(captions):,} captions",
        "captions": hashlib.sha256("\n".join(captions).encode()).hexdigest(),
        "batch_size": batch_size,
        "version": VERSION,
    }
    bar = progress(total=len(captions)) if progress else None
    with _store(cache, key) as store, full_precision(), bar or contextlib.nullcontext():

        def compute(claims: Iterator[int]) -> None:
            for number in claims:
                part = captions[starts[number] : starts[number] + per_shard]
                rows = []
                for at in range(0, len(part), batch_size):
                    batch = list(part[at : at + batch_size])
                    with torch.inference_mode():
                        out = adapter.embed_text(batch)
                    expected = (len(batch), adapter.joint_dim)
                    rows.append(_checked(out, expected, adapter, "embed_text"))
                    if bar is not None:
                        bar.update(len(batch))
                store.write(number, Shard(np.concatenate(rows), {}))

        adapter.to(device)
        store.fill(store.missing(len(starts)), compute)
        return np.array(store.gather(len(starts))[0])


def _key(identity: dict, manifest: Manifest, precision: str) -> dict:
    """What every embedding of a task's clips depends on."""
    return {
        "model": identity,
        "task": f"{manifest.task.name} {manifest.task.version}",
        "manifest": manifest.sha256,
        "precision": precision,
        "resampler": f"soxr HQ {soxr.__version__}",
        "version": VERSION,
    }


@contextlib.contextmanager
def _store(cache: Path | None, key: dict) -> Iterator[Store]:
    """The store of a key; without a cache one that is gone afterwards."""
    with contextlib.ExitStack() as stack:
        folder = cache or stack.enter_context(tempfile.TemporaryDirectory(prefix="evar-"))
        yield Store(Path(folder), key)


@dataclass
class _Engine:
    """Decoding threads feed one encoder; shard by shard, so that memory stays flat."""

    adapter: Adapter
    manifest: Manifest
    plan: list[View]
    store: Store
    device: str
    precision: str
    batch_size: int | None
    skip_bad: bool
    progress: Callable | None
    samples: int | None  # of every clip, as a unit for `embed`; None: whole, for `embed_joint`
    longest: int  # samples of the longest clip

    def __post_init__(self):
        self.batch_size = self.batch_size or (16 if self.device == "cpu" else 64)
        self.joint = self.samples is None
        self.dim = self.adapter.joint_dim if self.joint else self.adapter.embed_dim
        self.per_shard = max(16, min(512, _SHARD_BYTES // (4 * self.longest)))
        self.shards = -(-len(self.plan) // self.per_shard)
        self.names = self.manifest.table.file
        self.workers = os.cpu_count() or 1

    def run(self) -> tuple[np.ndarray, dict[int, str]]:
        if self.adapter.fit_clips:
            self.adapter.fitted(self.store.once("fit", self._fit))
        bar = self.progress(total=len(self.plan)) if self.progress else None
        with full_precision(), bar or contextlib.nullcontext():
            self.bar = bar
            todo = self.store.missing(self.shards)
            if bar is not None:
                bar.update(len(self.plan) - sum(len(self._rows(n)) for n in todo))
            self.store.fill(todo, self._compute)
        values, bad = self.store.gather(self.shards)
        if bad and not self.skip_bad:
            number, reason = next(iter(bad.items()))
            raise BadAudio(self.manifest.root / self.names[self.plan[number].row], reason)
        return values, bad

    def _rows(self, shard: int) -> range:
        return range(shard * self.per_shard, min(len(self.plan), (shard + 1) * self.per_shard))

    def _load(self, view: View) -> np.ndarray | BadAudio:
        try:
            return audio.load_clip(
                self.manifest.root / self.names[view.row],
                sample_rate=self.adapter.sample_rate,
                samples=self.samples,
                start=view.start,
                silence=self.manifest.task.silence,
            )
        except BadAudio as error:
            if not self.skip_bad:
                raise
            return error

    def _fit(self) -> dict:
        """Show the adapter evenly spaced training clips, none of whose labels it sees.

        In cross-validation every clip is a training clip of some fold, and one fit serves all.
        """
        task, table = self.manifest.task, self.manifest.table
        train = [
            view for view in self.plan if task.folds or table[task.column][view.row] == "train"
        ]
        if not train:
            raise UserError(
                f"{task.name}: no training clip is left to fit {type(self.adapter).__name__} to"
            )
        count = min(len(train), self.adapter.fit_clips)
        chosen = [train[i * len(train) // count] for i in range(count)]

        seen: list[int] = []

        def batches() -> Iterator[Tensor]:
            with ThreadPoolExecutor(self.workers) as pool:
                for at in range(0, count, self.batch_size):
                    loaded = pool.map(self._load, chosen[at : at + self.batch_size])
                    clips = [clip for clip in loaded if isinstance(clip, np.ndarray)]
                    if clips:
                        seen.append(len(clips))
                        yield torch.from_numpy(np.stack(clips)).to(self.device)
            if not seen:
                raise UserError(f"{task.name}: no training clip can be decoded: nothing to learn")

        with torch.inference_mode():
            return self.adapter.fit(batches())

    def _compute(self, claims: Iterator[int]) -> None:
        """Compute and write the claimed shards, the next one decoding while one is embedded."""
        pool = ThreadPoolExecutor(self.workers)
        try:
            ahead: list[tuple[int, list[Future]]] = []
            for number in claims:
                ahead.append(
                    (number, [pool.submit(self._load, self.plan[i]) for i in self._rows(number)])
                )
                if len(ahead) == 2:
                    self._write(*ahead.pop(0))
            while ahead:
                self._write(*ahead.pop(0))
        finally:
            pool.shutdown(cancel_futures=True)

    def _write(self, number: int, loading: list[Future]) -> None:
        rows = np.full((len(loading), self.dim), np.nan, np.float32)
        bad: dict[int, str] = {}
        started: list[tuple[list[int], Tensor]] = []  # batches that a GPU may still be at work on

        def finish(where: list[int], out: Tensor) -> None:
            rows[where] = _embedded(self.adapter, out, len(where), self.joint)

        for at in range(0, len(loading), self.batch_size):
            alike: dict[int, list[tuple[int, np.ndarray]]] = {}  # by length: no clip is padded
            for i in range(at, min(at + self.batch_size, len(loading))):
                clip = loading[i].result()
                loading[i] = None  # its samples are not needed any more
                if isinstance(clip, BadAudio):
                    bad[i] = clip.reason
                else:
                    alike.setdefault(len(clip), []).append((i, clip))
            for group in alike.values():
                where, batch = zip(*group, strict=True)
                started.append((list(where), self._start(np.stack(batch))))
                if self.device == "cpu" or len(started) > _IN_FLIGHT:
                    finish(*started.pop(0))
            if self.bar is not None:
                self.bar.update(sum(map(len, alike.values())))
        for batch_started in started:
            finish(*batch_started)
        self.store.write(number, Shard(rows, bad))

    def _start(self, batch: np.ndarray):
        return _start(self.adapter, batch, self.device, self.precision, self.joint)


def embed_batch(
    adapter: Adapter,
    batch: np.ndarray,
    device: str = "cpu",
    precision: str = "fp32",
    *,
    joint: bool = False,
) -> np.ndarray:
    """(B, S) float32 waveforms -> (B, D) float32 embeddings (`joint`: (B, E)), checked.

    Raises UserError where the adapter gives another shape, another dtype or values that are not
    finite.
    """
    out = _start(adapter, batch, device, precision, joint)
    return _embedded(adapter, out, len(batch), joint)


def _start(adapter: Adapter, batch: np.ndarray, device: str, precision: str, joint: bool):
    """Hand a batch to the encoder. A GPU returns before it is done: nothing here waits for it."""
    waveforms = torch.from_numpy(batch)
    if torch.device(device).type == "cuda":
        waveforms = waveforms.pin_memory().to(device, non_blocking=True)
    mixed = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")
    with torch.inference_mode(), mixed:
        waveforms = waveforms.to(device)
        out = adapter.embed_joint(waveforms) if joint else adapter.embed(waveforms)
    return out.float() if precision == "bf16" and isinstance(out, Tensor) else out


def _embedded(adapter: Adapter, out, rows: int, joint: bool) -> np.ndarray:
    """What `_start` gave, on the CPU and checked; waits for a GPU."""
    dim = adapter.joint_dim if joint else adapter.embed_dim
    return _checked(out, (rows, dim), adapter, "embed_joint" if joint else "embed")


def _checked(out, expected: tuple[int, int], adapter: Adapter, method: str) -> np.ndarray:
    """What an adapter gave, as an array; UserError where it is not what was promised."""
    name = f"{type(adapter).__name__}.{method}"
    remedy = "`python -m evar.check MODEL` shows where"
    if not isinstance(out, Tensor):
        raise UserError(f"{name} gave a {type(out).__name__}, not a tensor; {remedy}")
    if tuple(out.shape) != expected:
        raise UserError(f"{name} gave shape {tuple(out.shape)}, not {expected}; {remedy}")
    if out.dtype != torch.float32:
        raise UserError(f"{name} gave {out.dtype}, not torch.float32; {remedy}")
    if not torch.isfinite(out).all():
        raise UserError(f"{name} gave values that are not finite (NaN or inf); {remedy}")
    return out.cpu().numpy()


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Float32 means float32: no TF32 in convolutions or matrix products on a GPU."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def training_rows(embeddings: Embeddings, clips: Sequence[int]) -> np.ndarray:
    """Rows of `values` for clips used in training or validation: their random crop, if any."""
    rows = embeddings.cropped[clips]
    return np.where(rows >= 0, rows, embeddings.first[clips])


def test_rows(embeddings: Embeddings, clips: Sequence[int]) -> np.ndarray:
    """Rows of `values` for clips used in testing: their first unit."""
    return embeddings.first[clips]
