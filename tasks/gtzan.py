"""GTZAN: ten genres of music, without its faulty and repeated files (Tzanetakis and Cook 2002)."""

from pathlib import Path

from evar.task import Source, Task


def lists() -> dict[str, list[str]]:
    """The fault-filtered, artist-filtered lists: names such as "blues.00029" of each split."""
    # Under MIT in github.com/jongpillee/music_dataset_split; torchaudio ships the same names.
    from torchaudio.datasets import gtzan

    return {
        "train": gtzan.filtered_train,
        "valid": gtzan.filtered_valid,
        "test": gtzan.filtered_test,
    }


def read(root: Path):
    import pandas as pd

    rows = []
    for split, names in lists().items():
        for name in names:
            genre = name.partition(".")[0]
            # The original archive holds .au, copies of it .wav.
            ending = ".au" if (root / genre / f"{name}.au").exists() else ".wav"
            rows.append((f"{genre}/{name}{ending}", genre, split))
    return pd.DataFrame(rows, columns=["file", "label", "split"])


TASK = Task(
    name="gtzan",
    version="1",
    title="GTZAN: musical genre",
    read=read,
    marker="blues",
    folders=("GTZAN", "genres"),
    metadata="the fault-filtered lists",
    seconds=30.0,
    classes=10,
    counts={"train": 443, "valid": 197, "test": 290},
    silence=True,
    captions="{label} music can be heard",
    sources=(
        Source(
            path="genres.tar.gz",
            url="https://huggingface.co/datasets/marsyas/gtzan/resolve/main/data/genres.tar.gz",
            bytes=1225571541,
            sha256="24347e0223d2ba798e0a558c4c172d9d4a19c00bb7963fe055d183dadb4ef2c6",
            md5="5b3d6dddb579ab49814ab86dba69e7c7",
            kind="archive",
            how="The original address, opihi.cs.uvic.ca/sound/genres.tar.gz, is gone since 2022; "
            "take a copy only if the checksum agrees",
        ),
    ),
    licence="none stated; excerpts of copyrighted recordings",
    homepage="http://marsyas.info/downloads/datasets.html",
    notes=(
        "930 of the 1,000 files are used: 443 / 197 / 290.",
        "jazz.00054 is a training clip and cannot be read in some copies: without it there are "
        "442, and the score says so (--skip_bad).",
        "Evaluations with ten random folds are another protocol.",
    ),
)
