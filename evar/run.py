"""The sentence that this package exists for: evaluate this model on this task.

Everything that scores a model calls `evaluate`: the command lines, pre-training, sweeps, notebooks.
"""

import contextlib
import gc
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar import files, models
from evar import options as values
from evar import protocol as protocols
from evar.errors import UserError, unknown
from evar.progress import SILENT, Progress, Terminal
from evar.protocol import Protocol
from evar.runtime import Runtime, usable
from evar.task import KINDS, Windows

if TYPE_CHECKING:
    import pandas as pd

    from evar.adapter import Adapter
    from evar.data.manifest import Manifest
    from evar.data.opening import AnyTask
    from evar.models import Model
    from evar.results.record import RunRecord
    from evar.scoring.evaluation import Evaluation

    AnyModel = str | type[Adapter] | Adapter | models.Model

_RUNTIME = tuple(f.name for f in fields(Runtime))
ARGUMENTS = (
    "weights",
    "seeds",
    "seconds",
    "windows",
    "data",
    "partial",
)  # of `evaluate`, by keyword


@dataclass(frozen=True, eq=False)
class Run:
    """One evaluation: its record, and its tables.

    record: what the JSON holds, typed. evaluation: what the protocol returned.
    """

    record: "RunRecord"
    evaluation: "Evaluation"

    @property
    def predictions(self) -> "pd.DataFrame":
        """Returns one row per test clip, fold and seed."""
        return self.evaluation.predictions

    @property
    def tables(self) -> Mapping[str, "pd.DataFrame"]:
        """Returns further tables of the protocol by name, such as "confusion"."""
        return self.evaluation.tables

    @property
    def score(self) -> float:
        """Returns the score, a fraction: the mean over runs."""
        return self.record.score.mean

    @property
    def interval(self) -> tuple[float, float] | None:
        """Returns the 95 % interval over test clips, as fractions; None for too few of them."""
        return self.record.score.test95

    def save(self, results="results") -> Path:
        """Writes the run below a results folder and rebuilds its tables; returns the JSON's path.

        Raises UserError where the folder cannot be written.
        """
        from evar.results import leaderboard, record

        path = record.save_run(self.record, self.evaluation, results)
        leaderboard.rebuild(results)
        return path

    def __repr__(self) -> str:
        from evar.results import text

        return f"<Run {self.record.id}: {text.summary_line(self.record)}>"

    def _repr_html_(self) -> str:
        from evar.results import text

        return text.html(self.record)


def evaluate(
    model: "AnyModel",
    task: "AnyTask",
    protocol: str | Protocol = "linear",
    *,
    weights=None,
    seeds: int | Sequence[int] | None = None,
    seconds: float | None = None,
    windows: float | Windows | None = None,
    data=None,
    partial: bool = False,
    **options,
) -> Run:
    """Evaluates a model on a task.

    model: a registered name, "path/file.py:Class", "hf:ORG/NAME", "hear:MODULE", or an
    `evar.Adapter` class or instance. task: a registered name, the path of a CSV, an `evar.Task`,
    or a pandas table with the columns of a CSV. protocol: a name in evar/protocols/.

    weights: a checkpoint's path, or "random"; default: the published file. seeds: a number of
    runs, or the seeds themselves. seconds: unit length of a user's own sounds. windows: score a
    user's recordings by windows, of so many seconds or as an `evar.task.Windows` says. data: folder
    of data sets and manifests; default: $EVAR_DATA or data/. partial: accept an incomplete set.

    options: settings of the protocol (`lr=1e-3`), fields of `evar.runtime.Runtime` (`device`,
    `precision`, `resample`, `batch_size`, `cache`, `skip_bad`, `progress`, `training`), and options
    of the model's adapter. The device defaults to CUDA where there is one, the cache to $EVAR_CACHE
    or the user's cache folder; `cache=None` keeps nothing; `progress=True` shows bars.

    Writes nothing but the cache, and checkpoints where the protocol trains the encoder;
    `Run.save` writes results. Two calls with the same arguments return the same score.

    Raises UserError for everything that a user can correct: unknown names and options, data or
    weights that are missing, a model that the protocol cannot evaluate, clips that cannot be
    decoded.

    >>> import evar
    >>> run = evar.evaluate("logmel", "demo", seeds=1, device="cpu")
    >>> run.record.task.name, 0.2 < run.score < 0.7
    ('demo', True)
    """
    with _without_collection():
        request = prepare(
            model,
            task,
            protocol,
            weights=weights,
            seeds=seeds,
            seconds=seconds,
            windows=windows,
            data=data,
            partial=partial,
            hashed_below=hash_limit(),
            **options,
        )
    return request.run()


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Leaves garbage in cycles where it is while the block runs.

    Imports leave none, and looking for it takes a tenth of the time in which torch is imported.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass(frozen=True, eq=False)
