"""Checks embeddings from the cache: some clips are embedded again and compared."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evar.embedding.engine import Engine
from evar.embedding.store import Store
from evar.errors import BadAudio, UserError
from evar.models import Model
from evar.precision import full_precision

_CLIPS = 3
# Relative difference: the engine accepts 1e-2 between a clip alone and in a batch (float32), and
# bfloat16 rounds every value by 4e-3.
_DIFFERENT = {"fp32": 1e-2, "bf16": 5e-2}


def require_same(model: Model, engine: Engine, values: NDArray | Sequence[NDArray]) -> None:
    """Raises UserError where cached embeddings are not what the model computes now.

    values: (V, D) of the engine's plan, which has just run, or V arrays of frames (T, D). The
    shortest clips are embedded again and compared. Where all were computed by this process, what
    has changed since others were kept is reported; nothing is done for verified models
    (`ModelConfig.is_verified`).
    """
    if model.config.is_verified:
        return
    if engine.computed == len(engine.plan):
        if news := changed(engine.store):
            engine.runtime.progress.note(news)
        return
    chosen = _shortest(engine, values)
    # Of silence, an embedding may be next to nothing, and its rounding as large.
    least = 1e-3 * max((_norm(values[number]) for number in chosen), default=0.0)
    with full_precision():
        for number in chosen:
            clip = engine.load(engine.plan[number])
            if isinstance(clip, BadAudio):
                continue
            difference = _difference(engine, clip, values[number], least)
            if not difference <= _DIFFERENT[engine.runtime.precision]:
                raise UserError(_problem(model, engine, number, difference))


def changed(store: Store) -> str:
    """Returns what has changed of a model since other embeddings of a task were kept, or "".

    Only where code and options are the same: of these, the user knows.
    """
    mine = store.identity
    now = mine["model"]
    for path in sorted(store.folder.parent.glob("*/key.json")):
        try:
            theirs = json.loads(path.read_text())
            before = theirs["model"]
            if not all(theirs[key] == value for key, value in mine.items() if key != "model"):
                continue
            if not all(before[key] == now[key] for key in ("adapter", "source", "options")):
                continue
        except (OSError, ValueError, KeyError, TypeError):  # of another kind, or damaged
            continue
        if parts := [key for key in {**before, **now} if before.get(key) != now.get(key)]:
            return (
                f"{now['adapter']}: embedded again, since it is not the model of which "
                f"embeddings are kept ({path.parent.name[:12]}): {', '.join(parts)} changed "
                "(docs/add-a-model.md, 'What a model is')"
            )
    return ""


def _norm(values: NDArray) -> float:
    return float(np.linalg.norm(np.asarray(values, np.float32)))


def _shortest(engine: Engine, values: NDArray | Sequence[NDArray]) -> list[int]:
    """Returns the numbers of the shortest clips that have an embedding."""
    table = engine.manifest.table
    seconds = (table.frames / table.sample_rate).to_numpy()
    length = seconds[[view.row for view in engine.plan]]
    order = np.argsort(length, kind="stable")
    finite = (int(n) for n in order if np.isfinite(values[n]).all())
    return [n for n, _ in zip(finite, range(_CLIPS), strict=False)]


def _difference(engine: Engine, clip: Any, kept: NDArray, least: float) -> float:
    """Returns the relative difference ||now - kept|| / ||kept|| of a clip's embedding.

    Of frames, (T, D), only those are kept that are the clip's own.
    """
    kept = np.asarray(kept, np.float32).reshape(-1)
    now = engine.encoder(engine.resampler.batch([clip]))[0][: kept.size]
    return _norm(now - kept) / max(_norm(kept), least, 1e-12)


def _problem(model: Model, engine: Engine, number: int, difference: float) -> str:
    store, file = engine.store, engine.manifest.table.file[engine.plan[number].row]
    return (
        f"{model.name}: the cached embedding of {file} is not what the model computes now "
        f"(relative difference {difference:.2g}), although its code, options, weights and the "
        "files it has opened are the same: what changed is outside of what evar sees. Remove "
        f"the old embeddings (`evar cache rm {store.key[:12]} --cache={store.folder.parent}`) or "
        "give --no_cache; docs/add-a-model.md, 'What a model is', says how to make it visible"
    )
