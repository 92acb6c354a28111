"""GTZAN: ten genres of music, without its faulty and repeated files (Tzanetakis and Cook 2002)."""

import hashlib
from pathlib import Path

from evar.errors import UserError
from evar.task import Source, Task

# SHA-256 of the published lists: lines such as "blues/blues.00029.wav".
_LISTS = {
    "train": "2b04966cef1486f1a7767b74271533fa23e220388db804a1937835e1fc4fa3fa",
    "valid": "f8fbee7c52397a0e0f3a91dc54fedecb2e27f5bdc9a9daeab8cb10d077e26956",
    "test": "09cafa6a89ce0a27f30ed250d56ecb4d03c22fffb5a693f96c7ae655ee02ac72",
}


def lists() -> dict[str, list[str]]:
    """Returns the fault-filtered, artist-filtered lists: names like "blues.00029" of each split."""
    # Under MIT in github.com/jongpillee/music_dataset_split; torchaudio ships the same names.
    from torchaudio.datasets import gtzan

    found = {split: getattr(gtzan, f"filtered_{split}") for split in _LISTS}
    for split, names in found.items():
        text = "".join(f"{name.partition('.')[0]}/{name}.wav\n" for name in names)
        if hashlib.sha256(text.encode()).hexdigest() != _LISTS[split]:
            raise UserError(
                f"gtzan: torchaudio's {split} list is not the published one. Install torchaudio "
                "2.11, which has it."
            )
    return found


def read(root: Path):
    import pandas as pd

    here = {path.relative_to(root).as_posix() for path in root.glob("*/*.*")}
    # The original archive holds .au, copies of it .wav; what is missing is called like them.
    endings = ("au", "wav") if any(name.endswith(".au") for name in here) else ("wav", "au")
    rows = []
    for split, names in lists().items():
        for name in names:
            genre = name.partition(".")[0]
            files = [f"{genre}/{name}.{ending}" for ending in endings]
            rows.append((files[1] if files[1] in here else files[0], genre, split))
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
    citation="""
        @article{tzanetakis2002genre,
          author = {Tzanetakis, George and Cook, Perry},
          title = {Musical Genre Classification of Audio Signals},
          journal = {IEEE Transactions on Speech and Audio Processing},
          year = {2002},
          volume = {10},
          number = {5},
          pages = {293--302},
        }
    """,
    notes=(
        "930 of the 1,000 files are used: 443 / 197 / 290.",
        "jazz.00054 is a training clip and cannot be read in some copies: without it there are "
        "442, and the score says so (--skip_bad).",
        "Evaluations with ten random folds are another protocol.",
    ),
)
