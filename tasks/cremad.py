"""CREMA-D: which of six emotions an actor plays (Cao et al. 2014)."""

from evar.task import Source, Task
from evar.tasks._cremad import COUNTS, read

HOW = (
    "Where the addresses in crema_d.txt do not answer, clone "
    "https://gitlab.com/cs-cooper-lab/crema-d-mirror.git with git lfs; a zip of the GitHub "
    "repository holds pointers, no audio"
)

TASK = Task(
    name="cremad",
    version="1",
    title="CREMA-D: acted emotion",
    read=read,
    marker="AudioWAV",
    folders=("CREMA-D*", "crema-d*"),
    metadata="SentenceFilenames.csv, or the names in AudioWAV/",
    seconds=2.5,
    classes=6,
    counts=COUNTS,
    group="actor",
    silence=True,
    captions={
        "ANG": "angry person talking can be heard",
        "DIS": "someone talking in disgust can be heard",
        "FEA": "someone talking with a sense of fear can be heard",
        "HAP": "someone talking happily and joyfully can be heard",
        "NEU": "someone talking calmly can be heard",
        "SAD": "someone talking sadly can be heard",
    },
    sources=(
        Source(
            path="crema_d.txt",
            url="https://storage.googleapis.com/tfds-data/manual_checksums/crema_d.txt",
            bytes=1339905,
            sha256="66b5d959dcee997321baf9080c80022a6937279419446db3a9d4827d839b0abb",
            kind="list",
            into="AudioWAV",
        ),
        Source(path="AudioWAV/", kind="guide", how=HOW),
    ),
    licence="ODbL 1.0 (database), DbCL 1.0 (content)",
    homepage="https://github.com/CheyneyComputerScience/CREMA-D",
    citation="""
        @article{cao2014cremad,
          author = {Cao, Houwei and Cooper, David G. and Keutmann, Michael K. and Gur, Ruben C. and
            Nenkova, Ani and Verma, Ragini},
          title = {{CREMA-D}: Crowd-Sourced Emotional Multimodal Actors Dataset},
          journal = {IEEE Transactions on Affective Computing},
          year = {2014},
          volume = {5},
          number = {4},
          pages = {377--390},
        }
    """,
    notes=(
        "Four of the repository's 7,442 files are left out, as in the paper; keeping them gives "
        "5,158 / 732 / 1,552 clips.",
        "The label is the acted emotion, not what raters heard. The TFDS split is another one.",
    ),
)
