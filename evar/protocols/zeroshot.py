"""Zero-shot classification: the class whose caption is nearest to the clip (docs/zeroshot.md).

M2D-CLAP (Niizumi et al., Interspeech 2024), Section 4.5: cosine similarity in the joint space,
no training data. A pure function of model, task and captions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evar.adapter import Adapter
from evar.data import clip_table, indexing, prompts, targets
from evar.data.manifest import Manifest
from evar.data.own_sounds import UNKNOWN
from evar.data.prompts import CaptionRule
from evar.embedding import embeddings
from evar.errors import UserError
from evar.scoring import summary
from evar.scoring.summary import Evaluation

NAME = "zeroshot"
VERSION = 2  # raise it when scores change


def classifier(text: NDArray, sizes: Sequence[int]) -> NDArray:
    """Embeddings of captions (N, E) -> one unit vector a class (C, E).

    `sizes` (C,) says how many captions each class has, one class after the other. Captions of one
    class are normalised, averaged, normalised (CLIP's prompt ensembles; Radford et al. 2021,
    Section 3.1.4).
    """
    ends = np.cumsum(sizes)
    parts = np.split(normalised(text), ends[:-1])
    return normalised(np.stack([part.mean(axis=0) for part in parts]))


def normalised(x: NDArray) -> NDArray:
    """Rows of (N, E) at length one."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class Classified:
    """Cosine similarities (N, C) of test clips to classes, and the clips' rows in the manifest."""

    similarity: NDArray
    rows: NDArray
    names: list[str]
    captions: list[tuple[str, ...]]
    text: dict  # what the captions' embeddings depend on beyond the model's own weights
    seconds: float
    manifest: Manifest


def classify(
    adapter: Adapter,
    identity: dict,
    manifest: Manifest,
    names: list[str],
    captions: list[tuple[str, ...]],
    *,
    cache: Path | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    batch_size: int | None = None,
    skip_bad: bool = False,
    clip_progress: Callable | None = None,
    caption_progress: Callable | None = None,
) -> Classified:
    """Similarities of all test clips (with folds: all clips), read whole, to all classes.

    `manifest`: that of the test side (`Manifest.test_side`), so that no other clip counts. `names`
    (C,) are the classes, `captions` the captions of each. Raises UserError for clips that cannot
    be decoded and for an adapter that reads no captions or gives anything but finite embeddings.
    """
    embeddings.require_joint_space(adapter)
    if len(names) < 2:
        raise UserError(f"{manifest.task.name}: a single class: there is nothing to tell apart")
    started = perf_counter()
    good = manifest.good
    side = good if manifest.task.folds else good[good.split == "test"]
    of_text = adapter.text_identity()
    text = embeddings.embed_captions(
        adapter,
        identity | of_text,
        [caption for of_class in captions for caption in of_class],
        cache=cache,
        device=device,
        progress=caption_progress,
    )
    audio, bad = embeddings.embed_whole(
        adapter,
        identity,
        manifest,
        side.index,
        cache=cache,
        device=device,
        precision=precision,
        batch_size=batch_size,
        skip_bad=skip_bad,
        progress=clip_progress,
    )
    kept = ~side.index.isin(list(bad))
    weights = classifier(text, [len(of_class) for of_class in captions])
    rows = side.index[kept].to_numpy()
    similarity = normalised(audio[kept]) @ weights.T
    used = manifest.without(bad)
    took = round(perf_counter() - started, 2)
    return Classified(similarity, rows, names, captions, of_text, took, used)


def captions_of(rule: CaptionRule, manifest: Manifest, names: list[str]) -> list[tuple[str, ...]]:
    """The captions of a task's classes by a rule, with the titles that the data set gives."""
    return rule.captions(names, titles_of(manifest))


def titles_of(manifest: Manifest) -> Mapping[str, str]:
    """What the data set calls its labels, where they are codes."""
    task = manifest.task
    return indexing.own_table(task, task.titles, manifest.root) if task.titles else {}


def evaluate(classified: Classified, rule: CaptionRule, *, precision: str = "fp32") -> Evaluation:
    """Score what `classify` gave: accuracy pooled over all folds, or macro mAP.

    `rule` and `precision` go into the record.
    """
    manifest, names, similarity = classified.manifest, classified.names, classified.similarity
    y = targets.encode_labels(manifest, names)
    nobody = np.zeros(0, dtype=np.int64)
    fold = targets.Fold("all" if manifest.task.folds else "test", nobody, None, classified.rows)
    record = {
        "protocol": NAME,
        "protocol_version": VERSION,
        "settings": {
            "captions": prompts.digest(classified.captions),
            "templates": list(rule.templates),
            "rule": rule.source,
            "reading": "whole clips",
            "precision": precision,
            "text": classified.text,
        },
        "seeds": [],  # nothing random decides
        "clips": summary.count_clips(manifest),
        **summary.summarise(manifest, [fold], y, names, similarity[None]),  # one run: (1, N, C)
        "captions": {n: list(c) for n, c in zip(names, classified.captions, strict=True)},
        "seconds": {"embed": classified.seconds},
    }
    predictions = summary.predictions(manifest, fold, 0, names, similarity).drop(columns="seed")
    tables = {"similarities": _table(classified)}
    if manifest.task.multi_label:  # a cosine has no threshold: the likeliest class stands alone
        predictions["predicted"] = np.array(names)[similarity.argmax(axis=1)]
    else:
        tables["confusion"] = confusion(predictions)
    return Evaluation(record, predictions, tables)


def _table(classified: Classified) -> pd.DataFrame:
    """One row a clip: its file and its similarity to every class."""
    table = pd.DataFrame(classified.similarity.round(5), columns=classified.names)
    files = classified.manifest.table.file.to_numpy()[classified.rows]
    table.insert(0, "clip", files, allow_duplicates=True)  # a class may be called so
    return table


def answer(classified: Classified) -> str:
    """For a person to read: every clip with its best label and the similarity to each label."""
    table = _table(classified)
    best = np.array(classified.names)[classified.similarity.argmax(axis=1)]
    table.insert(1, "best", best, allow_duplicates=True)
    return table.to_string(index=False, float_format="%.3f")


def class_names(manifest: Manifest) -> list[str]:
    """The classes of a task: the labels of all its clips, of whatever side, here or missing.

    So a copy without some clips, or without the training side, is asked the same question.
    """
    return sorted(clip_table.label_set(manifest.table.label))


def confusion(predictions: pd.DataFrame) -> pd.DataFrame:
    """The confusion matrix as a list: true, predicted, count; pairs that never occur are absent."""
    counted = predictions.groupby(["true", "predicted"]).size()
    return counted.rename("count").reset_index()


def explain(result: Classified, count: int = 6, best: int = 5) -> list[str]:
    """For some clips, evenly spread over the set, the captions that are nearest to each."""
    lines = []
    total = len(result.rows)
    for i in range(min(count, total)):
        at = i * total // min(count, total)
        row = result.manifest.table.loc[result.rows[at]]
        truth = set() if row.label == UNKNOWN else set(row.label.split(","))
        lines.append(f"{row.file}" + (f" (true: {row.label})" if truth else ""))
        for number in np.argsort(-result.similarity[at], kind="stable")[:best]:
            mark = "*" if result.names[number] in truth else " "
            caption = " | ".join(result.captions[number])
            lines.append(f"  {mark} {result.similarity[at, number]:+.3f}  {caption}")
    return lines
