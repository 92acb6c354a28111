"""Linear evaluation: frozen embeddings and a linear probe, three seeds (docs/protocols.md).

M2D-CLAP (Niizumi et al., Interspeech 2024), Section 4.3.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from evar.errors import UserError
from evar.protocol import Protocol

if TYPE_CHECKING:
    import numpy as np

    from evar.data.manifest import Manifest
    from evar.data.targets import Fold
    from evar.embedding.embeddings import Embeddings
    from evar.models import Model
    from evar.probing.probe import Fitted
    from evar.runtime import Runtime
    from evar.scoring.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class LinearSettings:
    """Hyper-parameters of the probe, and the seed of the crops that its runs share.

    lr: learning rate of Adam, constant. hidden: widths of hidden layers; none is the linear probe.
    epochs: maximum number of epochs. patience: epochs without improvement before it stops.
    batch_size: rows per step.
    """

    lr: float
    hidden: tuple[int, ...] = ()
    epochs: int = 200
    patience: int = field(default=20, metadata={"option": False})
    batch_size: int = field(default=200, metadata={"option": False})
    crop_seed: int = field(default=42, metadata={"option": False})

    def __post_init__(self):
        number = isinstance(self.lr, (int, float)) and not isinstance(self.lr, bool)
        if not number or not 1e-12 <= self.lr < float("inf"):
            raise UserError(f"--lr must be a number of 1e-12 or more, not {self.lr!r}")
        for width in self.hidden:
            if type(width) is not int or width < 1:
                raise UserError(f"--hidden must be a whole number of 1 or more, not {width!r}")
        if type(self.epochs) is not int or self.epochs < 1:
            raise UserError(f"--epochs must be a whole number of 1 or more, not {self.epochs!r}")


def resolve(given: Mapping[str, object], model: "Model", manifest: "Manifest") -> LinearSettings:
    """Returns the settings; the rate is the model's for this task, the task's, or the model's."""
    config, task = model.config, manifest.task
    usual = config.lr_by_task.get(task.name) or task.lr or config.lr
    hidden = given.get("hidden", ())
    hidden = hidden if isinstance(hidden, (tuple, list)) else (hidden,)
    return LinearSettings(**{"lr": usual, **given, "hidden": tuple(hidden)})


def evaluate(
    model: "Model",
    manifest: "Manifest",
    settings: LinearSettings,
    seeds: tuple[int, ...],
    runtime: "Runtime",
) -> "Evaluation":
    """Embeds a task, trains the probes of all folds and seeds, and scores the test sets.

    Raises UserError for data that cannot be scored honestly and for adapters that return anything
    but finite embeddings.
    """
    from evar.data import targets
    from evar.embedding import embeddings
    from evar.probing import probe
    from evar.scoring import summary

    targets.folds_of(manifest)  # a set that cannot be trained on is refused before any work
    started = perf_counter()
    embedded = embeddings.embed_task(model, manifest, runtime, crop_seed=settings.crop_seed)
    embedding_ended = perf_counter()
    manifest = manifest.without(embedded.bad)
    names = targets.class_names(manifest)
    y = targets.encode_labels(manifest, names)
    folds = targets.folds_of(manifest)
    try:
        fitted = _fit(embedded, y, folds, settings, seeds, runtime)
    except ValueError as error:
        raise UserError(f"{manifest.task.name}: {error}") from error
    probing_ended = perf_counter()
    return summary.evaluation(
        manifest,
        folds,
        seeds,
        names,
        y,
        [[probe.predicted_scores(fit.logits) for fit in run] for run in fitted],
        settings={**asdict(settings), "precision": runtime.precision},
        runs=tuple(
            {"seed": seed, "folds": [_fold_record(*f, y) for f in zip(folds, run, strict=True)]}
            for seed, run in zip(seeds, fitted, strict=True)
        ),
        seconds={
            "embed": round(embedding_ended - started, 2),
            "probe": round(probing_ended - embedding_ended, 2),
        },
    )


def _fit(
    embedded: "Embeddings",
    y: "np.ndarray",
    folds: "list[Fold]",
    settings: LinearSettings,
    seeds: tuple[int, ...],
    runtime: "Runtime",
) -> "list[list[Fitted]]":
    """Trains one probe per seed and fold, all together: fitted[seed][fold]."""
    from evar.embedding import embeddings
    from evar.probing import probe

    sides = [
        (
            embeddings.training_rows(embedded, fold.train),
            None if fold.valid is None else embeddings.training_rows(embedded, fold.valid),
            embeddings.test_rows(embedded, fold.test),
        )
        for fold in folds
    ]
    jobs = [probe.Job(*rows, seed, stream) for seed in seeds for stream, rows in enumerate(sides)]
    own = asdict(settings)
    own.pop("crop_seed")
    with runtime.progress.bar("probe", "epoch", total=settings.epochs) as bar:

        def on_epoch(_, running: int) -> None:
            bar.set_postfix({"probes": running}, refresh=False)
            bar.update()

        fitted = probe.fit(
            embedded.values,
            embeddings.of_views(embedded, y),
            jobs,
            probe.ProbeSettings(**own),
            device=runtime.device,
            overwrite_x=True,
            on_epoch=on_epoch,
        )
    return [fitted[at : at + len(folds)] for at in range(0, len(fitted), len(folds))]


def _fold_record(fold: "Fold", fit: "Fitted", y: "np.ndarray") -> dict:
    from evar.probing import probe

    return {
        "fold": fold.name,
        "score": probe.score(fit.logits, y[fold.test]),
        "best_epoch": fit.best_epoch,
        "epochs": fit.epochs,
        "valid_score": fit.valid_score,
        "held_out": fit.held_out,
    }


PROTOCOL = Protocol(
    name="linear",
    version=1,
    title="Score a frozen encoder on a task with linear probes.",
    settings=LinearSettings,
    resolve=resolve,
    evaluate=evaluate,
    seeds=(42, 43, 44),
    averaged=("esc50", "us8k", "spcv2", "vc1", "voxforge", "cremad", "gtzan", "nsynth", "surge"),
    command="lineareval",
    help="""
--lr=RATE      learning rate of the probe; default: the model's
--hidden=()    widths of hidden layers, e.g. --hidden=(512,); none is the linear probe
--epochs=200   maximum number of epochs (early stopping, patience 20)
""",
)
