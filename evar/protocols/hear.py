"""HEAR 2021's scene protocol, so that scores can stand beside HEAR's (docs/probes.md).

Turian et al., "HEAR: Holistic Evaluation of Audio Representations", PMLR 2022; evar.probing.hear
says what of its kit is reproduced.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from evar.errors import UserError
from evar.options import whole
from evar.protocol import Protocol, no_interval

if TYPE_CHECKING:
    from evar.data.manifest import Manifest
    from evar.models import Model
    from evar.probing.hear import Fitted
    from evar.probing.prepared import Prepared, Sides
    from evar.runtime import Runtime
    from evar.scoring.evaluation import Evaluation

POINTS = 16  # of the grid


@dataclass(frozen=True, kw_only=True)
class HearSettings:
    """grid_points: how many of the grid's 16 points are tried, in the kit's order; it tries 8."""

    grid_points: int = 8
    epochs: int = 500
    crop_seed: int = field(default=42, metadata={"option": False})

    def __post_init__(self):
        whole("epochs", self.epochs)
        if whole("grid_points", self.grid_points) > POINTS:
            raise UserError(f"--grid_points={self.grid_points}: the grid has {POINTS}")


def evaluate(
    model: "Model",
    manifest: "Manifest",
    settings: HearSettings,
    seeds: tuple[int, ...],
    runtime: "Runtime",
) -> "Evaluation":
    """Embeds a task, searches the grid on its first split, and scores the best on all.

    Raises UserError for cross-validation of fewer than three folds, and for fewer epochs than it
    takes until the first check.
    """
    from evar.embedding import embeddings
    from evar.probing import hear, prepared

    task = prepared.prepare(
        manifest,
        lambda: embeddings.embed_task(model, manifest, runtime, crop_seed=settings.crop_seed),
    )
    grid = hear.points(settings.grid_points)
    fits = len(seeds) * (len(grid) + len(task.folds) - 1)
    chosen, tried = [], []
    with task.probing(), runtime.progress.bar("probe", "fit", total=fits) as bar:
        splits = _splits(task)
        for seed in seeds:
            found = hear.search(
                task.embedded.values,
                task.of_views,
                splits,
                grid,
                hear.HearSettings(epochs=settings.epochs),
                score=task.goodness,
                seed=seed,
                device=runtime.device,
                on_fit=bar.update,
            )
            chosen.append(found[0])
            tried.append(found[1])
    records = [[_fold_record(task, i, fit) for i, fit in enumerate(run)] for run in chosen]
    return task.evaluation(
        settings,
        seeds,
        runtime,
        [[fit.scores for fit in run] for run in chosen],
        runs=[
            {
                "seed": seed,
                "folds": folds,
                "fold_std": _deviation(folds),
                "grid": _grid(task, of_run),
            }
            for seed, folds, of_run in zip(seeds, records, tried, strict=True)
        ],
        extra=no_interval(seeds, "HEAR's kit"),
    )


def _splits(task: "Prepared") -> "list[Sides]":
    """Returns HEAR's splits: with folds, test on one, validate on the next, train on the rest."""
    from evar.embedding import embeddings
    from evar.probing import hear

    if not task.manifest.task.folds:
        return task.sides
    as_training = [embeddings.training_rows(task.embedded, fold.test) for fold in task.folds]
    return hear.k_fold_sides(as_training, [sides.test for sides in task.sides])


def _fold_record(task: "Prepared", fold: int, fit: "Fitted") -> dict:
    return {
        "fold": task.folds[fold].name,
        "score": task.test_score(fold, fit.scores),
        "best_epoch": fit.best_epoch,
        "epochs": fit.epochs,
        "valid_score": _valid_score(task, fit),
        "held_out": fit.held_out,
        **asdict(fit.point),
    }


def _deviation(folds: Sequence[dict]) -> float | None:
    """The standard deviation over folds (ddof 1) that HEAR's kit reports; None for one split."""
    import numpy as np

    return float(np.std([fold["score"] for fold in folds], ddof=1)) if len(folds) > 1 else None


def _grid(task: "Prepared", tried: "Sequence[Fitted]") -> list[dict]:
    return [{**asdict(fit.point), "valid_score": _valid_score(task, fit)} for fit in tried]


def _valid_score(task: "Prepared", fit: "Fitted") -> float | None:
    """The metric of the validation rows; None where training diverged."""
    if fit.goodness == float("-inf"):
        return None
    return fit.goodness if task.metric.higher_is_better else -fit.goodness


PROTOCOL = Protocol(
    name="hear",
    version=1,
    title="Score a frozen encoder on a task as HEAR 2021 scored its scene tasks.",
    settings=HearSettings,
    evaluate=evaluate,
    embeds="units",
    seeds=(42,),
    help="""
--grid_points=8    how many of the grid's 16 points are tried on the first split
--epochs=500       maximum number of epochs (early stopping after 20 checks without a gain)
""",
)
