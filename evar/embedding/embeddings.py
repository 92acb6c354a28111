"""Clips and captions through an encoder, each once: decode ahead, embed in batches, keep on disk.

Linear evaluation embeds one unit of every clip; zero-shot classification and retrieval embed whole
clips, and captions, in the space that both share.
"""

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from evar.adapter import Adapter
from evar.data import audio, windows
from evar.data.manifest import Manifest
from evar.embedding import provisional, resampling, spot_check
from evar.embedding.encoder import Encoder, checked
from evar.embedding.engine import Engine, View
from evar.embedding.store import Shard, Store
from evar.errors import UserError, blaming
from evar.files import canonical_json
from evar.models import Model
from evar.precision import full_precision
from evar.runtime import Runtime

VERSION = 2  # raise it when decoding, cropping or batching changes what an encoder is given


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of a whole task.

    `values` (V, D) float32, one row a view. `first[i]` is the row of clip i's first unit,
    `cropped[i]` that of its random crop (-1: this clip has none). `owner` (V,) is the clip of each
    row where clips are heard by windows, each a row; then the other two are empty. `bad`: clips
    left out because they cannot be decoded (row in the manifest: reason). `clips_per_second`: speed
    of decoding and embedding, now or when they were computed (`Engine.clips_per_second`).
    `statistics`: what the adapter has learnt from training clips (`Adapter.fit`).
    """

    values: np.ndarray
    first: np.ndarray
    cropped: np.ndarray
    bad: dict[int, str]
    clips_per_second: float | None = None
    owner: np.ndarray | None = None
    statistics: dict | None = None


class WholeClips(NamedTuple):
    """Embeddings of whole clips, values (N, E); the rest as in `Embeddings`."""

    values: np.ndarray
    bad: dict[int, str]
    clips_per_second: float | None


def views(manifest: Manifest, *, sample_rate: int, crop_seed: int) -> list[View]:
    """Returns what must be embedded: the first unit of test clips, a random crop of the others.

    (Protocol facts, section 1.) A clip that a fold uses on both sides has both views, a clip no
    longer than the unit has one, whichever side it is on. With windows, these are the views.
    """
    task, table = manifest.task, manifest.good
    if task.windows:
        of_clip = windows.of_clip
        return [View(row, 0, span) for row in table.index for span in of_clip(manifest, row)]
    frames, rates = (table[c].to_numpy(np.int64) for c in ("frames", "sample_rate"))
    longer = audio.resampled_length(frames, rates, sample_rate) > task.unit_samples(sample_rate)
    if not longer.any():
        return [View(row, 0) for row in table.index.tolist()]
    columns = (table.index, manifest.clips[table.index], table[task.column], pd.Series(longer))
    lists = (column.tolist() for column in columns)  # as columns, far slower
    plan = []
    for row, clip, side, is_longer in zip(*lists, strict=True):
        if not is_longer or task.folds or side == "test":
            plan.append(View(row, 0))
        if is_longer and (task.folds or side != "test"):
            plan.append(View(row, audio.random_start(crop_seed, clip)))
    return plan


def embed_task(
    model: Model,
    manifest: Manifest,
    runtime: Runtime,
    *,
    crop_seed: int = 42,
    kept_in: Callable[[Path, dict], Store] = Store,
) -> Embeddings:
    """Embeds every clip of a task, or reads what an earlier run has kept in `runtime.cache`.

    kept_in: makes the store from the cache's folder and what decides the content. Raises BadAudio
    for a clip that cannot be decoded, unless `runtime.skip_bad`; UserError where the adapter
    returns anything but finite (B, D) float32.
    """
    with engine_for_task(model, manifest, runtime, crop_seed, kept_in) as engine:
        values, bad_views = engine.run()
        provisional.finish(engine)
        spot_check.require_same(model, engine, values)
    bad = {engine.plan[number].row: reason for number, reason in bad_views.items()}
    if manifest.task.windows:
        owner, none = np.array([view.row for view in engine.plan]), np.zeros(0, np.int64)
        return Embeddings(
            values, none, none, bad, engine.clips_per_second, owner, engine.statistics
        )
    first = np.full(len(manifest.table), -1)
    cropped = np.full(len(manifest.table), -1)
    for number, view in enumerate(engine.plan):
        (cropped if view.start else first)[view.row] = number
    speed = engine.clips_per_second
    return Embeddings(values, first, cropped, bad, speed, statistics=engine.statistics)


def fill_task(
    model: Model, manifest: Manifest, runtime: Runtime, *, part: tuple[int, int] = (0, 1)
) -> int:
    """Computes and keeps the embeddings of `embed_task`, or part I of N; returns their number.

    Parts are shards I, I + N, ...: fixed, so that they need no coordination.
    """
    with engine_for_task(model, manifest, runtime, 42, Store) as engine:
        return engine.fill(part)


@contextlib.contextmanager
def engine_for_task(
    model: Model,
    manifest: Manifest,
    runtime: Runtime,
    crop_seed: int = 42,
    kept_in: Callable[[Path, dict], Store] = Store,
) -> Iterator[Engine]:
    """Yields the engine that embeds one unit of every clip, as `embed_task` runs it."""
    rate = model.adapter.sample_rate
    plan = views(manifest, sample_rate=rate, crop_seed=crop_seed)
    key = _key(model, manifest, runtime) | {
        "seconds": manifest.task.seconds,
        "sample_rate": rate,
        "crop_seed": crop_seed,
        **({"hop": manifest.task.windows.hop} if manifest.task.windows else {}),
    }
    manifest = provisional.manifest_for(manifest, runtime.cache, key)
    key["manifest"] = manifest.sha256
    unit = manifest.task.unit_samples(rate)
    encoder = Encoder(model.adapter.to(runtime.device), runtime.device, runtime.precision)
    with _store(runtime.cache, key, kept_in) as store, provisional.in_use(store, manifest):
        lengths = [unit] * len(plan)
        yield Engine(encoder, manifest, plan, store, runtime, lengths=lengths, samples=unit)


def embed_whole(
    model: Model,
    manifest: Manifest,
    rows: Iterable[int],
    runtime: Runtime,
    *,
    joint: bool = True,
    unit: bool = False,
) -> WholeClips:
    """Returns embeddings of whole clips (N, E), the bad ones among them, and the speed.

    `rows` are rows of the manifest's table. Clips are read from beginning to end; how an encoder
    treats long ones is the adapter's business. `joint`: in the space shared with captions, else
    as `Adapter.embed` gives them. `unit`: each clip is cut or zero-padded at its end to
    the task's unit. Errors are those of `embed_task`.
    """
    chosen = engine_for_whole(model, manifest, rows, runtime, joint=joint, unit=unit)
    with chosen as (engine, order):
        sorted_values, bad = engine.run()
        spot_check.require_same(model, engine, sorted_values)
    values = np.empty(sorted_values.shape, np.float32)
    values[order] = sorted_values
    bad = {engine.plan[number].row: reason for number, reason in bad.items()}
    return WholeClips(values, bad, engine.clips_per_second)


def fill_whole(
    model: Model,
    manifest: Manifest,
    runtime: Runtime,
    *,
    part: tuple[int, int] = (0, 1),
    unit: bool = False,
) -> int:
    """Computes and keeps the joint-space embeddings of the test side's clips, or part I of N."""
    with engine_for_test_side(model, manifest, runtime, unit=unit) as engine:
        return engine.fill(part)


