"""CREMA-D, two classes: the actor's sex as the data set's own table has it."""

from pathlib import Path

from evar.task import Source, Task
from evar.tasks import _cremad
from evar.tasks.cremad import TASK as EMOTION


def read(root: Path):
    import pandas as pd

    actors = pd.read_csv(root / "VideoDemographics.csv", dtype=str)
    sex = dict(zip(actors.ActorID, actors.Sex.str.lower(), strict=True))
    table = _cremad.read(root)
    return table.assign(label=table.group.map(sex))


TASK = Task(
    name="cremad_gender",
    version="1",
    title="CREMA-D: sex of the actor",
    read=read,
    marker="AudioWAV",
    folders=("CREMA-D*", "crema-d*"),
    metadata="VideoDemographics.csv",
    seconds=2.5,
    classes=2,
    counts=_cremad.COUNTS,
    group="actor",
    silence=True,
    captions={"female": "a woman talking", "male": "a man talking"},
    sources=(
        *EMOTION.sources,
        Source(
            path="VideoDemographics.csv",
            url="https://raw.githubusercontent.com/CheyneyComputerScience/CREMA-D/master/"
            "VideoDemographics.csv",
        ),
    ),
    licence=EMOTION.licence,
    homepage=EMOTION.homepage,
    citation=EMOTION.citation,
    notes=(
        "Not part of the paper. The clips and the split are those of cremad.",
        "The sex is that in VideoDemographics.csv, which lies in the repository's root.",
        "The caption rule is this project's own.",
    ),
)
