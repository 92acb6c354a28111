"""Probes on the layers of an encoder: one on each of them, or one on their learned mixture."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evar.embedding.layers import Columns, Layer
from evar.errors import UserError
from evar.probing import autograd, probe, rates
from evar.probing.layerweights import Layers, WeightedLayers
from evar.probing.prepared import Prepared
from evar.probing.probe import ProbeSettings
from evar.scoring import statistics

Report = Callable[[int, int], object]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What probes on layers found.

    records[seed][fold]: of the probe that counts. scores[seed][fold]: (n, C) of the test clips.
    extra: what the result says beyond that. table: one row per layer, seed and fold.
    """

    records: list[list[dict]]
    scores: list[list[NDArray]]
    extra: dict[str, object]
    table: pd.DataFrame


def each(
    task: Prepared,
    layers: Sequence[Layer],
    seeds: Sequence[int],
    settings: ProbeSettings,
    lr: float | str,
    *,
    device: str,
    on_epoch: Report,
) -> Outcome:
    """Trains a probe on every layer; in each seed and fold the best on validation counts.

    Of equally good layers the first. `extra`: the curve, mean test and validation scores of each
    layer with the interval over runs, and `chosen_layer`, the best by mean validation score.
    """
    grid = rates.rates_of(lr)
    jobs = [
        probe.Job(s.train, s.valid, s.test, seed, stream, lr=rate, features=number)
        for seed in seeds
        for stream, s in enumerate(task.sides)
        for number in range(len(layers))
        for rate in grid
    ]
    fitted = probe.fit(
        Columns(task.embedded.values, layers),
        task.of_views,
        jobs,
        settings,
        metric=task.metric,
        device=device,
        overwrite_x=True,
        on_epoch=on_epoch,
    )
    tried = iter(rates.grouped(fitted, grid))
    rows: list[dict[str, Any]] = []
    records: list[list[dict]] = []
    scores: list[list[NDArray]] = []
    for seed in seeds:
        records.append([])
        scores.append([])
        for fold in range(len(task.folds)):
            of_layers = [next(tried) for _ in layers]
            found: list[dict[str, Any]] = [
                {"layer": layer.number, **task.trained_record(fold, of_layer)}
                for layer, of_layer in zip(layers, of_layers, strict=True)
            ]
            rows += [{"seed": seed, **record} for record in found]
            best = int(np.argmax([t[rates.best(t)].goodness for t in of_layers]))
            records[-1].append(found[best])
            logits = of_layers[best][rates.best(of_layers[best])].logits
            scores[-1].append(probe.predicted_scores(logits))
    table = pd.DataFrame(rows)[["layer", "seed", "fold", "score", "valid_score"]]
    curve = [_point(table[table.layer == layer.number]) for layer in layers]
    direction = max if task.metric.higher_is_better else min
    chosen = direction(curve, key=lambda point: point["valid"])["layer"]
    return Outcome(records, scores, {"curve": curve, "chosen_layer": chosen}, table)


def _point(of_layer: pd.DataFrame) -> dict[str, Any]:
    """One layer of the curve: the mean over runs of the mean over folds, and its interval."""
    runs = of_layer.groupby("seed", sort=False)[["score", "valid_score"]].mean()
    return {
        "layer": int(of_layer.layer.iloc[0]),
        **asdict(statistics.over_runs(runs.score)),
        "valid": float(runs.valid_score.mean()),
    }


def weighted(
    task: Prepared,
    layers: Sequence[Layer],
    seeds: Sequence[int],
    settings: ProbeSettings,
    lr: float | str,
    *,
    device: str,
    on_epoch: Report,
) -> Outcome:
    """Trains a probe on the learned mixture of all layers that are as wide as the last.

    `extra`: the mean weight of each layer. Raises UserError where only the last is so wide.
    """
    mixed = [i for i, layer in enumerate(layers) if layer.width == layers[-1].width]
    if len(mixed) < 2:
        raise UserError(
            "--layers=weighted mixes layers of one width, and no other layer of this encoder is as "
            f"wide as its last ({layers[-1].width}): --layers=each scores them one by one"
        )
    source = Layers(_stacked(task.embedded.values, layers, mixed), device=device)
    width, classes = layers[-1].width, len(task.names)
    grid, rows = rates.rates_of(lr), []
    records: list[list[dict]] = []
    scores: list[list[NDArray]] = []
    for seed in seeds:
        records.append([])
        scores.append([])
        for fold, sides in enumerate(task.sides):
            fitted = autograd.fit(
                source,
                task.of_views,
                autograd.Job(sides.train, sides.valid, sides.test, seed, fold, grid),
                lambda g: WeightedLayers(len(mixed), width, classes, generator=g),
                settings,
                metric=task.metric,
                device=device,
                on_epoch=on_epoch,
            )
            tried = dict(zip(grid, fitted, strict=True))
            chosen = tried[rates.best(tried)]
            mixture: Any = chosen.module  # WeightedLayers
            weights = mixture.layer_weights().tolist()
            record = task.trained_record(fold, tried)
            rows += [
                {"layer": layers[i].number, "seed": seed, "fold": record["fold"], "weight": weight}
                for i, weight in zip(mixed, weights, strict=True)
            ]
            records[-1].append(record)
            scores[-1].append(probe.predicted_scores(chosen.logits))
    table = pd.DataFrame(rows)
    means = table.groupby("layer").weight.mean().to_dict()
    return Outcome(records, scores, {"layer_weights": means}, table)


def _stacked(values: NDArray, layers: Sequence[Layer], chosen: Sequence[int]) -> NDArray:
    """Returns some layers of one width side by side, (V, L, D); a view where it is all of them."""
    if len(chosen) == len(layers):
        return values.reshape(len(values), len(layers), -1)
    columns = Columns(values, layers)
    return np.stack([columns[i] for i in chosen], axis=1)
