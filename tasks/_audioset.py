"""Reads AudioSet: segment lists name the clips, folders hold those a user could get."""

import csv
import functools
import os
from collections.abc import Mapping
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
CITATION = """
@inproceedings{gemmeke2017audioset,
  author = {Gemmeke, Jort F. and Ellis, Daniel P. W. and Freedman, Dylan and Jansen, Aren and
    Lawrence, Wade and Moore, R. Channing and Plakal, Manoj and Ritter, Marvin},
  title = {Audio Set: An Ontology and Human-Labeled Dataset for Audio Events},
  booktitle = {IEEE International Conference on Acoustics, Speech and Signal Processing (ICASSP)},
  year = {2017},
  pages = {776--780},
}
"""
NOTES = (
    "Every copy is partial and no two are equal: the clips found are counted with the score.",
    "A clip counts only if its file lies in the folder of its own segment list, or below it.",
    "Classes are in the order of their sorted ids, not that of class_labels_indices.csv.",
    "Some downloaders leave files of length zero behind: they are named when the set is indexed.",
)
_SOUNDS = (".wav", ".flac", ".mp3", ".ogg")
_ID = 11  # characters of a YouTube id, with which every file name begins


def sources(*lists: str):
    from evar.task import Source

    tables = tuple(
        Source(
            path=f"{name}.csv",
            url=f"{_BASE}/{name}.csv",
            bytes=_FILES[name][0],
            sha256=_FILES[name][1],
        )
        for name in (*lists, "class_labels_indices")
    )
    audio = Source(
        path=", ".join(f"{name}/" for name in lists),
        kind="guide",
        how="There is no official audio. Put your clips, ten seconds each and named "
        "{YouTube id}*.wav (or .flac, .mp3, .ogg), into folders named like the segment lists",
    )
    return (*tables, audio)


def reader(**splits: tuple[str, ...]):
    """Returns a `read` for segment lists: reader(train=(BALANCED,), test=(EVAL,))."""
    return functools.partial(_read, splits=splits)


def _read(root: Path, *, splits: Mapping[str, tuple[str, ...]]):
    import pandas as pd

    parts = [
        _found(root, name).assign(split=split) for split, lists in splits.items() for name in lists
    ]
    return pd.concat(parts, ignore_index=True)


def _found(root: Path, name: str):
    """Returns a table (file, label) of the clips of one list that are in its folder."""
    import numpy as np
    import pandas as pd

    # "#" begins the three header lines and occurs in no id.
    table = pd.read_csv(
        root / f"{name}.csv",
        **{"comment": "#", "header": None, "skipinitialspace": True, "dtype": str},
        **{"usecols": [0, 3], "names": ["id", "start", "end", "label"], "keep_default_na": False},
    )
    ids, files = _files(root, name)
    if not len(ids):
        return pd.DataFrame({"file": [], "label": []}, dtype=str)
    wanted = table.id.to_numpy(dtype=object).astype(ids.dtype)
    at = np.searchsorted(ids, wanted).clip(max=len(ids) - 1)
    here = ids[at] == wanted
    file, label = files.iloc[at[here]], table.label[here]
    return pd.DataFrame(
        {"file": file.reset_index(drop=True), "label": label.reset_index(drop=True)}
    )


def _files(root: Path, name: str):
    """Ids (N,), sorted, as bytes, and the paths relative to `root` (N,) of the sounds in a folder.

    Arrays rather than a dictionary: there are two million files, and less than 1 GB for them.
    """
    import numpy as np
    import pandas as pd

    ids, files = [np.array([], f"S{_ID}")], [pd.Series([], dtype=str)]
    for folder, below, names in os.walk(root / name):
        below.sort()  # of several files of one id, the first in this order counts
        names = sorted(n for n in names if n.lower().endswith(_SOUNDS))
        place = Path(folder).relative_to(root).as_posix()
        ids.append(np.array([os.fsencode(n)[:_ID] for n in names], f"S{_ID}"))
        files.append(pd.Series([f"{place}/{n}" for n in names], dtype=str))
    ids, first = np.unique(np.concatenate(ids), return_index=True)
    return ids, pd.concat(files, ignore_index=True).iloc[first]


def titles(root: Path) -> dict[str, str]:
    """Returns the display name of every class id."""
    with (root / "class_labels_indices.csv").open(newline="", encoding="utf-8") as lines:
        return {row["mid"]: row["display_name"] for row in csv.DictReader(lines)}
