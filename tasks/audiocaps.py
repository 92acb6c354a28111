"""AudioCaps: captions of AudioSet clips, for audio-text retrieval (Kim et al. 2019)."""

from pathlib import Path

from evar.task import Source, Task

_SIDES = {"train": "train", "valid": "val", "test": "test"}
_BASE = "https://raw.githubusercontent.com/cdjkim/audiocaps/master/dataset"


def read_captions(root: Path):
    import pandas as pd

    parts = []
    for split, side in _SIDES.items():
        table = pd.read_csv(
            root / f"{side}.csv", dtype=str, keep_default_na=False
        )  # audiocap_id, youtube_id, ...
        file = f"{side}/Y" + table.youtube_id + ".wav"
        parts.append(pd.DataFrame({"file": file, "split": split, "caption": table.caption}))
    return pd.concat(parts, ignore_index=True)


def read(root: Path):
    return read_captions(root)[["file", "split"]].drop_duplicates().assign(label="")


TASK = Task(
    name="audiocaps",
    version="1",
    title="AudioCaps: captions",
    read=read,
    read_captions=read_captions,
    marker="test.csv",
    folders=("AudioCaps",),
    metadata="train.csv, val.csv and test.csv",
    seconds=None,
    kind="retrieval",
    counts={"train": 49838, "valid": 495, "test": 975},
    silence=True,
    sources=(
        *(Source(path=f"{side}.csv", url=f"{_BASE}/{side}.csv") for side in _SIDES.values()),
        Source(
            path="train/, val/, test/",
            kind="guide",
            how="The audio is YouTube's; put the clips as train/Y{id}.wav, val/Y{id}.wav and "
            "test/Y{id}.wav beside the captions",
        ),
    ),
    licence="captions MIT; the audio is not distributed",
    homepage="https://audiocaps.github.io",
    citation="""
        @inproceedings{kim2019audiocaps,
          author = {Kim, Chris Dongjoo and Kim, Byeongchang and Lee, Hyunmin and Kim, Gunhee},
          title = {{AudioCaps}: Generating Captions for Audios in the Wild},
          booktitle = {Conference of the North American Chapter of the Association for Computational
            Linguistics: Human Language Technologies (NAACL-HLT)},
          year = {2019},
          pages = {119--132},
        }
    """,
    notes=(
        "Clip sets differ from user to user (the reference harness had 957 of 975 test clips): "
        "compare only equal sets.",
    ),
)
