"""FSDnoisy18k: twenty classes, most training labels unchecked (Fonseca et al. 2019)."""

from pathlib import Path

from evar.task import Source, Task

_BASE = "https://zenodo.org/record/2529934/files"
_FILES = {
    "FSDnoisy18k.audio_train.zip": "34dc1d34ca44622af5bf439ceb6f0d55",
    "FSDnoisy18k.audio_test.zip": "1ac73d70b4ef3f81900d98c261a832de",
    "FSDnoisy18k.meta.zip": "96e27a4a63b7a2870522ddcedb5d8296",
}
_VALID = 0.1
_SEED = 42


def read(root: Path):
    import numpy as np
    import pandas as pd

    meta = root / "FSDnoisy18k.meta"
    train = pd.read_csv(meta / "train.csv", dtype=str).sort_values("fname")
    test = pd.read_csv(meta / "test.csv", dtype=str)
    split = np.full(len(train), "train", dtype=object)
    held = np.random.default_rng(_SEED).permutation(len(train))[: int(_VALID * len(train))]
    split[held] = "valid"
    return pd.concat(
        [
            pd.DataFrame({"file": f"{folder}/" + t.fname, "label": t.label, "split": side})
            for folder, t, side in (
                ("FSDnoisy18k.audio_train", train, split),
                ("FSDnoisy18k.audio_test", test, "test"),
            )
        ],
        ignore_index=True,
    )


TASK = Task(
    name="fsdnoisy18k",
    version="1",
    title="FSDnoisy18k: sound events, noisy labels",
    read=read,
    marker="FSDnoisy18k.meta",
    folders=("FSDnoisy18k",),
    metadata="FSDnoisy18k.meta/train.csv and test.csv",
    seconds=8.25,
    classes=20,
    counts={"train": 15827, "valid": 1758, "test": 947},
    silence=True,
    sources=tuple(
        Source(path=name, url=f"{_BASE}/{name}?download=1", md5=md5, kind="archive")
        for name, md5 in _FILES.items()
    ),
    licence="CC BY or CC0, clip by clip",
    homepage="https://zenodo.org/record/2529934",
    citation="""
        @inproceedings{fonseca2019fsdnoisy18k,
          author = {Fonseca, Eduardo and Plakal, Manoj and Ellis, Daniel P. W. and Font, Frederic
            and Favory, Xavier and Serra, Xavier},
          title = {Learning Sound Event Classifiers from Web Audio with Noisy Labels},
          booktitle = {IEEE International Conference on Acoustics, Speech and Signal Processing
            (ICASSP)},
          year = {2019},
          pages = {21--25},
        }
    """,
    notes=(
        "Not part of the paper. The reference harness draws its validation tenth without a seed; "
        "here it is drawn with seed 42 from the sorted names.",
    ),
)
