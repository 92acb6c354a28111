"""Reads NSynth: one JSON a split, 300,000 notes in all."""

import functools
import json
from pathlib import Path

SPLITS = ("train", "valid", "test")
COUNTS = {"train": 289205, "valid": 12678, "test": 4096}
HASHES = {
    "train": "fde6665a93865503ba598b9fac388660",
    "valid": "87e94a00a19b6dbc99cf6d4c0c0cae87",
    "test": "5e6f8719bf7e16ad0a00d518b78af77d",
}
LICENCE = "CC BY 4.0"
HOMEPAGE = "https://magenta.tensorflow.org/datasets/nsynth"
CITATION = """
@inproceedings{engel2017nsynth,
  author = {Engel, Jesse and Resnick, Cinjon and Roberts, Adam and Dieleman, Sander and Norouzi,
    Mohammad and Eck, Douglas and Simonyan, Karen},
  title = {Neural Audio Synthesis of Musical Notes with {WaveNet} Autoencoders},
  booktitle = {International Conference on Machine Learning (ICML)},
  year = {2017},
  series = {Proceedings of Machine Learning Research},
  volume = {70},
  pages = {1068--1077},
}
"""


def sources():
    from evar.task import Source

    base = "http://download.magenta.tensorflow.org/datasets/nsynth"
    names = {split: f"nsynth-{split}.jsonwav.tar.gz" for split in SPLITS}
    return tuple(
        Source(path=name, url=f"{base}/{name}", md5=HASHES[split], kind="archive")
        for split, name in names.items()
    )


def reader(column: str):
    """Returns a `read` of one property: "instrument_family_str", "pitch" or "velocity"."""
    return functools.partial(_read, column=column)


def _read(root: Path, *, column: str):
    import pandas as pd

    def keep(pairs):
        # Called for every JSON object; of a note only what is needed stays in memory.
        note = dict(pairs)
        if "note_str" in note:
            return note["note_str"], str(note[column]), note["instrument_str"]
        return list(note.values())

    parts = []
    for split in SPLITS:
        with (root / f"nsynth-{split}" / "examples.json").open(encoding="utf-8") as file:
            notes = json.load(file, object_pairs_hook=keep)
        part = pd.DataFrame(notes, columns=["note", "label", "group"])
        part["file"] = f"nsynth-{split}/audio/" + part.note + ".wav"
        parts.append(part.drop(columns="note").assign(split=split))
    return pd.concat(parts, ignore_index=True)
