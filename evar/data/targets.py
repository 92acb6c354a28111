"""Derives from a manifest what protocols need: folds, classes and targets."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evar.data.clip_table import label_set
from evar.data.manifest import Manifest
from evar.errors import UserError


@dataclass(frozen=True, eq=False)
class Fold:
    """Holds the rows of the manifest on each side of one fold (or of the one split)."""

    name: str
    train: NDArray
    valid: NDArray | None
    test: NDArray


def folds_of(manifest: Manifest) -> list[Fold]:
    """Returns the folds of a task: each fold is the test set once; a split task has a single one.

    Raises UserError for a set without a training side.
    """
    side = manifest.good[manifest.task.column]
    if not manifest.task.folds and not (side == "train").any():
        raise UserError(
            f"{manifest.task.name}: no readable clip in split 'train': it serves zero-shot "
            "classification (zeroshot.py) only"
        )
    rows = side.index.to_numpy()
    if manifest.task.folds:
        return [
            Fold(name, rows[side != name], None, rows[side == name]) for name in manifest.task.folds
        ]
    valid = rows[side == "valid"]
    return [
        Fold("test", rows[side == "train"], valid if len(valid) else None, rows[side == "test"])
    ]


def class_names(manifest: Manifest) -> list[str]:
    """Returns the sorted labels of the training clips (with folds: of all clips)."""
    good = manifest.good
    return sorted(
        label_set(good.label if manifest.task.folds else good.label[good.split == "train"])
    )


def encode_labels(manifest: Manifest, names: list[str]) -> NDArray:
    """Returns the targets of all clips: int (N,) classes, or 0/1 (N, C) for multi-label tasks.

    Clips that are not in use are -1, or all 0. A label that no training clip has is not encoded.
    """
    number = {name: i for i, name in enumerate(names)}
    labels = manifest.table.label
    if not manifest.task.multi_label:
        return labels.map(number).fillna(-1).to_numpy(np.int64)
    y = np.zeros((len(labels), len(names)), np.int8)
    for row, label in enumerate(labels):
        y[row, [number[part] for part in label.split(",") if part in number]] = 1
    return y
