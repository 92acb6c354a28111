"""Attentive pooling: learned queries attend to a clip's frames (docs/probes.md)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evar.errors import UserError
from evar.options import whole
from evar.probing import rates
from evar.protocol import Protocol

if TYPE_CHECKING:
    from evar.data.manifest import Manifest
    from evar.models import Model
    from evar.runtime import Runtime
    from evar.scoring.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class AttentiveSettings:
    """Hyper-parameters of the probe; its training is linear evaluation's.

    queries: learned queries, each with class weights of its own. heads: of the attention; fewer
    where they do not divide the embedding. half: keep frames on disk in float16.
    """

    queries: int = 1
    heads: int = 8
    lr: float | str
    epochs: int = 200
    half: bool = False
    patience: int = field(default=20, metadata={"option": False})
    batch_size: int = field(default=200, metadata={"option": False})
    crop_seed: int = field(default=42, metadata={"option": False})

    def __post_init__(self):
        rates.require_rate(self.lr)
        for name in ("queries", "heads", "epochs"):
            whole(name, getattr(self, name))
        if not isinstance(self.half, bool):
            raise UserError(f"--half is True or False, not {self.half!r}")


def resolve(given: Mapping[str, Any], model: "Model", manifest: "Manifest") -> AttentiveSettings:
    """Returns the settings; the rate is the model's for this task, the task's, or the model's."""
    return AttentiveSettings(**{"lr": rates.usual_rate(model, manifest), **given})


def evaluate(
    model: "Model",
    manifest: "Manifest",
    settings: AttentiveSettings,
    seeds: tuple[int, ...],
    runtime: "Runtime",
) -> "Evaluation":
    """Embeds the frames of a task, trains the probes of all folds and seeds, and scores them.

    Raises UserError for an encoder without frames, and where the disk is too small for them.
    """
    from evar.embedding import frames
    from evar.probing import attentive, autograd, prepared
    from evar.probing.probe import ProbeSettings, predicted_scores

    task = prepared.prepare(
        manifest,
        lambda: frames.embed_frames(
            model, manifest, runtime, crop_seed=settings.crop_seed, half=settings.half
        ),
    )
    width, grid = task.embedded.values[0].shape[1], rates.rates_of(settings.lr)
    heads = attentive.heads_for(width, settings.heads)
    frame_table: Any = task.embedded.values  # a FrameTable
    source = attentive.Frames(frame_table, device=runtime.device)
    probe = ProbeSettings(
        epochs=settings.epochs, patience=settings.patience, batch_size=settings.batch_size
    )

    def make(generator) -> attentive.AttentivePool:
        return attentive.AttentivePool(
            width, len(task.names), queries=settings.queries, heads=heads, generator=generator
        )

    records, scores = [], []
    with task.probing(), runtime.progress.bar("probe", "epoch") as bar:
        for seed in seeds:
            run = [
                autograd.fit(
                    source,
                    task.of_views,
                    autograd.Job(sides.train, sides.valid, sides.test, seed, fold, grid),
                    make,
                    probe,
                    metric=task.metric,
                    device=runtime.device,
                    on_epoch=lambda epoch, running: bar.update(),
                )
                for fold, sides in enumerate(task.sides)
            ]
            tried = [dict(zip(grid, fitted, strict=True)) for fitted in run]
            records.append([task.trained_record(i, t) for i, t in enumerate(tried)])
            scores.append([predicted_scores(t[rates.best(t)].logits) for t in tried])
    return task.evaluation(
        settings,
        seeds,
        runtime,
        scores,
        runs=[{"seed": seed, "folds": folds} for seed, folds in zip(seeds, records, strict=True)],
        extra={"heads": heads},
    )


PROTOCOL = Protocol(
    name="attentive",
    version=1,
    title="Score the frames of a frozen encoder on a task by attentive pooling.",
    settings=AttentiveSettings,
    resolve=resolve,
    evaluate=evaluate,
    seeds=(42, 43, 44),
    help="""
--queries=1    learned queries, each with class weights of its own
--heads=8      heads of the attention; fewer where they do not divide the embedding
--half         keep frames on disk in float16
--lr=RATE      learning rate of the probe; default: the model's. auto: of five rates, the best on
               validation within each fold and seed, never on test
--epochs=200   maximum number of epochs (early stopping, patience 20)
""",
)
