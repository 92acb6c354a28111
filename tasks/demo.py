"""demo: small, real recordings that ship with the harness (tasks/data/demo/README.md)."""

from pathlib import Path

from evar.task import Task


def read(root: Path):
    import pandas as pd

    return pd.read_csv(root / "metadata.csv", dtype=str)


TASK = Task(
    name="demo",
    version="1",
    title="Demo: real recordings in the repository",
    read=read,
    marker="metadata.csv",
    metadata="metadata.csv",
    seconds=2.0,
    classes=9,
    counts={"train": 171, "valid": 42, "test": 73},
    lr=1e-2,  # 171 clips are one step an epoch: 200 steps of 3e-4 learn nothing
    licence="CC BY-SA 3.0 as a whole; each clip's own in SOURCES.csv",
    homepage="tasks/data/demo/README.md",
    bundled=Path(__file__).parent / "data" / "demo",
    group="recording",
)
