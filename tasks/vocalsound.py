"""VocalSound: six sounds people make without words (Gong et al. 2022)."""

import json
from pathlib import Path, PurePosixPath

from evar.task import Source, Task

_CLASSES = {
    "cough": "Cough",
    "laughter": "Laughter",
    "sigh": "Sigh",
    "sneeze": "Sneeze",
    "sniff": "Sniff",
    "throatclearing": "Throat clearing",
}
_LISTS = {"train": "tr", "valid": "val", "test": "te"}


def read(root: Path):
    import pandas as pd

    folder = "audio_16k" if (root / "audio_16k").exists() else "data_44k"  # of either release
    rows = []
    for split, name in _LISTS.items():
        path = root / "datafiles" / f"{name}.json"
        if not path.exists():
            path = root / "datafiles" / f"{name}_rev.json"
        for entry in json.loads(path.read_text(encoding="utf-8"))["data"]:
            clip = PurePosixPath(entry["wav"]).name  # {speaker}_{number}_{sound}.wav
            speaker, _, sound = clip.removesuffix(".wav").split("_")
            rows.append((f"{folder}/{clip}", _CLASSES[sound], split, speaker))
    return pd.DataFrame(rows, columns=["file", "label", "split", "group"])


TASK = Task(
    name="vocalsound",
    version="1",
    title="VocalSound: coughs, laughter, sighs and their like",
    read=read,
    marker="datafiles",
    folders=("VocalSound", "vs_release_16k", "vs_release_44k"),
    metadata="datafiles/tr.json, val.json, te.json (or *_rev.json)",
    seconds=4.18,
    classes=6,
    counts={"train": 15570, "valid": 1860, "test": 3594},
    group="speaker",
    silence=True,
    sources=(
        Source(
            path="vs_release_16k.zip",
            url="https://www.dropbox.com/s/c5ace70qh1vbyzb/vs_release_16k.zip?dl=1",
            kind="archive",
        ),
    ),
    licence="CC BY-SA 4.0",
    homepage="https://github.com/YuanGongND/vocalsound",
    citation="""
        @inproceedings{gong2022vocalsound,
          author = {Gong, Yuan and Yu, Jin and Glass, James},
          title = {{VocalSound}: A Dataset for Improving Human Vocal Sounds Recognition},
          booktitle = {IEEE International Conference on Acoustics, Speech and Signal Processing
            (ICASSP)},
          year = {2022},
          pages = {151--155},
        }
    """,
    notes=(
        "Not part of the paper. The split sizes are from memory of the data set's paper; only "
        "their sum, 21,024, was confirmed.",
        "Releases have tr, val and te lists or *_rev ones; the former are used where both exist.",
        "A release at 44.1 kHz (data_44k/) is read too: dropbox.com/s/ybgaprezl8ubcce.",
        "No checksum is published. The caption rule is the reference harness's default.",
    ),
)
