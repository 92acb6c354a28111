"""Scores of a run's probes on new recordings: by file, or by windows of a long one."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evar.data import opening, segments, windows
from evar.data.manifest import Manifest, table_hash
from evar.embedding import embeddings
from evar.errors import UserError
from evar.files import canonical_json
from evar.models import Model
from evar.probing.kept import Probes
from evar.results.record import RunRecord
from evar.runtime import Runtime
from evar.task import Windows


@dataclass(frozen=True, eq=False)
class Predicted:
    """Class scores of clips: files, or windows of them.

    manifest: one row a clip. rows: (N,) the rows that were scored. scores: (N, C) means over
    probes. of_probes: (N, C) by seed and fold. bad: clips that were left out, and why.
    """

    manifest: Manifest
    rows: NDArray
    classes: tuple[str, ...]
    multi_label: bool
    scores: NDArray
    of_probes: Mapping[tuple[int, str], NDArray]
    bad: Mapping[str, str]

    @property
    def top(self) -> NDArray:
        """Returns the number of each clip's best class, (N,)."""
        return self.scores.argmax(axis=1)

    def table(self) -> pd.DataFrame:
        """Returns one row per clip: file, times of a window, best class, and all class scores."""
        chosen = self.manifest.table.loc[self.rows]
        table = pd.DataFrame(self.scores.round(6), columns=list(self.classes))
        first = {"file": chosen.file.to_numpy()}
        if segments.are_in(chosen):
            first |= {name: chosen[name].to_numpy() for name in segments.COLUMNS}
        first |= {
            "predicted": np.array(self.classes)[self.top],
            "score": self.scores.max(axis=1).round(6),
        }
        for at, (name, column) in enumerate(first.items()):
            table.insert(at, name, column, allow_duplicates=True)  # a class may have that name
        return table


def open_sounds(path, by: Windows | None, run: RunRecord, runtime: Runtime) -> Manifest:
    """Returns the clips of a sound file or folder as a run hears them.

    by: one row per window; None: one row per file, heard as the run's own clips were.
    """
    manifest = opening.open_sounds(path, progress=runtime.progress)
    manifest.require_usable(skip_bad=runtime.skip_bad)
    task = replace(manifest.task, seconds=run.task.seconds)
    if by is None:
        own = run.settings.get("windows")
        if isinstance(own, Mapping):
            task = windows.of_task(task, Windows(own["seconds"], own["hop"], own["pool"]))
        return replace(manifest, task=task)
    task = replace(task, seconds=by.seconds, silence=True)  # a recording may pause
    table = _by_windows(manifest, by)
    stamps = np.zeros((len(table), 3), np.int64)
    return replace(manifest, task=task, table=table, sha256=table_hash(table), stamps=stamps)


def _by_windows(manifest: Manifest, by: Windows) -> pd.DataFrame:
    """Returns the table with a row for every window of every recording that can be read."""
    rows, starts, ends, frames = [], [], [], []
    table = manifest.table
    for row in table.index:
        if table.problem[row]:
            rows.append(row)
            starts.append(np.nan)
            ends.append(np.nan)
            frames.append(0)
            continue
        rate = int(table.sample_rate[row])
        for first, last in windows.spans(int(table.frames[row]), rate, by):
            rows.append(row)
            starts.append(round(first / rate, 6))
            ends.append(round(last / rate, 6))
            frames.append(last - first)
    found = table.loc[rows].reset_index(drop=True)
    return found.assign(start=starts, end=ends, frames=frames)


def predict(model: Model, manifest: Manifest, probes: Probes, runtime: Runtime) -> Predicted:
    """Embeds clips and scores them by all probes of a run; the scores are means over these.

    Raises UserError where the embeddings are not those of the probes' model.
    """
    if model.adapter.embed_dim != probes.width:
        raise UserError(
            f"{model.name} embeds into {model.adapter.embed_dim} values, the run's probes take "
            f"{probes.width}: it is another model"
        )
    embedded = embeddings.embed_task(_as_trained(model, probes), manifest, runtime)
    used = manifest.without(embedded.bad)
    rows = used.good.index.to_numpy()
    if not len(rows):
        raise UserError(f"{manifest.root}: no clip can be decoded")
    views = embeddings.test_rows(embedded, rows)
    found = probes.scores(np.ascontiguousarray(embedded.values[views]))
    by = manifest.task.windows
    if by is not None and embedded.owner is not None:
        owner = embedded.owner[views]
        found = [windows.pooled(scores, owner, rows, by.pool) for scores in found]
    of_probes = {(p.seed, p.fold): s for p, s in zip(probes.probes, found, strict=True)}
    mean = np.mean([s.astype(np.float64) for s in found], axis=0)
    bad = dict(zip(used.clips[used.bad.index], used.bad.problem, strict=True))
    return Predicted(used, rows, probes.classes, probes.multi_label, mean, of_probes, bad)


def _as_trained(model: Model, probes: Probes) -> Model:
    """Returns the model with what it learnt from the run's training clips, not from these."""
    if not model.adapter.fit_clips:
        return model
    if probes.statistics is None:
        raise UserError(f"{model.name} learns from training clips, and the run has not kept what")
    model.adapter.fitted(dict(probes.statistics))
    model.adapter.fit_clips = 0
    learnt = hashlib.sha256(canonical_json(probes.statistics).encode()).hexdigest()
    return replace(model, identity={**model.identity, "fitted": learnt})