@contextlib.contextmanager
def engine_for_test_side(
    model: Model, manifest: Manifest, runtime: Runtime, *, unit: bool = False
) -> Iterator[Engine]:
    """Yields the engine that embeds the test side in the joint space: whole, or `seconds` each."""
    side = manifest.test_side()
    rows = side.good.index if side.task.folds else side.good.index[side.good.split == "test"]
    with engine_for_whole(model, side, rows, runtime, joint=True, unit=unit) as (engine, _):
        yield engine


@contextlib.contextmanager
def engine_for_whole(
    model: Model,
    manifest: Manifest,
    rows: Iterable[int],
    runtime: Runtime,
    *,
    joint: bool,
    unit: bool = False,
) -> Iterator[tuple[Engine, np.ndarray]]:
    """Yields the engine of `embed_whole`, and the row that each view belongs to."""
    rate = model.adapter.sample_rate
    chosen = manifest.table.loc[list(rows)]
    samples = manifest.task.unit_samples(rate) if unit else None
    lengths = [
        samples or audio.resampled_length(int(frames), int(original), rate)
        for frames, original in zip(chosen.frames, chosen.sample_rate, strict=True)
    ]
    order = np.argsort(lengths, kind="stable")  # clips of one length share a batch
    plan = [View(int(chosen.index[i]), 0) for i in order]
    key = _key(model, manifest, runtime) | {
        "space": "joint" if joint else "clip",
        "sample_rate": rate,
        "clips": hashlib.sha256(repr([view.row for view in plan]).encode()).hexdigest(),
        **({"seconds": manifest.task.seconds} if unit else {}),
    }
    encoder = Encoder(
        model.adapter.to(runtime.device), runtime.device, runtime.precision, joint=joint
    )
    with _store(runtime.cache, key) as store:
        in_order = [lengths[i] for i in order]
        engine = Engine(encoder, manifest, plan, store, runtime, lengths=in_order, samples=samples)
        yield engine, order


