"""Clotho v2.1: five captions a clip, for audio-text retrieval (Drossos et al. 2020)."""

from pathlib import Path

from evar.task import Source, Task

_BASE = "https://zenodo.org/record/4783391/files"
_SIDES = {"train": "development", "valid": "validation", "test": "evaluation"}
_FILES = {
    "clotho_audio_development.7z": "c8b05bc7acdb13895bb3c6a29608667e",
    "clotho_audio_validation.7z": "7dba730be08bada48bd15dc4e668df59",
    "clotho_audio_evaluation.7z": "4569624ccadf96223f19cb59fe4f849f",
    "clotho_captions_development.csv": "d4090b39ce9f2491908eebf4d5b09bae",
    "clotho_captions_validation.csv": "5879e023032b22a2c930aaa0528bead4",
    "clotho_captions_evaluation.csv": "1b16b9e57cf7bdb7f13a13802aeb57e2",
}


def read_captions(root: Path):
    import pandas as pd

    parts = []
    for split, side in _SIDES.items():
        table = pd.read_csv(root / f"clotho_captions_{side}.csv", dtype=str, keep_default_na=False)
        long = table.melt("file_name", value_name="caption")
        parts.append(
            pd.DataFrame(
                {"file": f"{side}/" + long.file_name, "split": split, "caption": long.caption}
            )
        )
    return pd.concat(parts, ignore_index=True)


def read(root: Path):
    return read_captions(root)[["file", "split"]].drop_duplicates().assign(label="")


TASK = Task(
    name="clotho",
    version="1",
    title="Clotho v2.1: captions",
    read=read,
    read_captions=read_captions,
    marker="clotho_captions_evaluation.csv",
    folders=("Clotho",),
    metadata="clotho_captions_*.csv",
    seconds=None,
    kind="retrieval",
    counts={"train": 3839, "valid": 1045, "test": 1045},
    silence=True,
    sources=(
        *(
            Source(
                path=name,
                url=f"{_BASE}/{name}?download=1",
                md5=md5,
                kind="table" if name.endswith(".csv") else "guide",
            )
            for name, md5 in _FILES.items()
        ),
        Source(
            path="development/, validation/, evaluation/",
            kind="guide",
            how="Unpack the three .7z files here with 7-Zip",
        ),
    ),
    licence="a Creative Commons licence a clip; captions for non-commercial use with attribution",
    homepage="https://zenodo.org/record/4783391",
    citation="""
        @inproceedings{drossos2020clotho,
          author = {Drossos, Konstantinos and Lipping, Samuel and Virtanen, Tuomas},
          title = {{Clotho}: An Audio Captioning Dataset},
          booktitle = {IEEE International Conference on Acoustics, Speech and Signal Processing
            (ICASSP)},
          year = {2020},
          pages = {736--740},
        }
    """,
    notes=("development is train, validation valid, evaluation test; others swap the last two.",),
)
