"""Writes what was found as labels of Raven (selection tables) and of Audacity (label tracks)."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evar import files
from evar.data import segments
from evar.predicting.scoring import Predicted

_HEAD = (
    *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)"),
    *("Low Freq (Hz)", "High Freq (Hz)", "Begin File", "Annotation", "Score"),
)


@dataclass(frozen=True)
class Label:
    """A class that was found in a part of a recording; times in seconds, top: Hz."""

    start: float
    end: float
    name: str
    score: float
    top: float


def found(predicted: Predicted, threshold: float) -> dict[str, list[Label]]:
    """Returns the labels of each file, in the order of time.

    Of one label per clip the best class counts, else all; either with a score of `threshold` or
    more.
    """
    labels: dict[str, list[Label]] = {}
    table = predicted.manifest.table
    for number, row in enumerate(predicted.rows):
        clip = table.loc[row]
        start, end = 0.0, clip.frames / clip.sample_rate
        if segments.are_in(table) and not np.isnan(clip.start):
            start, end = clip.start, clip.end
        of_file = labels.setdefault(clip.file, [])
        for c in _classes(predicted, number, threshold):
            score = float(predicted.scores[number, c])
            of_file.append(Label(start, end, predicted.classes[c], score, clip.sample_rate / 2))
    return labels


def _classes(predicted: Predicted, number: int, threshold: float) -> Iterator[int]:
    scores = predicted.scores[number]
    chosen = range(len(scores)) if predicted.multi_label else [int(scores.argmax())]
    return (c for c in chosen if scores[c] >= threshold)


def raven_paths(names: Iterable[str], folder) -> dict[str, Path]:
    """Returns where the selection table of each recording goes."""
    return {file: Path(folder) / f"{file}.selections.txt" for file in names}


def audacity_paths(names: Iterable[str], folder) -> dict[str, Path]:
    """Returns where the label track of each recording goes: a.txt of a.wav.

    Where a.flac lies next to it, the two are a.wav.txt and a.flac.txt.
    """
    stems = {file: Path(file).with_suffix("").as_posix() for file in names}
    often = Counter(stems.values())
    return {
        file: Path(folder) / f"{stem if often[stem] == 1 else file}.txt"
        for file, stem in stems.items()
    }


def write_raven(labels: dict[str, list[Label]], folder) -> list[Path]:
    """Writes one selection table per file; returns their paths."""
    paths = raven_paths(labels, folder)
    for file, of_file in labels.items():
        lines = ["\t".join(_HEAD)]
        for number, label in enumerate(of_file, start=1):
            cells = (number, "Spectrogram 1", 1, f"{label.start:.6f}", f"{label.end:.6f}")
            more = ("0.0", f"{label.top:.1f}", _cell(Path(file).name), _cell(label.name))
            lines.append("\t".join(map(str, (*cells, *more, f"{label.score:.4f}"))))
        files.write_atomic(paths[file], "\n".join(lines) + "\n")
    return [*paths.values()]


def write_audacity(labels: dict[str, list[Label]], folder) -> list[Path]:
    """Writes one label track per file; returns their paths."""
    paths = audacity_paths(labels, folder)
    for file, of_file in labels.items():
        lines = [f"{x.start:.6f}\t{x.end:.6f}\t{_cell(x.name)}" for x in of_file]
        files.write_atomic(paths[file], "".join(f"{line}\n" for line in lines))
    return [*paths.values()]


def _cell(text: str) -> str:
    """A name without what would end a cell or a line."""
    return " ".join(text.split())
