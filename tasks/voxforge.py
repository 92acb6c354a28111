"""VoxForge: which of six languages is spoken, by volunteers."""

from pathlib import Path

from evar.task import Source, Task

_LANGUAGES = {
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "it": "Italian",
    "ru": "Russian",
}


def read(root: Path):
    import pandas as pd

    table = pd.read_csv(root / "voxforge.csv", dtype=str)
    archive = table.file_name.str.extract(r"([^/]+)/[^/]+/[^/]+$")[0].fillna("")
    # {contributor}-{yyyymmdd}-{id}; names may hold "-", and "anonymous" is not one person.
    name = archive.str.replace(r"-\d{8}(-[^-]*)?$", "", regex=True)
    return pd.DataFrame(
        {
            "file": table.file_name,
            "label": table.label,
            "split": table.split,
            "group": name.where(~name.str.match("anonym", case=False), archive),
        }
    )


TASK = Task(
    name="voxforge",
    version="1",
    title="VoxForge: language identification",
    read=read,
    marker=("voxforge.csv", "*-20*-*/wav"),
    folders=("VoxForge",),
    metadata="voxforge.csv",
    seconds=5.8,
    classes=6,
    counts={"train": 121281, "valid": 26684, "test": 28463},
    group="contributor",
    groups_cross=("train", "valid", "test"),  # the split is by archive, not by contributor
    silence=True,
    captions={code: f"someone speaking {name}" for code, name in _LANGUAGES.items()},
    sources=(
        Source(
            path="voxforge.csv",
            url="https://raw.githubusercontent.com/nttcslab/eval-audio-repr/"
            "0a546e68ddcd45e0008318f809c605eecab3582b/evar/metadata/voxforge.csv",
            git_sha1="24104f97e3f9b5f412cef59ab31fa8c07f0bcbf9",
        ),
        Source(
            path="voxforge_urls.txt",
            url="https://storage.googleapis.com/tfds-data/downloads/voxforge/voxforge_urls.txt",
            bytes=1344189,
            sha256="9cc218a5bce16640dc4eeb263aa423ce63ca59fc6587a9487dc397642b76af6c",
            kind="list",
            how="It lists 13,837 archives (about 100 GB). Those that cannot be fetched belong, "
            "unpacked, beside this list, so that the folder holds {user}-{date}-{id}/wav/*.wav",
        ),
    ),
    licence="GPL",
    homepage="http://www.voxforge.org",
    citation=r"""
        @misc{voxforge,
          author = {{VoxForge}},
          title = {{VoxForge}: Free Speech Corpora and Acoustic Model Repositories},
          howpublished = {\url{http://www.voxforge.org}},
        }
    """,
    comparable="the published split names every clip: with files missing the score is another's",
    notes=(
        "The archives have no checksums of their own; counts are what can be checked.",
        "The split is by archive, so that a contributor can be in training and in test.",
        "The TFDS split, by speaker, is another task.",
        "The caption rule is this project's own: the paper has no zero-shot figure here.",
    ),
)
