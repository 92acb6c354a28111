"""Zero-shot classification: the class whose caption is nearest to the clip (docs/zeroshot.md).

M2D-CLAP (Niizumi et al., Interspeech 2024), Section 4.5: cosine similarity in the joint space,
no training data. Letters: N clips, C classes, E joint space.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from evar import task as tasks
from evar.errors import UserError, unknown
from evar.protocol import Protocol

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from evar.data.manifest import Manifest
    from evar.models import Model
    from evar.runtime import Runtime
    from evar.scoring.evaluation import Evaluation
    from evar.task import Task


CLIPS = ("unit", "whole")


@dataclass(frozen=True, kw_only=True)
class ZeroshotSettings:
    """How much of each clip is read, and where the captions of the classes are from.

    clips: "unit" cuts or zero-pads each clip to the task's unit, "whole" reads it to its end
    (`usual_clips` is the default). template: one caption for all classes, "{label}" in it;
    several, with "|" between them, are averaged. captions: the path of a YAML file of caption
    rules. By default the task's own rule makes the captions.
    """

    clips: str = "unit"
    template: str | None = None
    captions: str | None = None

    def __post_init__(self):
        if self.clips not in CLIPS:
            raise unknown("--clips", str(self.clips), CLIPS)
        if self.template is not None and self.captions is not None:
            raise UserError("--template and --captions: give one of them")


def usual_clips(model: "Model", task: "Task") -> str:
    """Returns how zero-shot classification reads the clips of a task by default.

    Clips of registered tasks are cut or zero-padded to the unit, as in the evaluation behind Table
    5 of the M2D-CLAP paper, but for models that were given whole files there
    (`Adapter.whole_clips`). A user's own sounds have no published unit and are read whole.
    """
    whole = model.adapter.whole_clips or task.seconds is None or tasks.is_own(task)
    return "whole" if whole else "unit"


def resolve(given: Mapping[str, Any], model: "Model", manifest: "Manifest") -> ZeroshotSettings:
    """Returns the settings of one run; UserError for --clips=unit where the task has no unit."""
    settings = ZeroshotSettings(**{"clips": usual_clips(model, manifest.task), **given})
    if settings.clips == "unit" and manifest.task.seconds is None:
        raise UserError(f"--clips=unit: {manifest.task.name} has no unit: its clips are read whole")
    return settings


@dataclass(frozen=True)
class Classified:
    """Cosine similarities (N, C) of test clips to classes, and the clips' rows in the manifest."""

    similarity: "NDArray"
    rows: "NDArray"
    names: list[str]
    captions: list[tuple[str, ...]]
    text: Mapping[str, str]  # what the captions' embeddings depend on beyond the model's weights
    seconds: float
    clips_per_second: float | None
    manifest: "Manifest"

    def table(self) -> "pd.DataFrame":
        """Returns one row per clip: its file and its similarity to every class."""
        import pandas as pd

        table = pd.DataFrame(self.similarity.round(5), columns=self.names)
        clips = self.manifest.clips.to_numpy()[self.rows]
        table.insert(0, "clip", clips, allow_duplicates=True)  # a class may have this name
        return table


def class_names(manifest: "Manifest") -> list[str]:
    """Returns the classes of a task: the labels of all its clips, on any side, here or missing.

    So an incomplete copy, or one without the training side, asks the same question.
    """
    from evar.data.clip_table import label_set

    return sorted(label_set(manifest.table.label))


def classifier(text: "NDArray", sizes: Sequence[int]) -> "NDArray":
    """Returns one unit vector per class (C, E) from embeddings of captions (N, E).

    sizes: (C,) how many captions each class has, one class after the other. Captions of one class
    are normalised, averaged, normalised (CLIP's prompt ensembles; Radford et al. 2021, Section
    3.1.4).
    """
    import numpy as np

    from evar.scoring.ranking import normalised

    parts = np.split(normalised(text), np.cumsum(sizes)[:-1])
    return normalised(np.stack([part.mean(axis=0) for part in parts]))


