"""FSD50K: Freesound clips with several of 200 labels (Fonseca et al. 2022)."""

from pathlib import Path

from evar.task import Source, Task

_BASE = "https://zenodo.org/record/4060432/files"
_FILES = {
    "FSD50K.dev_audio.z01": "faa7cf4cc076fc34a44a479a5ed862a3",
    "FSD50K.dev_audio.z02": "8f9b66153e68571164fb1315d00bc7bc",
    "FSD50K.dev_audio.z03": "1196ef47d267a993d30fa98af54b7159",
    "FSD50K.dev_audio.z04": "d088ac4e11ba53daf9f7574c11cccac9",
    "FSD50K.dev_audio.z05": "81356521aa159accd3c35de22da28c7f",
    "FSD50K.dev_audio.zip": "c480d119b8f7a7e32fdb58f3ea4d6c5a",
    "FSD50K.eval_audio.z01": "3090670eaeecc013ca1ff84fe4442aeb",
    "FSD50K.eval_audio.zip": "6fa47636c3a3ad5c7dfeba99f2637982",
    "FSD50K.ground_truth.zip": "ca27382c195e37d2269c4c866dd73485",
}


def read(root: Path):
    import pandas as pd

    dev = pd.read_csv(root / "FSD50K.ground_truth" / "dev.csv", dtype=str)
    test = pd.read_csv(root / "FSD50K.ground_truth" / "eval.csv", dtype=str)
    parts = [
        ("FSD50K.dev_audio/", dev, dev.split.map({"train": "train", "val": "valid"})),
        ("FSD50K.eval_audio/", test, "test"),
    ]
    return pd.concat(
        [
            pd.DataFrame({"file": folder + t.fname + ".wav", "label": t.labels, "split": split})
            for folder, t, split in parts
        ],
        ignore_index=True,
    )


TASK = Task(
    name="fsd50k",
    version="1",
    title="FSD50K: Freesound clips, 200 classes",
    read=read,
    marker="FSD50K.ground_truth",
    folders=("FSD50K",),
    metadata="FSD50K.ground_truth/dev.csv and eval.csv",
    seconds=7.6358,
    classes=200,
    kind="tagging",
    counts={"train": 36796, "valid": 4170, "test": 10231},
    silence=True,
    sources=tuple(
        Source(path=name, url=f"{_BASE}/{name}?download=1", md5=md5, kind="archive")
        for name, md5 in _FILES.items()
    ),
    licence="CC BY 4.0; every clip has a Creative Commons licence of its own",
    homepage="https://zenodo.org/record/4060432",
    citation="""
        @article{fonseca2022fsd50k,
          author = {Fonseca, Eduardo and Favory, Xavier and Pons, Jordi and Font, Frederic and
            Serra, Xavier},
          title = {{FSD50K}: An Open Dataset of Human-Labeled Sound Events},
          journal = {IEEE/ACM Transactions on Audio, Speech, and Language Processing},
          year = {2022},
          volume = {30},
          pages = {829--852},
        }
    """,
    notes=(
        "The audio comes as split zip archives, which plain unzip cannot read; they are joined "
        "when downloaded by prepare.py.",
        "Labels are the smeared ones: a clip has its classes and all their parents.",
    ),
)
