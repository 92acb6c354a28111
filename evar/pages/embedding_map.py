"""The test clips' embeddings on a plane: principal components, and t-SNE of small sets."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evar import files
from evar.data import audio
from evar.data.manifest import Manifest
from evar.embedding import embeddings, store
from evar.embedding.engine import View
from evar.errors import UserError
from evar.results.record import RunRecord

TSNE_CLIPS = 2000  # at most
_SEED = 0


@dataclass(frozen=True, eq=False)
class Map:
    """Places of clips: name -> (N, 2), by method. explained: share of variance of the two PCs.

    layer: the encoder's layer that it shows; None for the embedding itself.
    """

    clips: list[str]
    places: dict[str, NDArray]
    explained: float
    layer: int | None = None


def of_run(run: RunRecord, manifest: Manifest | None, cache=None) -> Map | str:
    """Returns the map of a run's test clips, or a sentence that says why there is none."""
    if manifest is None:
        return "The map needs the data set on this disk (--data=DIR), which was not found."
    folder = files.cache_folder() if cache is None else cache
    chosen = _chosen_layer(run)
    entries = [entry for entry in store.entries(folder) if _is_of(run, entry.identity)]
    # Of probes on layers, those of every layer come before an embedding that another run left.
    for entry in sorted(entries, key=lambda entry: not _output(entry.identity)):
        try:
            found = _read(entry, manifest, folder)
        except UserError:
            continue
        if found is None:
            continue
        clips, values = found
        if not _output(entry.identity):
            return draw(clips, values)
        if chosen is not None:
            drawn = draw(clips, values[:, chosen.columns])
            return drawn if isinstance(drawn, str) else replace(drawn, layer=chosen.number)
    return _MISSING.get(run.protocol, _MISSING[""])


_MISSING = {
    "": "The embeddings of this run are not in the cache (--cache=DIR): runs without a cache leave "
    "none there.",
    "finetune": "A fine-tuned encoder leaves no embeddings in the cache.",
    "attentive": "Attentive probes read frames, not one embedding per clip. A run of this model on "
    "this task by the linear protocol leaves embeddings in the cache, which are then drawn here.",
}


@dataclass(frozen=True)
class _Chosen:
    """The layer to draw: its number, and its columns in embeddings of every layer."""

    number: int
    columns: slice


def _chosen_layer(run: RunRecord) -> _Chosen | None:
    """Returns the layer that validation chooses, or the last one of a mixture."""
    layers: Any = run.extra.get("layers")
    if not isinstance(layers, (list, tuple)) or not layers:
        return None
    number, start = run.extra.get("chosen_layer", layers[-1]["number"]), 0
    for layer in layers:
        if layer["number"] == number:
            return _Chosen(layer["number"], slice(start, start + layer["width"]))
        start += layer["width"]
    return None


def _output(identity: Mapping) -> str:
    """Returns what was kept instead of an adapter's own embedding: every layer, frames, or ""."""
    return identity.get("model", {}).get("output", "")


_OF_MODELS = ("weights", "source", "file", "files", "opened", "revision", "values", "embeds")


def _is_of(run: RunRecord, identity: dict) -> bool:
    """Returns whether cached embeddings are those of a run's model and clips."""
    model = identity.get("model", {})
    own = {**run.model.identity, "weights": run.model.weights, "source": run.model.source}
    same = all(model.get(key) == own.get(key) for key in _OF_MODELS)
    precision = run.settings.get("precision", "fp32")
    on_threads = run.settings.get("resample", "cpu") == "cpu"
    output = _output(identity)
    of_layers = run.protocol == "layers" and output.startswith("every layer")
    reading = run.settings.get("reading")  # of protocols that embed in the joint space
    return (
        same
        and (not output or of_layers)
        and run.protocol != "finetune"
        and identity.get("manifest") == run.manifest
        and identity.get("precision") == precision
        and str(identity.get("resampler")).startswith("soxr") == on_threads
        and identity.get("space") == ("joint" if reading else None)
        and (reading != "unit" or identity.get("seconds") == run.task.seconds)
        and (reading != "whole clips" or "seconds" not in identity)
        and (bool(reading) or identity.get("crop_seed") == run.settings.get("crop_seed", 42))
    )


def _read(entry: store.Entry, manifest: Manifest, folder) -> tuple[list[str], NDArray] | None:
    """File names of the test clips and their embeddings (N, D); None where a shard is missing."""
    identity = entry.identity
    plan = _plan(identity, manifest)
    if plan is None:
        return None
    kept = store.Store(folder, identity)
    shards = 0
    while kept.path(shards).exists():
        shards += 1
    if not shards:
        return None
    values, bad = kept.gather(shards)
    if len(values) != len(plan):
        return None
    clips, side = manifest.clips, manifest.table[manifest.task.column]
    test = [
        number
        for number, view in enumerate(plan)
        if view.start == 0
        and number not in bad
        and (manifest.task.folds or side[view.row] == "test")
    ]
    return [clips[plan[number].row] for number in test], np.array(values[test])


def _plan(identity: dict, manifest: Manifest) -> list[View] | None:
    """The views in the order of the cache, as evar.embedding.embeddings makes them."""
    rate = identity["sample_rate"]
    if "space" not in identity:
        return embeddings.views(manifest, sample_rate=rate, crop_seed=identity["crop_seed"])
    good = manifest.good
    chosen = good if manifest.task.folds else good[good.split == "test"]
    lengths = [
        0
        if "seconds" in identity  # units: all of one length
        else audio.resampled_length(int(frames), int(original), rate)
        for frames, original in zip(chosen.frames, chosen.sample_rate, strict=True)
    ]
    plan = [View(int(chosen.index[i]), 0) for i in np.argsort(lengths, kind="stable")]
    digest = hashlib.sha256(repr([view.row for view in plan]).encode()).hexdigest()
    return plan if digest == identity.get("clips") else None


def draw(clips: list[str], values: NDArray) -> Map | str:
    """Returns the map of embeddings (N, D): standardised, then PCA; t-SNE where N allows it."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(values) < 3 or values.shape[1] < 2:
        return "Fewer than three clips, or embeddings of one number: nothing to draw."
    values = values.astype(np.float64)
    scale = values.std(axis=0)
    values = (values - values.mean(axis=0)) / np.where(scale > 0, scale, 1)
    pca = PCA(2, svd_solver="randomized" if min(values.shape) > 500 else "full", random_state=_SEED)
    places = {"PCA": pca.fit_transform(values)}
    if 10 <= len(values) <= TSNE_CLIPS:
        perplexity = min(30.0, (len(values) - 1) / 3)
        tsne = TSNE(2, perplexity=perplexity, init="pca", random_state=_SEED)
        places["t-SNE"] = tsne.fit_transform(values.astype(np.float32))
    explained = float(pca.explained_variance_ratio_.sum())
    return Map(clips, places, explained if np.isfinite(explained) else 0.0)
