"""The model that a run was made with, loaded again and compared."""

from pathlib import Path

from evar import models
from evar.errors import UserError
from evar.files import canonical_json
from evar.models import Model
from evar.probing import kept
from evar.probing.kept import Probes
from evar.results.making import plain
from evar.results.record import RunRecord

# Other versions of code compute much the same; a file's hash holds its name, and what is in it
# shows in the weights.
_NOTED = ("source", "libraries", "file")


def probes_of(run: RunRecord, results) -> Probes:
    """Returns the probes that were kept with a run. Raises UserError where there are none."""
    path = Path(results) / "runs" / f"{run.id}.{kept.SUFFIX}"
    if run.protocol != "linear":
        raise UserError(
            f"run {run.id[:8]} is of {run.protocol}: only linear evaluation keeps what it trained "
            f"(`evar lineareval {run.model.name} {run.task.name}`)"
        )
    if not path.is_file():
        raise UserError(
            f"{path}: not there: run {run.id[:8]} was made before probes were kept, or its file "
            "was removed. Run the evaluation again."
        )
    return kept.read(path)


def load(run: RunRecord, *, model=None, weights=None) -> tuple[Model, list[str]]:
    """Returns the model of a run, and notes on what differs without changing what it is.

    model: where the run's own name does not lead to it (a class in a file). weights: a checkpoint's
    path; default: where the run had it from. Raises UserError for a model with other weights or
    options than the run's.
    """
    if model is None:
        adapter = str(run.config.get("adapter", ""))
        of_file = adapter.rpartition(":")[0].endswith(".py")
        model = adapter if of_file else run.model.name
    spec = models.config(model)
    given = {
        name: _as_given(value)
        for name, value in run.model.options.items()
        if canonical_json(plain(spec.options.get(name))) != canonical_json(plain(value))
    }
    loaded = models.load(model, weights=weights or _weights(run), **given)
    return loaded, _compared(run, loaded)


def _as_given(value):
    return tuple(value) if isinstance(value, list) else value


def _weights(run: RunRecord) -> str | None:
    """Where the run had its weights from; None for the published file, or none."""
    checkpoint = str(run.config.get("checkpoint", ""))
    return None if checkpoint in ("", "published", "none given") else checkpoint


def _compared(run: RunRecord, loaded: Model) -> list[str]:
    """Returns notes; UserError where the model is another than the run's."""
    was = {
        **run.model.identity,
        "weights": run.model.weights,
        "options": run.model.options,
        "source": run.model.source,
    }
    now = plain(loaded.identity)
    names = sorted({*was, *now}, key=lambda name: (name not in ("adapter", "weights"), name))
    differ = [
        name
        for name in names
        if canonical_json(plain(was.get(name))) != canonical_json(now.get(name))
    ]
    for name in differ:
        if name not in _NOTED:
            hint = " (--weights=PATH names the run's)" if name == "weights" else ""
            raise UserError(
                f"{loaded.name} is not the model of run {run.id[:8]}: its {name} differ{hint}. "
                "Scores of a probe mean nothing on another model's embeddings."
            )
    return [
        f"note: {name} of {loaded.name} changed since run {run.id[:8]}: scores may differ a little"
        for name in differ
    ]