def classify(
    model: "Model",
    manifest: "Manifest",
    names: list[str],
    captions: list[tuple[str, ...]],
    runtime: "Runtime",
    *,
    unit: bool = False,
) -> Classified:
    """Returns similarities of all test clips (with folds: all clips) to all classes.

    manifest: that of the test side (`Manifest.test_side`). names: the C classes. captions:
    those of each class. unit: clips are cut or zero-padded to the task's unit, not read whole.
    Raises UserError for clips that cannot be decoded, for an adapter that reads no captions or
    returns anything but finite embeddings, and for a single class.
    """
    from evar.embedding import embeddings
    from evar.scoring.ranking import normalised

    embeddings.require_joint_space(model.adapter)
    if len(names) < 2:
        raise UserError(f"{manifest.task.name}: a single class: there is nothing to tell apart")
    started = perf_counter()
    good = manifest.good
    side = good if manifest.task.folds else good[good.split == "test"]
    flat = [caption for of_class in captions for caption in of_class]
    text = embeddings.embed_captions(model, flat, runtime)
    audio, bad, speed = embeddings.embed_whole(model, manifest, side.index, runtime, unit=unit)
    kept = ~side.index.isin(list(bad))
    weights = classifier(text, [len(of_class) for of_class in captions])
    return Classified(
        similarity=normalised(audio[kept]) @ weights.T,
        rows=side.index[kept].to_numpy(),
        names=names,
        captions=captions,
        text=model.adapter.text_identity(),
        seconds=round(perf_counter() - started, 2),
        clips_per_second=speed,
        manifest=manifest.without(bad),
    )


def evaluate(
    model: "Model",
    manifest: "Manifest",
    settings: ZeroshotSettings,
    seeds: tuple[int, ...],
    runtime: "Runtime",
) -> "Evaluation":
    """Scores the nearest caption of every test clip: accuracy pooled over folds, or macro mAP."""
    import numpy as np

    from evar.data import prompts, targets
    from evar.scoring import summary

    names = class_names(manifest)
    rule = prompts.rule_of(manifest, names, template=settings.template, path=settings.captions)
    test = manifest.test_side()
    captions = rule.captions(names, prompts.titles_of(manifest))
    unit = settings.clips == "unit"
    found = classify(model, test, names, captions, runtime, unit=unit)
    y = targets.encode_labels(found.manifest, names)
    nothing = np.zeros(0, dtype=np.int64)
    side = "all" if test.task.folds else "test"
    fold = targets.Fold(side, nothing, None, found.rows)
    evaluation = summary.evaluation(
        found.manifest,
        [fold],
        (),
        names,
        y,
        [[found.similarity]],
        settings={
            "captions": prompts.digest(captions),
            "templates": list(rule.templates),
            "rule": rule.source,
            "reading": "unit" if unit else "whole clips",
            **runtime.treatment,
            "text": dict(found.text),
        },
        seconds={"embed": found.seconds},
        extra={"captions": {n: list(c) for n, c in zip(names, captions, strict=True)}},
        tables={"similarities": found.table()},
        threshold=None,  # a cosine has none: of several labels the likeliest stands alone
    )
    evaluation = replace(evaluation, clips_per_second=found.clips_per_second)
    if test.task.multi_label:
        return evaluation
    confusion = summary.confusion(evaluation.predictions)
    return replace(evaluation, tables={**evaluation.tables, "confusion": confusion})


PROTOCOL = Protocol(
    name="zeroshot",
    version=3,
    title="Classify clips by captions of the classes, without any training.",
    settings=ZeroshotSettings,
    resolve=resolve,
    evaluate=evaluate,
    embeds="joint",
    needs=frozenset({"text"}),
    trains=False,
    help="""
--clips=unit   cut or zero-pad each clip to the task's unit, or whole: read it to its end; default:
               unit, but whole for MS-CLAP and for a CSV (docs/zeroshot.md)
--template="a recording of {label}"  caption of every class, instead of the task's rule;
               several, with "|" between them, are averaged
--captions=FILE.yaml  captions as `templates` and `labels` (docs/zeroshot.md)
""",
)
