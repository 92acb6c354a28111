"""Reads CREMA-D: the split is by actor, the four damaged recordings are left out."""

from pathlib import Path

VALID = {1009, 1011, 1022, 1034, 1039, 1047, 1066, 1070, 1082}
TEST = {
    *(1001, 1004, 1017, 1019, 1020, 1025, 1026, 1029, 1033, 1035),
    *(1042, 1044, 1050, 1053, 1056, 1058, 1060, 1069, 1083),
}
# Without the level: the last was named 1040_ITH_SAD_X until 2022, and copies of that age exist.
EXCLUDED = {"1006_TIE_NEU", "1013_WSI_DIS", "1017_IWW_FEA", "1040_ITH_SAD"}
COUNTS = {"train": 5155, "valid": 732, "test": 1551}


def clips(names):
    """Parses file stems `{actor}_{sentence}_{EMOTION}_{level}`: a table of clips, by actor."""
    import pandas as pd

    kept = sorted(n for n in set(names) if n.rpartition("_")[0] not in EXCLUDED)
    actors = [int(name[:4]) for name in kept]
    return pd.DataFrame(
        {
            "file": [f"AudioWAV/{name}.wav" for name in kept],
            "label": [name.split("_")[2] for name in kept],
            "split": ["valid" if a in VALID else "test" if a in TEST else "train" for a in actors],
            "group": [str(a) for a in actors],
        }
    )


def read(root: Path):
    """Returns the clips that SentenceFilenames.csv lists, if the copy has it, else those found."""
    import pandas as pd

    listed = root / "SentenceFilenames.csv"
    if listed.exists():  # then a missing clip is named, not only counted
        return clips(pd.read_csv(listed, dtype=str).Filename)
    return clips(path.stem for path in (root / "AudioWAV").glob("*.wav"))
