"""Checks embeddings from the cache: some clips are embedded again and compared."""

import numpy as np
from numpy.typing import NDArray

from evar.embedding.encoder import Encoder
from evar.embedding.engine import Engine
from evar.errors import BadAudio, UserError
from evar.models import Model
from evar.precision import full_precision

_CLIPS = 3
# Relative difference: the engine accepts 1e-2 between a clip alone and in a batch (float32), and
# bfloat16 rounds every value by 4e-3.
_DIFFERENT = {"fp32": 1e-2, "bf16": 5e-2}


def require_same(model: Model, engine: Engine, values: NDArray) -> None:
    """Raises UserError where cached embeddings are not what the model computes now.

    values: (V, D) of the engine's plan, which has just run. The shortest clips are embedded again
    and compared. Nothing is done where all were computed by this process, and for verified models
    (`ModelConfig.is_verified`).
    """
    if model.config.is_verified or engine.computed == len(engine.plan):
        return
    with full_precision():
        for number in _shortest(engine, values):
            clip = engine.load(engine.plan[number])
            if isinstance(clip, BadAudio):
                continue
            difference = _difference(engine.encoder, clip, values[number])
            if not difference <= _DIFFERENT[engine.runtime.precision]:
                raise UserError(_problem(model, engine, number, difference))


def _shortest(engine: Engine, values: NDArray) -> list[int]:
    """Returns the numbers of the shortest clips that have an embedding."""
    seconds = engine.manifest.table.frames / engine.manifest.table.sample_rate
    length = np.array([seconds[view.row] for view in engine.plan])
    order = np.argsort(length, kind="stable")
    finite = (int(n) for n in order if np.isfinite(values[n]).all())
    return [n for n, _ in zip(finite, range(_CLIPS), strict=False)]


def _difference(encoder: Encoder, clip: NDArray, kept: NDArray) -> float:
    """Returns the relative difference ||now - kept|| / ||kept|| of a clip's embedding."""
    now = encoder(clip[None])[0]
    return float(np.linalg.norm(now - kept) / max(float(np.linalg.norm(kept)), 1e-12))


def _problem(model: Model, engine: Engine, number: int, difference: float) -> str:
    store, file = engine.store, engine.manifest.table.file[engine.plan[number].row]
    return (
        f"{model.name}: the cached embedding of {file} is not what the model computes now "
        f"(relative difference {difference:.2g}), although its code, options, weights and the "
        "files it has opened are the same: what changed is outside of what evar sees. Remove "
        f"the old embeddings (`evar cache rm {store.key[:12]} --cache={store.folder.parent}`) or "
        "give --no_cache; docs/add-a-model.md, 'What a model is', says how to make it visible"
    )
