"""Embeddings without a score: for a person to use, or for the cache of a later run."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evar import files, models, run
from evar.options import existing_folder
from evar.runtime import usable

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pandas as pd

    from evar.data.opening import AnyTask
    from evar.models import Model
    from evar.run import AnyModel


def embed(
    model: "AnyModel",
    sounds: "AnyTask",
    *,
    weights=None,
    seconds: float | None = None,
    data=None,
    **options,
) -> "tuple[pd.DataFrame, np.ndarray]":
    """Returns a table with one row per clip, and the clips' embeddings (N, D) float32.

    sounds: a folder, a sound file, or a task as `evaluate` takes it. seconds: embed the first so
    many seconds of each clip, padded with silence; default: clips are read whole. options: fields
    of `evar.runtime.Runtime` and options of the model's adapter. Clips that cannot be decoded
    raise BadAudio, or are left out with `skip_bad=True`.

    >>> import evar
    >>> table, embeddings = evar.embed("logmel", "demo", device="cpu")
    >>> len(table) == len(embeddings), embeddings.dtype.name
    (True, 'float32')
    """
    from evar.data import opening
    from evar.embedding import embeddings

    data = existing_folder("data", data)
    _, runtime, of_adapter = run.split_options(None, model, options)
    runtime = usable(runtime)
    if isinstance(sounds, (str, Path)) and Path(sounds).exists() and not _is_table(sounds):
        manifest = opening.open_sounds(sounds, progress=runtime.progress)
    else:
        manifest = opening.open_task(sounds, data=data, progress=runtime.progress)
    manifest.require_usable(partial=True, skip_bad=runtime.skip_bad)
    loaded = _load(model, weights, of_adapter)
    rows = manifest.good.index
    if seconds is None:
        values, bad, _ = embeddings.embed_whole(loaded, manifest, rows, runtime, joint=False)
    else:
        whole = replace(manifest.task, seconds=seconds, folds=(), trains=False)
        table = manifest.table.assign(split="test")
        first = replace(manifest, task=whole, table=table)
        embedded = embeddings.embed_task(loaded, first, runtime)
        values, bad = embedded.values[embedded.first[rows]], embedded.bad
    kept = ~rows.isin(list(bad))
    return manifest.table.loc[rows[kept]].reset_index(drop=True), values[kept]


def fill_cache(
    model: "AnyModel",
    task: "AnyTask",
    *,
    part: tuple[int, int] = (0, 1),
    weights=None,
    seconds: float | None = None,
    data=None,
    partial: bool = False,
    **options,
) -> str:
    """Computes and keeps the embeddings that protocols need of a task; returns what was done.

    Of a task with labels, the units that the probes use; of an audio-language model also its joint
    embeddings of the test clips. part: (I, N) computes only the I-th of N parts, with no
    coordination between them. Other arguments are those of `evaluate`.
    """
    from evar.data import opening, own_sounds
    from evar.embedding import embeddings
    from evar.protocols import zeroshot

    data = existing_folder("data", data)
    _, runtime, of_adapter = run.split_options(None, model, options)
    if runtime.cache is None:
        runtime = replace(runtime, cache=files.cache_folder())
    captioned = own_sounds.is_csv(str(task)) and own_sounds.has_captions(task)
    manifest = opening.open_task(
        task, data=data, seconds=seconds, captioned=captioned, progress=runtime.progress
    )
    manifest.require_usable(partial=partial, skip_bad=runtime.skip_bad)
    runtime = usable(runtime)
    loaded = _load(model, weights, of_adapter)
    done = []
    if manifest.task.labelled and manifest.task.trains:
        count = embeddings.fill_task(loaded, manifest, runtime, part=part)
        done.append(f"{count:,} clips for the probes")
    if loaded.adapter.reads_text:
        unit = zeroshot.usual_clips(loaded, manifest.task) == "unit"
        count = embeddings.fill_whole(loaded, manifest, runtime, part=part, unit=unit)
        read = "units of test clips" if unit else "whole test clips"
        done.append(f"{count:,} {read} in the joint space")
    of = "" if part == (0, 1) else f" (part {part[0]}/{part[1]})"
    what = ", ".join(done) or "nothing: this model embeds nothing that the task needs"
    return f"{loaded.name} {manifest.task.name}{of}: {what}, kept in {runtime.cache}"


def _load(model: "AnyModel", weights, options: "Mapping[str, object]") -> "Model":
    return (
        model if isinstance(model, models.Model) else models.load(model, weights=weights, **options)
    )


def _is_table(sounds) -> bool:
    from evar.data import own_sounds
    from evar.task import names

    return own_sounds.is_csv(str(sounds)) or str(sounds) in names()
