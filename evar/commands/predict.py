"""`predict`: what a run's probes hear in new recordings."""

import hashlib
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fire.decorators import SetParseFns

from evar import files
from evar.errors import UserError

if TYPE_CHECKING:
    from evar.predicting.scoring import Predicted
    from evar.task import Windows

_TEXT = ("run", "sounds", "more", "model", "weights", "out", "raven", "audacity", "audio")
_MORE = ("results", "device", "precision", "resample", "cache")


@SetParseFns(**dict.fromkeys((*_TEXT, *_MORE), str))
def predict(
    run,
    sounds,
    more="",
    *,
    windows=None,
    hop=None,
    threshold=0.5,
    raven=None,
    audacity=None,
    out=None,
    audio="embed",
    model=None,
    weights=None,
    results="",
    device="auto",
    precision=None,
    resample=None,
    batch_size=None,
    cache=None,
    no_cache=False,
    overwrite=False,
    skip_bad=False,
    quiet=False,
):
    """Score new recordings by the probes of a run: a CSV of class scores, and a page to look at.

    usage: predict RUN SOUNDS [options]
           predict MODEL TASK SOUNDS [options]

    RUN is an id in results/runs/ or the beginning of one; of MODEL and TASK the newest run of
    linear evaluation counts. SOUNDS is a sound file or a folder. A recording is heard as the run's
    own clips were: its first unit, or by windows where the run was. Scores are the mean over the
    run's probes (seeds, and folds where it has some); they rank, and are no probabilities.

    --windows=S      a row for every S seconds of each recording
    --hop=S          seconds from one window to the next; default: a window
    --threshold=0.5  score from which --raven and --audacity write a label
    --raven=DIR      write selection tables for Raven, one per recording
    --audacity=DIR   write label tracks for Audacity, one per recording
    --out=FILE.csv   where the CSV goes, and the page beside it; default: a file in
                     <results>/predictions/, another for other SOUNDS or windows
    --overwrite      replace labels, or what --out names, that are there
    --audio=embed    sounds inside the page, compressed; link: played from this disk; none
    --model=MODEL    where the run's model is now, if its name does not lead to it
    --weights=PATH   checkpoint; default: where the run had it from
    --results=DIR    the results folder; default: $EVAR_RESULTS or results/, beside TASK
                     if that is a table
    --device=auto    cpu, cuda, cuda:1, mps, ...
    --precision=P    fp32 or bf16; default: the run's
    --resample=R     cpu or gpu; default: the run's
    --batch_size=N   clips per forward pass
    --cache=DIR      where embeddings are kept; default: $EVAR_CACHE or the user's cache folder
    --no_cache       keep no embeddings
    --skip_bad       leave out recordings that cannot be decoded; the page names them
    --quiet          no progress bars
    """
    from evar import run as running
    from evar.data import own_sounds
    from evar.pages import finding, predicted
    from evar.predicting import model as of_run
    from evar.predicting import scoring
    from evar.runtime import usable
    from evar.task import Windows

    if audio not in ("embed", "link", "none"):
        raise UserError(f"--audio={audio}: not one of embed, link, none")
    if hop is not None and windows is None:
        raise UserError("--hop is of --windows=SECONDS, which is not given")
    by = None if windows is None else Windows(windows, hop)
    threshold = _threshold(threshold)
    word, task, place = (run, sounds, more) if more else (run, "", sounds)
    results = results or own_sounds.usual_results(task)
    runs = finding.load(results)
    record = finding.run_of(runs, word, task, protocol="linear" if task else "")
    probes = of_run.probes_of(record, results)
    target = Path(out or Path(results) / "predictions" / _file(record.id, place, by))
    if target.suffix.lower() != ".csv":
        raise UserError(f"--out={out}: the name of a CSV ends in .csv")
    loaded, notes = of_run.load(record, model=model, weights=weights)
    how = {"device": device, "batch_size": batch_size, "skip_bad": skip_bad}
    how |= {"precision": precision or record.settings.get("precision", "fp32")}
    how |= {"resample": resample or record.settings.get("resample", "cpu")}
    how |= {"cache": cache} if cache else {}
    how |= {"cache": None} if no_cache else {}
    _, runtime, _ = running.split_options(None, loaded, {**how, "progress": not quiet})
    runtime = usable(runtime)
    manifest = scoring.open_sounds(place, by, record, runtime)
    if not overwrite:
        own = [target, target.with_suffix(".html")] if out else []
        _require_new([*own, *_labels(manifest.table.file, raven, audacity)])
    found = scoring.predict(loaded, manifest, probes, runtime)
    written = _write(found, target, threshold, raven, audacity)
    predicted.write(found, record, target.with_suffix(".html"), audio=audio, notes=notes)
    _say(found, notes, [*written, target.with_suffix(".html")])


def _threshold(value) -> float:
    from evar import options

    number = options.number("threshold", value, above=0)
    assert number is not None
    return number


def _file(run: str, place: str, by: "Windows | None") -> str:
    """The name of the CSV: of the run and the sounds, and a hash of where they are and the windows.

    Recordings of one name in several folders have files of their own; the same command replaces its
    own.
    """
    heard = [os.path.abspath(place), by and [by.seconds, by.hop]]  # noqa: PTH100  (as in _name)
    key = hashlib.sha256(files.canonical_json(heard).encode()).hexdigest()[:6]
    return f"{run[:8]}-{_name(place)}-{key}.csv"


def _name(place: str) -> str:
    """The name of a file without its ending, or of a folder, also of "."."""
    path = Path(os.path.abspath(place))  # noqa: PTH100  (resolve() would follow links)
    return path.name if path.is_dir() else path.stem


def _labels(names: Iterable[str], raven, audacity) -> list[Path]:
    """The files of labels that will be written."""
    from evar.predicting import labels

    names = list(dict.fromkeys(names))
    paths = [*labels.raven_paths(names, raven).values()] if raven else []
    return paths + ([*labels.audacity_paths(names, audacity).values()] if audacity else [])


def _require_new(paths: Sequence[Path]) -> None:
    """Refuses to replace what may be corrected by hand, such as labels."""
    for path in paths:
        if path.exists():
            raise UserError(
                f"{path} is there, and may be corrected by hand: name another place, or replace it "
                "with --overwrite"
            )


def _write(found: "Predicted", target: Path, threshold: float, raven, audacity) -> list[Path]:
    from evar.predicting import labels

    table = found.table().to_csv(index=False, lineterminator="\n")
    files.write_atomic(target, table)
    written = [target]
    if raven or audacity:
        of_files = labels.found(found, threshold)
        written += labels.write_raven(of_files, raven)[:1] if raven else []
        written += labels.write_audacity(of_files, audacity)[:1] if audacity else []
    return written


def _say(found: "Predicted", notes: Sequence[str], written: Sequence[Path]) -> None:
    from evar.results import escape

    for note in notes:
        print(escape.terminal(note))
    for clip, why in found.bad.items():
        print(escape.terminal(f"left out: {clip}: {why}"))
    folds = len({fold for _, fold in found.of_probes})
    seeds = len({seed for seed, _ in found.of_probes})
    of = f"{seeds} seed{'s' if seeds > 1 else ''}"
    of += f" x {folds} folds" if folds > 1 else ""
    print(f"scores are the mean of {len(found.of_probes)} probes ({of})")
    for path in written:
        print(path)
    print(f"open it in a browser: {written[-1].resolve().as_uri()}", file=sys.stderr)
