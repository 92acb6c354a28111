"""Clips through one encoder: threads decode ahead, batches are embedded, shards are written."""

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evar.adapter import Adapter
from evar.data import audio
from evar.data.manifest import Manifest
from evar.embedding.store import Shard, Store
from evar.errors import BadAudio, UserError, blaming

_SHARD_BYTES = 2**26  # of waveforms; two shards are in memory at a time
_SHARD_CLIPS = 512
_UNSTEADY = 1e-2  # relative difference; honest encoders are below 1e-4 (evar.check)
_IN_FLIGHT = 2  # batches that wait for a GPU while the next ones are decoded and sent


@dataclass(frozen=True)
class View:
    """One way to look at a clip: its row in the manifest, and where a longer clip is cropped."""

    row: int
    start: int  # 0: its first unit


@dataclass
class Engine:
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
    lengths: list[int]  # of each view in the plan, in samples; an upper bound serves

    def __post_init__(self):
        self.batch_size = self.batch_size or (16 if self.device == "cpu" else 64)
        self.joint = self.samples is None
        self.dim = self.adapter.joint_dim if self.joint else self.adapter.embed_dim
        self.starts = _shard_starts(self.lengths)
        self.shards = len(self.starts) - 1
        self.names = self.manifest.table.file
        self.workers = os.cpu_count() or 1
        self.trusted = self.precision != "fp32"  # bfloat16 rounds by the size of a batch

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
        return range(self.starts[shard], self.starts[shard + 1])

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

        with torch.inference_mode(), blaming(f"{type(self.adapter).__name__}.fit()"):
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
                where, clips = zip(*group, strict=True)
                batch = np.stack(clips)
                started.append((list(where), self._start(batch)))
                if not self.trusted:
                    finish(*started.pop(0))
                    self._require_steady(batch, rows[list(where)])
                elif self.device == "cpu" or len(started) > _IN_FLIGHT:
                    finish(*started.pop(0))
            if self.bar is not None:
                self.bar.update(sum(map(len, alike.values())))
        for batch_started in started:
            finish(*batch_started)
        self.store.write(number, Shard(rows, bad))

    def _require_steady(self, batch: np.ndarray, rows: np.ndarray) -> None:
        """Refuse an encoder that gives the quietest clip of a run's first batch another embedding
        when it is alone: its scores would be chance, or depend on the size of batches.
        """
        self.trusted = True
        quietest = int(np.square(batch).mean(axis=1).argmin())
        alone = _embedded(self.adapter, self._start(batch[quietest, None]), 1, self.joint)[0]
        error = np.linalg.norm(alone - rows[quietest]) / max(np.linalg.norm(alone), 1e-12)
        if error > _UNSTEADY:
            raise UserError(
                f"{type(self.adapter).__name__}: the same clip, alone, gets another embedding than "
                f"in its batch (relative difference {error:.2g}): no score would mean anything. "
                "`python -m evar.check MODEL` shows what is wrong"
            )

    def _start(self, batch: np.ndarray):
        return _start(self.adapter, batch, self.device, self.precision, self.joint)


def _shard_starts(lengths: list[int]) -> list[int]:
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
    method = "embed_joint" if joint else "embed"
    blame = blaming(f"{type(adapter).__name__}.{method}() of {tuple(batch.shape)} samples")
    with torch.inference_mode(), mixed, blame:
        waveforms = waveforms.to(device)
        out = adapter.embed_joint(waveforms) if joint else adapter.embed(waveforms)
    return out.float() if precision == "bf16" and isinstance(out, Tensor) else out


def _embedded(adapter: Adapter, out, rows: int, joint: bool) -> np.ndarray:
    """What `_start` gave, on the CPU and checked; waits for a GPU."""
    dim = adapter.joint_dim if joint else adapter.embed_dim
    return checked(out, (rows, dim), adapter, "embed_joint" if joint else "embed")


def checked(out, expected: tuple[int, int], adapter: Adapter, method: str) -> np.ndarray:
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
