"""What every probe starts from: a task's embeddings, targets, folds, and the rows of each side."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evar.data import targets, windows
from evar.data.manifest import Manifest
from evar.data.targets import Fold
from evar.embedding import embeddings
from evar.embedding.embeddings import Embeddings
from evar.errors import UserError
from evar.probing import probe, rates
from evar.runtime import Runtime
from evar.scoring import metrics, summary
from evar.scoring.evaluation import Evaluation
from evar.scoring.metrics import Metric


class Trained(rates.Scored, Protocol):
    """A trained probe: logits of its test rows (n, C), and how its training went."""

    @property
    def logits(self) -> NDArray: ...

    @property
    def best_epoch(self) -> int: ...

    @property
    def epochs(self) -> int: ...

    @property
    def held_out(self) -> str: ...


@dataclass(frozen=True, eq=False)
class Sides:
    """Rows of the embeddings on each side of a fold; `valid` is None where there is no split.

    recordings: where rows are windows, the recording of each training row.
    """

    train: NDArray
    valid: NDArray | None
    test: NDArray
    recordings: NDArray | None = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """A task, embedded.

    y: targets of clips, (N,) classes or (N, C) of 0 and 1. of_views: those of the embeddings'
    rows, (V,) or (V, C). sides: of each fold, rows of the embeddings. embed_seconds: how long
    embedding took; `ready`: when it had ended (perf_counter).
    """

    manifest: Manifest
    embedded: Embeddings
    names: list[str]
    y: NDArray
    of_views: NDArray
    folds: list[Fold]
    sides: list[Sides]
    embed_seconds: float
    ready: float

    @property
    def metric(self) -> Metric:
        """Returns the metric of the task."""
        return metrics.of_task(self.manifest.task.metric, self.manifest.task.kind)

    def goodness(self, truth: NDArray, scores: NDArray) -> float:
        """Returns the metric of (n, C) scores, the larger the better; -inf where undefined."""
        value = self.metric.value(truth, scores)
        if np.isnan(value):
            return -np.inf
        return value if self.metric.higher_is_better else -value

    def test_score(self, fold: int, scores: NDArray) -> float:
        """Returns the metric of a fold's test scores: (n, C), of clips or of their windows."""
        return self.metric.value(self.y[self.folds[fold].test], self.pooled(fold, scores))

    def pooled(self, fold: int, scores: NDArray) -> NDArray:
        """Returns the scores of a fold's test clips (n, C), from those of its test rows."""
        by, owner = self.manifest.task.windows, self.embedded.owner
        if by is None or owner is None:
            return scores
        rows, clips = self.sides[fold].test, self.folds[fold].test
        return windows.pooled(scores, owner[rows], clips, by.pool)

    def trained_record(self, fold: int, tried: Mapping[float, Trained]) -> dict[str, object]:
        """Returns what a result says of a fold: its score, how the probe's training went.

        tried: probes by learning rate; the best on validation counts.
        """
        chosen = tried[rates.best(tried)]
        return {
            "fold": self.folds[fold].name,
            "score": self.test_score(fold, probe.predicted_scores(chosen.logits)),
            "best_epoch": chosen.best_epoch,
            "epochs": chosen.epochs,
            "valid_score": chosen.valid_score,
            "held_out": chosen.held_out,
            **rates.record(tried),
        }

    @contextlib.contextmanager
    def probing(self) -> Iterator[None]:
        """Turns a probe's ValueError into a UserError that names the task."""
        try:
            yield
        except ValueError as error:
            raise UserError(f"{self.manifest.task.name}: {error}") from error

    def evaluation(
        self,
        settings: Any,
        seeds: Sequence[int],
        runtime: Runtime,
        scores: Sequence[Sequence[NDArray]],
        *,
        runs: Sequence[Mapping[str, object]],
        **more,
    ) -> Evaluation:
        """Returns the evaluation of scores[run][fold], (n, C) of each fold's test rows.

        Those of windows are pooled by recordings. settings: the protocol's, a dataclass. `more`
        goes to `summary.evaluation`.
        """
        by = self.manifest.task.windows
        scores = [[self.pooled(i, of_fold) for i, of_fold in enumerate(run)] for run in scores]
        evaluation = summary.evaluation(
            self.manifest,
            self.folds,
            seeds,
            self.names,
            self.y,
            scores,
            settings={
                **asdict(settings),
                **runtime.treatment,
                **({"windows": asdict(by)} if by else {}),
            },
            runs=tuple(runs),
            seconds={
                "embed": round(self.embed_seconds, 2),
                "probe": round(perf_counter() - self.ready, 2),
            },
            **more,
        )
        return replace(evaluation, clips_per_second=self.embedded.clips_per_second)


def prepare(manifest: Manifest, embed: Callable[[], Embeddings]) -> Prepared:
    """Embeds a task by `embed()` and finds its targets and the rows of its folds.

    Raises UserError for a set that cannot be trained on, before any work.
    """
    metrics.of_task(manifest.task.metric, manifest.task.kind)
    targets.folds_of(manifest)
    started = perf_counter()
    embedded = embed()
    ready = perf_counter()
    manifest = manifest.without(embedded.bad)
    names = targets.class_names(manifest)
    y = targets.encode_labels(manifest, names)
    folds = targets.folds_of(manifest)
    return Prepared(
        manifest,
        embedded,
        names,
        y,
        embeddings.of_views(embedded, y),
        folds,
        [_sides(embedded, fold) for fold in folds],
        ready - started,
        ready,
    )


def _sides(embedded: Embeddings, fold: Fold) -> Sides:
    train = embeddings.training_rows(embedded, fold.train)
    return Sides(
        train,
        None if fold.valid is None else embeddings.training_rows(embedded, fold.valid),
        embeddings.test_rows(embedded, fold.test),
        None if embedded.owner is None else embedded.owner[train],
    )
