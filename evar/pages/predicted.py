"""The page of predictions: what was found how often, and clips of every class to listen to."""

from pathlib import Path

import numpy as np

from evar import files
from evar.data import segments
from evar.pages import charts, page
from evar.pages.clips import OnDisk, Sounds
from evar.predicting.scoring import Predicted
from evar.results.record import RunRecord
from evar.results.text import summary_line

_HEARD = 4  # clips of each class with a player
_CLASSES = 30  # classes with players: those that were found most often
_LISTED = 2000  # rows of the table


def write(predicted: Predicted, run: RunRecord, path, *, audio: str, notes: list[str]) -> Path:
    """Writes the page; returns its path. audio: "embed", "link" or "none" (`clips.Sounds`)."""
    path = Path(path)
    sounds = Sounds(OnDisk(predicted.manifest), audio, path, budget=6_000_000)
    content = page.render(
        "predicted.html",
        scripts=["report.js"],
        links_to_sounds=audio == "link",
        **_context(predicted, run, sounds, notes),
    )
    files.write_atomic(path, content)
    return path


def _context(predicted: Predicted, run: RunRecord, sounds: Sounds, notes: list[str]) -> dict:
    names, top = predicted.classes, predicted.top
    counts = np.bincount(top, minlength=len(names))
    found = [int(c) for c in np.argsort(-counts, kind="stable") if counts[c]]
    rows = [
        {
            "name": names[c],
            "value": round(100 * counts[c] / len(top), 3),
            "low": None,
            "high": None,
            "clips": int(counts[c]),
        }
        for c in found
    ]
    clips = predicted.manifest.clips[predicted.rows].to_numpy()
    best = predicted.scores.max(axis=1)
    chosen = predicted.manifest.table.loc[predicted.rows]
    by_time = segments.are_in(chosen)
    return {
        "data": {"charts": {"found": charts.bars(rows, title="percent of all")}},
        "title": predicted.manifest.root.name,
        "run": run,
        "line": summary_line(run),
        "what": "windows" if by_time else "files",
        "count": len(top),
        "files": chosen.file.nunique(),
        "hours": f"{float((chosen.frames / chosen.sample_rate).sum()) / 3600:.2f}",
        "probes": len(predicted.of_probes),
        "notes": notes,
        "classes": [
            (names[c], int(counts[c]), _heard(predicted, clips, best, c, sounds))
            for c in found[:_CLASSES]
        ],
        "bad": list(predicted.bad.items()),
        "rows": [
            {"clip": clips[i], "name": names[top[i]], "score": f"{best[i]:.3f}"}
            for i in np.argsort(-best, kind="stable")[:_LISTED].tolist()
        ],
    }


def _heard(predicted: Predicted, clips, best, c: int, sounds: Sounds) -> list[dict]:
    """The clips that are most surely of a class, with player and spectrogram."""
    own = np.flatnonzero(predicted.top == c)
    own = own[np.argsort(-best[own], kind="stable")][:_HEARD]
    return [
        {
            "clip": clips[i],
            "score": f"{best[i]:.2f}",
            "source": sounds.source(clips[i]),
            "picture": None if sounds.how == "none" else sounds.spectrogram(clips[i]),
        }
        for i in own
    ]
