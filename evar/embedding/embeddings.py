"""Clips and captions through an encoder, each once: decode ahead, embed in batches, keep on disk.

Linear evaluation embeds one unit of every clip; zero-shot classification and retrieval embed whole
clips, and captions, in the space that both share.
"""

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch

from evar.adapter import Adapter
from evar.data import audio
from evar.data.manifest import Manifest
from evar.embedding.engine import Engine, View, checked, full_precision
from evar.embedding.store import Shard, Store
from evar.errors import UserError, blaming
from evar.files import canonical_json

VERSION = 2  # raise it when decoding, cropping or batching changes what an encoder is given


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
    key = _key(adapter, identity, manifest, precision) | {
        "seconds": manifest.task.seconds,
        "sample_rate": adapter.sample_rate,
        "crop_seed": crop_seed,
    }
    unit = manifest.task.unit_samples(adapter.sample_rate)
    with _store(cache, key) as store:
        values, bad_views = Engine(
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
            lengths=[unit] * len(plan),
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
    key = _key(adapter, identity, manifest, precision) | {
        "space": "joint",
        "sample_rate": adapter.sample_rate,
        "clips": hashlib.sha256(repr([view.row for view in plan]).encode()).hexdigest(),
    }
    with _store(cache, key) as store:
        sorted_values, bad = Engine(
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
            lengths=[lengths[i] for i in order],
        ).run()
    values = np.empty(sorted_values.shape, np.float32)
    values[order] = sorted_values
    return values, {plan[number].row: reason for number, reason in bad.items()}


def require_joint_space(adapter: Adapter) -> None:
    """UserError for an adapter that does not embed both clips and captions."""
    name = type(adapter).__name__
    if not adapter.reads_text:
        raise UserError(f"{name} is an audio-only model: it reads no captions")
    if type(adapter.joint_dim) is not int:
        raise UserError(f"{name} must set `joint_dim`, the size of its joint space")


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
        "model": _content(adapter, identity),
        "task": f"{len(captions):,} captions",
        "captions": hashlib.sha256(canonical_json(list(captions)).encode()).hexdigest(),
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
                    with torch.inference_mode(), blaming(f"{type(adapter).__name__}.embed_text()"):
                        out = adapter.embed_text(batch)
                    expected = (len(batch), adapter.joint_dim)
                    rows.append(checked(out, expected, adapter, "embed_text"))
                    if bar is not None:
                        bar.update(len(batch))
                store.write(number, Shard(np.concatenate(rows), {}))

        adapter.to(device)
        store.fill(store.missing(len(starts)), compute)
        return np.array(store.gather(len(starts))[0])


def _content(adapter: Adapter, identity: dict) -> dict:
    """The identity without the options whose content `text_identity` has: mere places of files."""
    options = identity.get("options", {})
    kept = {k: v for k, v in options.items() if k not in adapter.text_options}
    return identity | {"options": kept}


def _key(adapter: Adapter, identity: dict, manifest: Manifest, precision: str) -> dict:
    """What every embedding of a task's clips depends on."""
    return {
        "model": _content(adapter, identity),
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


def training_rows(embeddings: Embeddings, clips: Sequence[int]) -> np.ndarray:
    """Rows of `values` for clips used in training or validation: their random crop, if any."""
    rows = embeddings.cropped[clips]
    return np.where(rows >= 0, rows, embeddings.first[clips])


def test_rows(embeddings: Embeddings, clips: Sequence[int]) -> np.ndarray:
    """Rows of `values` for clips used in testing: their first unit."""
    return embeddings.first[clips]
