"""ESC-50: 50 classes of environmental sound (Piczak 2015)."""

from pathlib import Path

from evar.task import Source, Task


def read(root: Path):
    import pandas as pd

    meta = pd.read_csv(root / "meta" / "esc50.csv", dtype=str)
    return pd.DataFrame(
        {
            "file": "audio/" + meta.filename,
            "label": meta.category,
            "fold": meta.fold,
            "group": meta.src_file,  # the Freesound recording a clip was cut from
        }
    )


TASK = Task(
    name="esc50",
    version="1",
    title="ESC-50: environmental sounds",
    read=read,
    marker="meta/esc50.csv",
    folders=("ESC-50*",),
    metadata="meta/esc50.csv",
    seconds=5.0,
    classes=50,
    folds=("1", "2", "3", "4", "5"),
    counts=dict.fromkeys("12345", 400),
    group="recording",
    silence=True,
    sources=(
        Source(
            path="ESC-50-master.zip",
            url="https://github.com/karoldvl/ESC-50/archive/master.zip",
            kind="archive",
        ),
        Source(
            path="meta/esc50.csv",
            bytes=93742,
            md5="54a0d0055a10bb7df84ad340a148722e",
            sha256="ca660da60191a97de289983a05821c9382d852a38a2ba8428980816b68cf6246",
        ),
    ),
    licence="CC BY-NC 3.0",
    homepage="https://github.com/karolpiczak/ESC-50",
    citation="""
        @inproceedings{piczak2015esc,
          author = {Piczak, Karol J.},
          title = {{ESC}: Dataset for Environmental Sound Classification},
          booktitle = {ACM International Conference on Multimedia},
          year = {2015},
          pages = {1015--1018},
          doi = {10.1145/2733373.2806390},
        }
    """,
    notes=(
        "The zip follows the repository and changes with it: the table inside is what is checked.",
        "There is no validation split: the probe holds out a tenth of each fold's training clips.",
    ),
)
