"""Few shots: logistic regression on N clips of each class, over ten draws (docs/probes.md).

The classifier is MTEB's; --preset=mteb draws as MTEB does, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from evar.errors import UserError, unknown
from evar.options import whole
from evar.protocol import Protocol

if TYPE_CHECKING:
    from evar.data.manifest import Manifest
    from evar.models import Model
    from evar.probing.fewshot import Fitted
    from evar.probing.prepared import Prepared
    from evar.runtime import Runtime
    from evar.scoring.evaluation import Evaluation

PRESETS = ("", "mteb")


@dataclass(frozen=True, kw_only=True)
class FewshotSettings:
    """shots: numbers of clips per class (or one); the last is the score, all are the curve.

    preset: "" or "mteb", 8 shots drawn as MTEB draws them.
    """

    shots: tuple[int, ...] = (1, 4, 8, 16)
    preset: str = ""
    crop_seed: int = field(default=42, metadata={"option": False})

    def __post_init__(self):
        several = isinstance(self.shots, (tuple, list))
        object.__setattr__(self, "shots", tuple(self.shots) if several else (self.shots,))
        if self.preset not in PRESETS:
            raise unknown("preset", self.preset, PRESETS[1:])
        for shots in self.shots:
            whole("shots", shots)
        if not self.shots or len(set(self.shots)) < len(self.shots):
            raise UserError(f"--shots={self.shots}: it is different numbers, e.g. --shots=1,4,8,16")


def resolve(given: Mapping[str, Any], model: "Model", manifest: "Manifest") -> FewshotSettings:
    """Returns the settings: a preset decides on the shots."""
    given = dict(given)
    if given.get("preset") == "mteb":
        if "shots" in given:
            raise UserError("--preset=mteb has 8 shots: leave --shots out, or the preset")
        given["shots"] = (8,)
    return FewshotSettings(**given)


def evaluate(
    model: "Model",
    manifest: "Manifest",
    settings: FewshotSettings,
    seeds: tuple[int, ...],
    runtime: "Runtime",
) -> "Evaluation":
    """Embeds a task, and scores its test clips after training on few clips; a seed is a draw.

    Raises UserError for data that cannot be scored honestly and for adapters that return anything
    but finite embeddings.
    """
    import pandas as pd

    from evar.embedding import embeddings
    from evar.probing import fewshot, prepared

    task = prepared.prepare(
        manifest,
        lambda: embeddings.embed_task(model, manifest, runtime, crop_seed=settings.crop_seed),
    )
    fits = len(settings.shots) * len(seeds) * len(task.folds)
    with task.probing(), runtime.progress.bar("probe", "fit", total=fits) as bar:
        found = fewshot.curve(
            task.embedded.values,
            task.of_views,
            task.sides,
            shots=settings.shots,
            seeds=seeds,
            mteb=settings.preset == "mteb",
            on_fit=bar.update,
        )
    rows = _rows(task, seeds, found)
    scored = found[settings.shots[-1]]
    return task.evaluation(
        settings,
        seeds,
        runtime,
        [[fit.scores for fit in draw] for draw in scored],
        runs=[
            {"seed": seed, "folds": [_fold_record(task, i, fit) for i, fit in enumerate(draw)]}
            for seed, draw in zip(seeds, scored, strict=True)
        ],
        extra={"curve": _curve(rows, settings.shots)},
        tables={"curve": pd.DataFrame(rows)},
    )


def _rows(
    task: "Prepared", seeds: Sequence[int], found: "Mapping[int, list[list[Fitted]]]"
) -> list[dict]:
    """Returns one row per number of shots, draw and fold."""
    return [
        {"shots": shots, "seed": seed, **_fold_record(task, i, fit)}
        for shots, draws in found.items()
        for seed, draw in zip(seeds, draws, strict=True)
        for i, fit in enumerate(draw)
    ]


def _curve(rows: Sequence[Mapping], shots: Sequence[int]) -> list[dict]:
    """Returns for each number of shots the mean over draws, with its interval."""
    import numpy as np

    from evar.scoring import statistics

    points = []
    for n in shots:
        of_draw: dict[int, list[float]] = {}
        for row in rows:
            if row["shots"] == n:
                of_draw.setdefault(row["seed"], []).append(row["score"])
        points.append(
            {"shots": n, **asdict(statistics.over_runs([np.mean(s) for s in of_draw.values()]))}
        )
    return points


def _fold_record(task: "Prepared", fold: int, fit: "Fitted") -> dict:
    return {
        "fold": task.folds[fold].name,
        "score": task.test_score(fold, fit.scores),
        "clips": len(fit.rows),
        "converged": fit.converged,
    }


PROTOCOL = Protocol(
    name="fewshot",
    version=1,
    title="Score a frozen encoder on a task after training on a few clips of each class.",
    settings=FewshotSettings,
    resolve=resolve,
    evaluate=evaluate,
    embeds="units",
    seeds=tuple(range(42, 52)),  # draws
    help="""
--shots=1,4,8,16   training clips per class; the last is the score, all are the curve
--preset=mteb      8 shots, drawn as MTEB draws them
""",
)
