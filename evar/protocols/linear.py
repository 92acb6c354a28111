"""Linear evaluation: frozen embeddings and a linear probe, three seeds (docs/protocols.md).

M2D-CLAP (Niizumi et al., Interspeech 2024), Section 4.3.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from evar.options import whole
from evar.probing import rates
from evar.protocol import Protocol

if TYPE_CHECKING:
    from evar.data.manifest import Manifest
    from evar.models import Model
    from evar.probing.prepared import Prepared
    from evar.probing.training import Fitted
    from evar.runtime import Runtime
    from evar.scoring.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class LinearSettings:
    """Hyper-parameters of the probe, and the seed of the crops that its runs share.

    lr: learning rate of Adam, constant; "auto": validation chooses within each fold and seed.
    hidden: widths of hidden layers; none is the linear probe. epochs: maximum number of epochs.
    patience: epochs without improvement before it stops. batch_size: rows per step.
    """

    lr: float | str
    hidden: tuple[int, ...] = ()
    epochs: int = 200
    patience: int = field(default=20, metadata={"option": False})
    batch_size: int = field(default=200, metadata={"option": False})
    crop_seed: int = field(default=42, metadata={"option": False})

    def __post_init__(self):
        rates.require_rate(self.lr)
        for width in self.hidden:
            whole("hidden", width)
        whole("epochs", self.epochs)


def resolve(given: Mapping[str, Any], model: "Model", manifest: "Manifest") -> LinearSettings:
    """Returns the settings; the rate is the model's for this task, the task's, or the model's."""
    hidden = given.get("hidden", ())
    hidden = hidden if isinstance(hidden, (tuple, list)) else (hidden,)
    usual = rates.usual_rate(model, manifest)
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
    from evar.embedding import embeddings
    from evar.probing import kept, prepared, probe

    task = prepared.prepare(
        manifest,
        lambda: embeddings.embed_task(model, manifest, runtime, crop_seed=settings.crop_seed),
    )
    with task.probing():
        tried = _fit(task, settings, seeds, runtime)
    best = [[of_fold[rates.best(of_fold)] for of_fold in run] for run in tried]
    evaluated = task.evaluation(
        settings,
        seeds,
        runtime,
        [[probe.predicted_scores(fitted.logits) for fitted in run] for run in best],
        runs=[
            {"seed": seed, "folds": [task.trained_record(i, t) for i, t in enumerate(run)]}
            for seed, run in zip(seeds, tried, strict=True)
        ],
    )
    probes = kept.to_bytes(
        {
            (seed, fold.name): fitted
            for seed, run in zip(seeds, best, strict=True)
            for fold, fitted in zip(task.folds, run, strict=True)
        },
        classes=task.names,
        multi_label=manifest.task.multi_label,
        statistics=task.embedded.statistics,
    )
    return replace(evaluated, files={kept.SUFFIX: probes})


def _fit(
    task: "Prepared", settings: LinearSettings, seeds: tuple[int, ...], runtime: "Runtime"
) -> "list[list[dict[float, Fitted]]]":
    """Trains the probes of all seeds, folds and rates together: tried[seed][fold][rate]."""
    from evar.probing import probe

    grid = rates.rates_of(settings.lr)
    jobs = [
        probe.Job(
            sides.train,
            sides.valid,
            sides.test,
            seed,
            stream,
            lr=rate,
            recordings=sides.recordings,
        )
        for seed in seeds
        for stream, sides in enumerate(task.sides)
        for rate in grid
    ]
    own = asdict(settings) | {"lr": grid[0]}  # every job has its own
    own.pop("crop_seed")
    with runtime.progress.bar("probe", "epoch", total=settings.epochs) as bar:

        def on_epoch(_, running: int) -> None:
            bar.set_postfix({"probes": running}, refresh=False)
            bar.update()

        fitted = probe.fit(
            task.embedded.values,
            task.of_views,
            jobs,
            probe.ProbeSettings(**own),
            metric=task.metric,
            device=runtime.device,
            overwrite_x=True,
            on_epoch=on_epoch,
        )
    tried, folds = rates.grouped(fitted, grid), len(task.folds)
    return [tried[at : at + folds] for at in range(0, len(tried), folds)]


PROTOCOL = Protocol(
    name="linear",
    version=1,
    title="Score a frozen encoder on a task with linear probes.",
    settings=LinearSettings,
    resolve=resolve,
    evaluate=evaluate,
    embeds="units",
    windows=True,
    seeds=(42, 43, 44),
    averaged=("esc50", "us8k", "spcv2", "vc1", "voxforge", "cremad", "gtzan", "nsynth", "surge"),
    command="lineareval",
    help="""
--lr=RATE      learning rate of the probe; default: the model's. auto: of five rates, the best on
               validation within each fold and seed, never on test
--hidden=()    widths of hidden layers, e.g. --hidden=(512,); none is the linear probe
--epochs=200   maximum number of epochs (early stopping, patience 20)
""",
)