def require_joint_space(adapter: Adapter) -> None:
    """Raises UserError for an adapter that does not embed both clips and captions."""
    name = type(adapter).__name__
    if not adapter.reads_text:
        raise UserError(f"{name} is an audio-only model: it reads no captions")
    if type(adapter.joint_dim) is not int:
        raise UserError(f"{name} must set `joint_dim`, the size of its joint space")


def embed_captions(
    model: Model, captions: Sequence[str], runtime: Runtime, *, batch_size: int = 64
) -> np.ndarray:
    """Returns joint-space embeddings (N, E) of captions, always computed in float32.

    Raises UserError where the adapter returns anything but finite (N, E) float32.
    """
    adapter = model.adapter
    per_shard, width = 64 * batch_size, Encoder(adapter, joint=True).dim
    starts = range(0, len(captions), per_shard)
    key = {
        "model": _content(model) | adapter.text_identity(),
        "task": f"{len(captions):,} captions",
        "captions": hashlib.sha256(canonical_json(list(captions)).encode()).hexdigest(),
        "batch_size": batch_size,
        "version": VERSION,
    }
    bar = runtime.progress.bar("captions", "caption", total=len(captions))
    with _store(runtime.cache, key) as store, full_precision(), bar as shown:

        def compute(claims: Iterator[int]) -> None:
            for number in claims:
                part = captions[starts[number] : starts[number] + per_shard]
                rows = []
                for at in range(0, len(part), batch_size):
                    batch = list(part[at : at + batch_size])
                    with torch.inference_mode(), blaming(f"{type(adapter).__name__}.embed_text()"):
                        out = adapter.embed_text(batch)
                    rows.append(checked(out, (len(batch), width), adapter, "embed_text"))
                    shown.update(len(batch))
                store.write(number, Shard(np.concatenate(rows), {}))

        adapter.to(runtime.device)
        store.fill(store.missing(len(starts)), compute)
        return np.array(store.gather(len(starts))[0])


def _content(model: Model) -> dict:
    """Returns the identity without the text tower, and without options that `text_identity` has."""
    known = model.adapter.text_options
    kept = {k: v for k, v in model.identity["options"].items() if k not in known}
    return {k: v for k, v in model.identity.items() if k != "text"} | {"options": kept}


def _key(model: Model, manifest: Manifest, runtime: Runtime) -> dict:
    """Returns what every embedding of a task's clips depends on."""
    return {
        "model": _content(model),
        "task": f"{manifest.task.name} {manifest.task.version}",
        "manifest": manifest.sha256,
        "precision": runtime.precision,
        "resampler": resampling.identity(runtime),
        "version": VERSION,
    }


@contextlib.contextmanager
def _store(
    cache: Path | None, key: dict, kept_in: Callable[[Path, dict], Store] = Store
) -> Iterator[Store]:
    """Yields the store of a key; without a cache, a temporary one that is removed afterwards."""
    with contextlib.ExitStack() as stack:
        folder = cache or stack.enter_context(tempfile.TemporaryDirectory(prefix="evar-"))
        yield kept_in(Path(folder), key)


def of_views(embedded: Embeddings, y: np.ndarray) -> np.ndarray:
    """Returns the targets of views (V, ...) from those of clips (N, ...): views share a label."""
    if embedded.owner is not None:
        return y[embedded.owner]
    out = np.zeros((len(embedded.values), *y.shape[1:]), y.dtype)
    for rows in (embedded.first, embedded.cropped):
        out[rows[rows >= 0]] = y[rows >= 0]
    return out


def training_rows(embeddings: Embeddings, clips: np.ndarray) -> np.ndarray:
    """Rows of `values` for clips used in training or validation: their random crop, if any."""
    if embeddings.owner is not None:
        return _windows_of(embeddings, clips)
    rows = embeddings.cropped[clips]
    return np.where(rows >= 0, rows, embeddings.first[clips])


def test_rows(embeddings: Embeddings, clips: np.ndarray) -> np.ndarray:
    """Rows of `values` for clips used in testing: their first unit."""
    if embeddings.owner is not None:
        return _windows_of(embeddings, clips)
    return embeddings.first[clips]


def _windows_of(embeddings: Embeddings, clips: np.ndarray) -> np.ndarray:
    assert embeddings.owner is not None
    return np.flatnonzero(np.isin(embeddings.owner, clips))
