"""k nearest neighbours: weighted votes by cosine similarity, nothing trained (docs/probes.md).

Votes as in X-ARES; k is chosen on the validation split, and is X-ARES' 10 without one.
"""

from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING

from evar.options import whole
from evar.protocol import Protocol

if TYPE_CHECKING:
    from evar.data.manifest import Manifest
    from evar.models import Model
    from evar.runtime import Runtime
    from evar.scoring.evaluation import Evaluation


@dataclass(frozen=True, kw_only=True)
class KnnSettings:
    """k: number of neighbours; None: chosen on validation among 1, 5, 10, 20 and 50."""

    k: int | None = None
    crop_seed: int = field(default=42, metadata={"option": False})

    def __post_init__(self):
        if self.k is not None:
            whole("k", self.k)


def evaluate(
    model: "Model",
    manifest: "Manifest",
    settings: KnnSettings,
    seeds: tuple[int, ...],
    runtime: "Runtime",
) -> "Evaluation":
    """Embeds a task and scores its test clips by their nearest training clips.

    Raises UserError for data that cannot be scored honestly and for adapters that return anything
    but finite embeddings.
    """
    from evar.embedding import embeddings
    from evar.probing import knn, prepared

    task = prepared.prepare(
        manifest,
        lambda: embeddings.embed_task(model, manifest, runtime, crop_seed=settings.crop_seed),
    )
    fitted = []
    with task.probing(), runtime.progress.bar("probe", "fold", total=len(task.folds)) as bar:
        for sides in task.sides:
            found = knn.fit(
                task.embedded.values,
                task.of_views,
                sides,
                score=task.goodness,
                k=settings.k,
                device=runtime.device,
            )
            fitted.append(found)
            bar.update()
    sign = 1 if task.metric.higher_is_better else -1
    records = [
        {
            "fold": fold.name,
            "score": task.test_score(i, found.scores),
            "k": found.k,
            "valid_by_k": {
                k: sign * value if isfinite(value) else None for k, value in found.tried.items()
            },
        }
        for i, (fold, found) in enumerate(zip(task.folds, fitted, strict=True))
    ]
    scores = [[found.scores for found in fitted]]
    none = {"no_ci95": "nothing is random: every run would be the same"}
    return task.evaluation(settings, seeds, runtime, scores, runs=[{"folds": records}], extra=none)


PROTOCOL = Protocol(
    name="knn",
    version=1,
    title="Score a frozen encoder on a task by the nearest training clips: nothing is trained.",
    settings=KnnSettings,
    evaluate=evaluate,
    embeds="units",
    windows=True,
    help="""
--k=N          number of neighbours; default: of 1, 5, 10, 20 and 50 the best on the validation
               split; 10 without one
""",
)
