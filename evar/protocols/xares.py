"""X-ARES' protocol of one vector per clip, so that scores compare with its own (docs/probes.md).

Zhang et al., "X-ARES: A Comprehensive Framework for Assessing Audio Encoder Performance", 2025;
evar.probing.xares says what of it is reproduced.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from evar.options import whole
from evar.protocol import Protocol, no_interval

if TYPE_CHECKING:
    from evar.data.manifest import Manifest
    from evar.models import Model
    from evar.runtime import Runtime
    from evar.scoring.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class XaresSettings:
    """epochs, batch_size: X-ARES' defaults; some of its tasks have values of their own."""

    epochs: int = 10
    batch_size: int = 32
    crop_seed: int = field(default=42, metadata={"option": False})

    def __post_init__(self):
        whole("epochs", self.epochs)
        whole("batch_size", self.batch_size)


def evaluate(
    model: "Model",
    manifest: "Manifest",
    settings: XaresSettings,
    seeds: tuple[int, ...],
    runtime: "Runtime",
) -> "Evaluation":
    """Embeds a task, trains a probe on every fold, and scores the test sets.

    With folds, the fold that is tested selects the epoch, as in X-ARES. Raises UserError for data
    that cannot be scored and for adapters that return anything but finite embeddings.
    """
    from evar.embedding import embeddings
    from evar.probing import prepared, xares

    task = prepared.prepare(
        manifest,
        lambda: embeddings.embed_task(model, manifest, runtime, crop_seed=settings.crop_seed),
    )
    on_test = bool(manifest.task.folds)
    own = xares.XaresSettings(epochs=settings.epochs, batch_size=settings.batch_size)
    sign = 1 if task.metric.higher_is_better else -1
    runs, scores = [], []
    fits = len(seeds) * len(task.folds)
    with task.probing(), runtime.progress.bar("probe", "fit", total=fits) as bar:
        for seed in seeds:
            records, of_run = [], []
            for i, sides in enumerate(task.sides):
                found = xares.fit(
                    task.embedded.values,
                    task.of_views,
                    sides,
                    own,
                    score=task.goodness,
                    seed=seed,
                    on_test=on_test,
                    device=runtime.device,
                )
                bar.update()
                of_run.append(found.scores)
                records.append(
                    {
                        "fold": task.folds[i].name,
                        "score": task.test_score(i, found.scores),
                        "best_epoch": found.best_epoch,
                        "valid_score": sign * found.goodness,
                        "held_out": found.held_out,
                    }
                )
            runs.append({"seed": seed, "folds": records})
            scores.append(of_run)
    extra = no_interval(seeds, "X-ARES") | ({"select": "oracle"} if on_test else {})
    return task.evaluation(settings, seeds, runtime, scores, runs=runs, extra=extra)


PROTOCOL = Protocol(
    name="xares",
    version=1,
    title="Score a frozen encoder on a task as X-ARES scores one vector per clip.",
    settings=XaresSettings,
    evaluate=evaluate,
    embeds="units",
    seeds=(42,),
    help="""
--epochs=10        number of epochs; the best on validation counts (with folds: on the test fold)
--batch_size=32    clips per step
""",
)
