"""Layers: a linear probe on each layer of an encoder, or on a learned mixture (docs/probes.md).

The mixture is SUPERB's weighted sum (Yang et al., Interspeech 2021).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from evar.errors import UserError, unknown
from evar.options import whole
from evar.probing import rates
from evar.protocol import Protocol

if TYPE_CHECKING:
    from evar.data.manifest import Manifest
    from evar.models import Model
    from evar.runtime import Runtime
    from evar.scoring.evaluation import Evaluation

EACH, WEIGHTED = "each", "weighted"


@dataclass(frozen=True, kw_only=True)
class LayersSettings:
    """Hyper-parameters of the probe, as linear evaluation's.

    layers: "each", a probe on every layer, or "weighted", one probe on their learned mixture.
    """

    layers: str = EACH
    lr: float | str
    epochs: int = 200
    patience: int = field(default=20, metadata={"option": False})
    batch_size: int = field(default=200, metadata={"option": False})
    crop_seed: int = field(default=42, metadata={"option": False})

    def __post_init__(self):
        if self.layers not in (EACH, WEIGHTED):
            raise unknown("choice of --layers:", str(self.layers), (EACH, WEIGHTED))
        rates.require_rate(self.lr)
        whole("epochs", self.epochs)


def resolve(given: Mapping[str, Any], model: "Model", manifest: "Manifest") -> LayersSettings:
    """Returns the settings; the rate is the model's for this task, the task's, or the model's."""
    return LayersSettings(**{"lr": rates.usual_rate(model, manifest), **given})


def evaluate(
    model: "Model",
    manifest: "Manifest",
    settings: LayersSettings,
    seeds: tuple[int, ...],
    runtime: "Runtime",
) -> "Evaluation":
    """Embeds every layer in one pass, trains probes on them, and scores the test sets.

    "each": what counts in each fold and seed is the layer with the best validation score. Raises
    UserError for an encoder without blocks, and where layers that are to be mixed differ in width.
    """
    from evar.embedding import embeddings
    from evar.embedding import layers as every
    from evar.probing import bylayer, prepared
    from evar.probing.probe import ProbeSettings

    seconds = manifest.task.seconds
    if seconds is None:
        raise UserError(f"{manifest.task.name}: its clips have no common length to embed layers of")
    of_layers = every.every_layer(model, seconds)
    every_one: Any = of_layers.adapter  # an EveryLayer
    layers = every_one.layers
    task = prepared.prepare(
        manifest,
        lambda: embeddings.embed_task(of_layers, manifest, runtime, crop_seed=settings.crop_seed),
    )
    probe = ProbeSettings(
        epochs=settings.epochs, patience=settings.patience, batch_size=settings.batch_size
    )
    train = bylayer.each if settings.layers == EACH else bylayer.weighted
    with task.probing(), runtime.progress.bar("probe", "epoch") as bar:
        found = train(
            task,
            layers,
            seeds,
            probe,
            settings.lr,
            device=runtime.device,
            on_epoch=lambda epoch, running: bar.update(),
        )
    return task.evaluation(
        settings,
        seeds,
        runtime,
        found.scores,
        runs=[
            {"seed": seed, "folds": records}
            for seed, records in zip(seeds, found.records, strict=True)
        ],
        extra={"layers": [asdict(layer) for layer in layers], **found.extra},
        tables={"layers": found.table},
    )


PROTOCOL = Protocol(
    name="layers",
    version=1,
    title="Score each layer of a frozen encoder on a task, or a learned mixture of all.",
    settings=LayersSettings,
    resolve=resolve,
    evaluate=evaluate,
    seeds=(42, 43, 44),
    help="""
--layers=each  a probe on every layer; the score is that of the best on validation. weighted: one
               probe on a mixture whose weights are learned with it (SUPERB)
--lr=RATE      learning rate of the probe; default: the model's. auto: of five rates, the best on
               validation within each fold and seed, never on test
--epochs=200   maximum number of epochs (early stopping, patience 20)
""",
)