class Request:
    """An evaluation that has been checked and can run: all that decides its result is known.

    manifest: of the clips that count, all or the test side; whole: of all clips. given: names of
    the settings that the user gave; usual: the settings that model and task have by default.
    """

    protocol: Protocol
    model: "Model"
    manifest: "Manifest"
    settings: Any
    given: tuple[str, ...]
    usual: Any
    seeds: tuple[int, ...]
    runtime: Runtime
    whole: "Manifest"

    @property
    def key(self) -> str:
        """Returns a hash of what was asked for: two requests of one key give the same run."""
        task = self.manifest.task
        asked: dict[str, object] = {
            "protocol": [self.protocol.name, self.protocol.version],
            "settings": asdict(self.settings),
            "seeds": list(self.seeds),
            "model": {"name": self.model.name, **self.model.identity},
            "task": [task.name, task.version, task.seconds],
            "manifest": self.manifest.sha256,
            **self.runtime.treatment,
            **({"windows": asdict(task.windows)} if task.windows else {}),
        }
        return hashlib.sha256(files.canonical_json(asked).encode()).hexdigest()[:16]

    @property
    def overrides(self) -> dict[str, object]:
        """Returns the settings in which the run differs from the defaults."""
        own, usual = asdict(self.settings), asdict(self.usual)
        found = {key: own[key] for key in self.given if own[key] != usual[key]}
        if windows := self.manifest.task.windows:
            found |= {"windows": windows.seconds, "hop": windows.hop, "pool": windows.pool}
        if self.runtime.precision != "fp32" and "precision" not in own:
            found["precision"] = self.runtime.precision
        if self.runtime.resample != "cpu":
            found["resample"] = self.runtime.resample
        return found

    def _hashed(self) -> "Request":
        """Returns the request with the fingerprints of all files."""
        if self.whole.unhashed is None:
            return self
        from evar.data import manifests

        whole = manifests.hash_all(self.whole)
        side = whole if self.protocol.trains else whole.test_side()
        return replace(self, manifest=side, whole=whole)

    def run(self) -> Run:
        """Evaluates; returns the run."""
        from evar.results import making

        evaluation = self.protocol.evaluate(
            self.model, self.whole, self.settings, self.seeds, self.runtime
        )
        hashed = self._hashed()
        record = making.make(
            evaluation,
            protocol=self.protocol,
            model=self.model,
            manifest=hashed.manifest,
            device=self.runtime.device,
            overrides=self.overrides,
            request=hashed.key,
        )
        return Run(record, evaluation)


def prepare(
    model: "AnyModel",
    task: "AnyTask",
    protocol: str | Protocol = "linear",
    *,
    weights=None,
    seeds: int | Sequence[int] | None = None,
    seconds: float | None = None,
    windows: float | Windows | None = None,
    data=None,
    partial: bool = False,
    hashed_below: int | None = None,
    **options,
) -> Request:
    """Returns an evaluation that can run, without embedding or training anything.

    Arguments and errors are those of `evaluate`. `model` may also be a loaded `evar.models.Model`.
    hashed_below: as in `evar.data.opening.open_task`; with None, the request's `key` is that of any
    other copy of the data set.
    """
    chosen = protocol if isinstance(protocol, Protocol) else protocols.of_command(str(protocol))
    given, runtime, of_adapter = split_options(chosen, model, options)
    models.require_buildable(model, weights, of_adapter)  # before any work
    chosen.check(given)
    if runtime.resample != "cpu" and "gradients" in chosen.needs:
        raise UserError(f"--resample=gpu is for embeddings, not {chosen.name}: leave it out")
    seeds = protocols.seeds_of(chosen, seeds)
    if "text" in chosen.needs:
        models.require_text(model)
    manifest = open_for(
        chosen,
        task,
        model,
        data=data,
        seconds=seconds,
        windows=windows,
        hashed_below=hashed_below,
        progress=runtime.progress,
    )
    side = manifest if chosen.trains else manifest.test_side()
    side.require_usable(partial=partial, skip_bad=runtime.skip_bad)
    runtime = usable(runtime)
    loaded = load_for(chosen, model, manifest, weights, given, of_adapter)
    settings = chosen.settings_for(given, loaded, manifest)
    usual = chosen.settings_for({}, loaded, manifest) if given else settings
    return Request(
        chosen, loaded, side, settings, tuple(given), usual, seeds, runtime, whole=manifest
    )


