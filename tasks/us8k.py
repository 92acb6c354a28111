"""UrbanSound8K: ten classes of urban sound in ten given folds (Salamon et al. 2014)."""

from pathlib import Path

from evar.task import Source, Task

_FOLDS = tuple(str(i) for i in range(1, 11))
_CLIPS = (873, 888, 925, 990, 936, 823, 838, 806, 816, 837)


def read(root: Path):
    import pandas as pd

    meta = pd.read_csv(root / "metadata" / "UrbanSound8K.csv", dtype=str)
    return pd.DataFrame(
        {
            "file": "audio/fold" + meta.fold + "/" + meta.slice_file_name,
            "label": meta["class"],
            "fold": meta.fold,
            "group": meta.fsID,  # the Freesound recording a slice was cut from
        }
    )


TASK = Task(
    name="us8k",
    version="1",
    title="UrbanSound8K: urban sounds",
    read=read,
    marker="metadata/UrbanSound8K.csv",
    folders=("UrbanSound8K",),
    metadata="metadata/UrbanSound8K.csv",
    seconds=4.0,
    classes=10,
    folds=_FOLDS,
    counts=dict(zip(_FOLDS, _CLIPS, strict=True)),
    group="recording",
    silence=True,
    sources=(
        Source(
            path="UrbanSound8K.tar.gz",
            url="https://zenodo.org/record/1203745/files/UrbanSound8K.tar.gz?download=1",
            md5="9aa69802bbf37fb986f71ec1483a196e",
            kind="archive",
        ),
        Source(
            path="metadata/UrbanSound8K.csv",
            bytes=494104,
            sha256="b207f7a53f9e5eb02a5dd71d58fb8b66c88c24c0637b926dc72d9d400a6a2354",
            md5="5015c37ce7d54c0bb8cd40a0b5ee2074",
        ),
    ),
    licence="CC BY-NC 4.0",
    homepage="https://zenodo.org/record/1203745",
    citation="""
        @inproceedings{salamon2014urbansound,
          author = {Salamon, Justin and Jacoby, Christopher and Bello, Juan Pablo},
          title = {A Dataset and Taxonomy for Urban Sound Research},
          booktitle = {ACM International Conference on Multimedia},
          year = {2014},
          pages = {1041--1044},
        }
    """,
    notes=(
        "The ten given folds are the task: random ones put slices of one recording on both sides "
        "and score some ten points higher.",
        "Rates, bit depths (24-bit, float, WAVE_FORMAT_EXTENSIBLE) and channels are as uploaded.",
        "Copies of the table with rows of a fold 11 circulate; they are refused.",
    ),
)
