"""Reading AudioSet: segment lists name the clips, folders hold those a user could get."""

import csv
from pathlib import Path

BALANCED, UNBALANCED, EVAL = (
    "balanced_train_segments",
    "unbalanced_train_segments",
    "eval_segments",
)
_BASE = "http://storage.googleapis.com/us_audioset/youtube_corpus/v1/csv"
_FILES = {
    BALANCED: (1211931, "3b83e5ff9ed72cfda37d4e36ce08250e107c1ea70f109f6ab6668ac200db5e94"),
    UNBALANCED: (101468408, "bb2dfd5e4f1ced39db9480633c510f813d7899f4b7472aa83a411b4a43a12698"),
    EVAL: (1143389, "f7055f53935f70e74e39494a5c8c4c78f1700fce275028bd36e31186f33d45db"),
    "class_labels_indices": (
        14675,
        "cdd1049833c4b86127c2773ac0d14a2754b6a6d0d1798002ed5c66e699708429",
    ),
}
LICENCE = "lists CC BY 4.0; the audio is not distributed"
HOMEPAGE = "https://research.google.com/audioset/"
HOW = (
    "There is no official audio. Put your clips, ten seconds each and named "
    "{YouTube id}*.wav (or .flac, .mp3, .ogg), into folders named like the segment lists"
)
NOTES = (
    "Every copy is partial and no two are equal: the clips found are counted beside the score.",
    "A clip counts only if its file lies in the folder of its own segment list.",
    "Classes are in the order of their sorted ids, not that of class_labels_indices.csv.",
    "Some downloaders leave files of length zero behind: they are named when the set is indexed.",
)
_SOUNDS = {".wav", ".flac", ".mp3", ".ogg"}


def sources(*lists: str):
    from evar.task import Source

    return tuple(
        Source(
            path=f"{name}.csv",
            url=f"{_BASE}/{name}.csv",
            bytes=_FILES[name][0],
            sha256=_FILES[name][1],
            how=HOW,
        )
        for name in (*lists, "class_labels_indices")
    )


def reader(**splits: tuple[str, ...]):
    """A `read` for segment lists: reader(train=(BALANCED,), test=(EVAL,))."""

    def read(root: Path):
        import pandas as pd

        rows = [
            row
            for split, lists in splits.items()
            for name in lists
            for row in _found(root, name, split)
        ]
        return pd.DataFrame(rows, columns=["file", "label", "split"])

    return read


def _found(root: Path, name: str, split: str):
    """(file, labels, split) of the clips of one list that are in its folder."""
    files = {
        path.name[:11]: path.relative_to(root).as_posix()
        for path in sorted((root / name).rglob("*"))
        if path.suffix in _SOUNDS
    }
    with (root / f"{name}.csv").open(newline="", encoding="utf-8") as lines:
        for row in csv.reader(lines, skipinitialspace=True):
            if row and not row[0].startswith("#") and row[0] in files:
                yield files[row[0]], row[3], split


def titles(root: Path) -> dict[str, str]:
    """The display name of every class id."""
    with (root / "class_labels_indices.csv").open(newline="", encoding="utf-8") as lines:
        return {row["mid"]: row["display_name"] for row in csv.DictReader(lines)}