def open_for(
    chosen: Protocol,
    task: "AnyTask",
    model: "AnyModel" = "MODEL",
    *,
    data=None,
    seconds: float | None = None,
    windows: float | Windows | None = None,
    hashed_below: int | None = None,
    progress: Progress = SILENT,
) -> "Manifest":
    """Returns the manifest of a task that a protocol can score; UserError for any other."""
    from evar.data import opening

    if windows is not None:
        protocols.require_windows(chosen)
        windows = windows if isinstance(windows, Windows) else Windows(windows)
    data = values.existing_folder("data", data)
    captioned = all(KINDS[kind].captions for kind in chosen.kinds)
    manifest = opening.open_task(
        task,
        data=data,
        seconds=seconds,
        windows=windows,
        captioned=captioned,
        reindex=captioned,  # captions are no part of the manifest: the published ones are checked
        hashed_below=hashed_below if chosen.embeds == "units" else None,
        progress=progress,
    )
    chosen.require_task(manifest.task, model if isinstance(model, str) else "MODEL")
    if unhashed := manifest.unhashed:
        size = f"{unhashed.bytes / 1e9:,.1f} GB"
        progress.note(f"{manifest.task.name}: {size} of sound are hashed as they are decoded")
    return manifest


def load_for(
    chosen: Protocol,
    model: "AnyModel",
    manifest: "Manifest",
    weights,
    given: Mapping[str, object],
    of_adapter: Mapping[str, object],
) -> "Model":
    """Returns the model, built with the options that the protocol wants for this task.

    Where the protocol embeds captions, what they go through is part of the model's identity.
    """
    if isinstance(model, models.Model):
        return _with_text(model) if "text" in chosen.needs else model
    wanted: dict = {}
    if chosen.adapter_options is not None:
        known = models.option_names(model)
        wanted = chosen.adapter_options(manifest.task, {**of_adapter, **given}, known)
    loaded = models.load(model, weights=weights, **{**wanted, **of_adapter})
    usual = replace(loaded.config, options={**loaded.config.options, **wanted})
    loaded = replace(loaded, config=usual, options=dict(of_adapter))
    return _with_text(loaded) if "text" in chosen.needs else loaded


def _with_text(model: "Model") -> "Model":
    text = model.adapter.text_identity()
    return replace(model, identity={**model.identity, "text": text}) if text else model


def hash_limit() -> int | None:
    """Returns from how many bytes on files are hashed as they are decoded, not before.

    Less is still in memory when it is read for the second time.
    """
    from evar.embedding.gathering import free_memory

    free = free_memory()
    return None if free is None else free // 2


def is_first_process() -> bool:
    """Returns whether this process writes results: the only one, or torchrun's first."""
    return os.environ.get("RANK", "0") == "0"


def split_options(
    chosen: Protocol | None, model: "AnyModel", options: Mapping[str, object]
) -> tuple[dict, Runtime, dict]:
    """Returns settings of the protocol (if any), the runtime, and options of the adapter.

    Raises UserError for an option that is none of them.
    """
    settings = chosen.options() if chosen else ()
    given = {k: v for k, v in options.items() if k in settings and v is not None}
    how = {k: v for k, v in options.items() if k in _RUNTIME and k not in settings}
    rest = {k: v for k, v in options.items() if k not in settings and k not in _RUNTIME}
    of_adapter = models.option_names(model) if rest else []
    for key in rest:
        if key not in of_adapter:
            known = (*settings, *_RUNTIME, *of_adapter)
            raise unknown("option", f"--{key}", [f"--{option}" for option in known])
    return given, _runtime(how, model), {k: v for k, v in rest.items() if v is not None}


def _runtime(given: dict, model: "AnyModel") -> Runtime:

    given = {"device": "auto", **given}
    if "cache" not in given:
        given["cache"] = files.cache_folder()
    if given["cache"] is not None:
        given["cache"] = values.path("cache", given["cache"])
    if given.get("progress") is True:
        given["progress"] = Terminal(str(model) if isinstance(model, str) else "")
    elif given.get("progress") in (None, False):
        given["progress"] = SILENT
    return Runtime(**given)
