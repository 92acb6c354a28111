"""Reads Speech Commands: a folder a word; two lists name the clips not for training."""

from pathlib import Path

CITATION = """
@misc{warden2018speech,
  author = {Warden, Pete},
  title = {Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition},
  year = {2018},
  eprint = {1804.03209},
  archiveprefix = {arXiv},
}
"""


def read(root: Path):
    """Returns every clip of every word; what neither list names is for training."""
    import pandas as pd

    split = {}
    for name, side in (("validation_list.txt", "valid"), ("testing_list.txt", "test")):
        lines = (root / name).read_text(encoding="utf-8").split()
        split |= dict.fromkeys(lines, side)
    found = {  # `_background_noise_` is no word
        f"{word.name}/{clip.name}"
        for word in sorted(root.glob("[a-z]*"))
        if word.is_dir()
        for clip in word.glob("*.wav")
    }
    files = sorted(found | set(split))  # a listed clip that is not there is a missing one
    return pd.DataFrame(
        {
            "file": files,
            "label": [file.partition("/")[0] for file in files],
            "split": [split.get(file, "train") for file in files],
            "group": [file.partition("/")[2].partition("_nohash_")[0] for file in files],
        }
    )
