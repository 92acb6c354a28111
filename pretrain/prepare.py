"""`python -m pretrain.prepare`: packs sound files into shards, in parallel and resumable."""

import csv
import hashlib
import io
import json
import os
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import filelock
from fire.decorators import SetParseFns

from evar import files
from evar.errors import BadAudio, UserError, unknown

from . import shards as shards_

_SUBTYPE = "PCM_16"


@dataclass(frozen=True)
class Plan:
    """One shard to write: its path, and number, file, size and mtime of each of its clips."""

    path: Path
    root: Path
    clips: tuple[tuple[int, str, int, int], ...]
    kind: str
    seconds: float
    sample_rate: int

    @property
    def digest(self) -> str:
        """Hash of what the shard will hold, as far as it is known before it is written."""
        about = [self.clips, self.kind, self.seconds, self.sample_rate, shards_.VERSION]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


@SetParseFns(source=str, out=str, kind=str, split=str, data=str)
def prepare(
    source,
    out,
    *,
    kind="flac",
    seconds=10,
    split="train",
    per_shard=1000,
    workers=None,
    data=None,
    quiet=False,
):
    """Pack sound files into shards for training.

    usage: python -m pretrain.prepare SOURCE OUT [options]

    SOURCE         a folder of sound files (searched recursively), a CSV with the column file and
                   optionally label, caption and split, or a registered task (`evar list tasks`)
    OUT            the folder to write, with labels.csv and captions.csv

    --kind=flac    or logmel: float16 log-mel, ready for training, up to twice as large
    --seconds=10   maximum length of a clip; longer ones are cut at the end
    --split=train  of a task or a CSV with that column; "all" takes every clip
    --per_shard=1000    clips per shard
    --workers=N    processes; default: one per core
    --data=DIR     folder of data sets and manifests; default: $EVAR_DATA or data/
    --quiet        no progress bar

    Run the same command again to resume an interrupted run. Files that cannot be decoded are left
    out and listed in OUT/skipped.csv.
    """
    from evar.options import number, whole
    from evar.progress import SILENT, Terminal

    if kind not in shards_.KINDS:
        raise unknown("kind", kind, shards_.KINDS)
    seconds = number("seconds", seconds, above=0.1)
    per_shard, workers = whole("per_shard", per_shard), whole("workers", workers or os.cpu_count())
    root, clips = _sources(source, split, data, quiet)
    out = files.make_folder(out)
    bar = (SILENT if quiet else Terminal()).counter(f"shards of {source}", "shard")
    with files.writing(out), filelock.FileLock(out / ".lock"):  # one run at a time
        for left in out.glob(".shard-*"):
            left.unlink()  # temporary files of a killed run
        _write_all(out, root, clips, bar, (kind, seconds, per_shard, workers))


def _write_all(out: Path, root: Path, clips: dict[str, dict], bar, how: tuple) -> None:
    """Writes the missing shards, then the files that describe all of them."""
    kind, seconds, per_shard, workers = how
    names = sorted(clips)
    plans: list[Plan] = []
    for first in range(0, len(names), per_shard):
        part = tuple(
            (first + i, name, *_stamp(root / name))
            for i, name in enumerate(names[first : first + per_shard])
        )
        path = out / f"shard-{len(plans):06d}.tar"
        plans.append(Plan(path, root, part, kind, seconds, 16000))
    todo = [plan for plan in plans if not _made(plan)]
    stale = set(out.glob("shard-*.tar")) - {plan.path for plan in plans}
    if todo or stale:  # if interrupted, a mixture of old and new must not pass for a set
        shards_.forget_head(out)
    _write_texts(out, clips)
    _make_all(todo, workers, bar)
    skipped, count = [], 0
    for plan in plans:
        index = shards_.index_of(plan.path)
        if index is None:
            raise UserError(f"{plan.path}: vanished while it was read; run the same command again")
        skipped += index["skipped"]
        count += len(index["files"])
    _write_csv(out / "skipped.csv", ["file", "reason"], skipped)
    if not count:
        example = f"; first: {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise UserError(f"{root}: no clip can be decoded{example}")
    for path in stale:
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink()
    shards_.write_head(out, kind, [plan.path.name for plan in plans], sample_rate=16000)
    print(
        f"{count:,} clips in {out} ({len(plans):,} shards, {len(plans) - len(todo):,} were there)"
    )
    if skipped:
        print(f"  {len(skipped):,} left out, listed in {out / 'skipped.csv'}; first: {skipped[0]}")


def _sources(source: str, split: str, data, quiet: bool) -> tuple[Path, dict[str, dict]]:
    """Returns the root folder, and labels and captions of each file below it."""
    from evar import task as tasks
    from evar.data import own_sounds

    path = Path(source)
    if own_sounds.is_csv(source):
        return path.resolve().parent, _of_csv(path, split)
    if source not in tasks.names():  # ./NAME is a folder of a task's name
        if not path.is_dir():
            raise UserError(f"{source}: no such folder, CSV or task (`evar list tasks`)")
        found = [
            p for p in path.rglob("*") if p.suffix.lower() in own_sounds.SOUNDS and p.is_file()
        ]
        if not found:
            raise UserError(f"{path}: no sound files there ({', '.join(own_sounds.SOUNDS)})")
        names = [p.relative_to(path).as_posix() for p in found]
        for name in names:
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise UserError(
                    f"{path}: the file name {name!r} is not UTF-8; rename it"
                ) from error
        return path.resolve(), {name: {} for name in names}
    from evar.data.opening import open_task
    from evar.progress import SILENT, Terminal

    manifest = open_task(source, data=data, progress=SILENT if quiet else Terminal())
    task = manifest.task
    titles = task.titles(manifest.root) if task.titles else {}
    good = manifest.good
    if split != "all":
        side = good[good[task.column] == split]
        if side.empty:
            known = ", ".join([*sorted(good[task.column].unique()), "all"])
            raise UserError(f"{source}: no clip in {task.column} {split!r} (--split: {known})")
        good = side
    labels = [[titles.get(p, p) for p in label.split(",")] for label in good.label]
    return manifest.root, {
        name: {"labels": ";".join(of_clip)} for name, of_clip in zip(good.file, labels, strict=True)
    }


def _of_csv(path: Path, split: str) -> dict[str, dict]:
    from evar.data.tables.reading import read_table

    found: dict[str, dict] = {}
    table = read_table(path, blank=("label", "split", "fold", "group", "caption")).frame
    if "file" not in table:
        raise UserError(f"{path}: needs the column file, and optionally label, caption and split")
    for row in table.to_dict("records"):
        if split != "all" and row.get("split", split) != split:
            continue
        files.inside(path.resolve().parent, row["file"], path)
        about = found.setdefault(row["file"], {"labels": "", "captions": []})
        known = about["labels"].split(";")
        new = [label for label in (row.get("label") or "").split(",") if label not in known]
        about["labels"] = ";".join(filter(None, [*known, *new]))
        about["captions"] += [row["caption"]] if row.get("caption") else []
    if not found:
        raise UserError(f"{path}: no clip in split {split!r} (--split)")
    return found


def _write_texts(out: Path, clips: dict[str, dict]) -> None:
    labels = [[name, about["labels"]] for name, about in clips.items() if about.get("labels")]
    captions = [[n, text] for n, about in clips.items() for text in about.get("captions", ())]
    for name, column, rows in (("labels", "labels", labels), ("captions", "caption", captions)):
        if rows:
            _write_csv(out / f"{name}.csv", ["file", column], sorted(rows))
        else:
            (out / f"{name}.csv").unlink(missing_ok=True)  # of an earlier run


def _write_csv(path: Path, head: list[str], rows: list) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    files.write_atomic(path, text.getvalue())


def _stamp(path: Path) -> tuple[int, int]:
    """Returns size and time of the last change, which show whether a file has changed."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _made(plan: Plan) -> bool:
    index = shards_.index_of(plan.path)
    return index is not None and index["plan"] == plan.digest


def _make_all(plans: list[Plan], workers: int, bar) -> None:
    if workers == 1 or len(plans) < 2:
        for plan in bar(plans):
            make(plan)
        return
    workers = min(workers, len(plans))
    spawn = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_end_with_parent) as pool:
        done = pool.map(make, plans)
        for _ in bar(done, total=len(plans)):
            pass


def _end_with_parent() -> None:
    """Ends this worker when its parent process has ended, even if that was killed."""

    def watch():
        if parent := parent_process():
            parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def make(plan: Plan) -> None:
    """Writes one shard and its index."""
    skipped: list[list[str]] = []

    def members():
        for number, name, *_ in plan.clips:
            try:
                samples = _decoded(plan.root / name, plan)
            except BadAudio as error:
                skipped.append([name, error.reason])
                continue
            stem = re.sub(r"[^A-Za-z0-9_-]", "_", Path(name).stem)[:60]
            suffix = "npy" if plan.kind == "logmel" else "flac"
            yield f"{number:08d}-{stem}.{suffix}", name, _encoded(samples, plan)

    shards_.write_shard(plan.path, members(), plan.digest, skipped=skipped)


def _decoded(path: Path, plan: Plan):
    from evar.data import audio

    samples = audio.load_clip(path, sample_rate=plan.sample_rate, samples=None, silence=True)
    return samples[: int(plan.seconds * plan.sample_rate)]


def _encoded(samples, plan: Plan) -> bytes:
    content = io.BytesIO()
    if plan.kind == "flac":
        import soundfile

        soundfile.write(content, samples, plan.sample_rate, format="FLAC", subtype=_SUBTYPE)
        return content.getvalue()
    import numpy as np
    import torch

    from evar.model_adapters.m2d import log_mel, mel_spectrogram

    torch.set_num_threads(1)  # one process per core
    mel = mel_spectrogram(plan.sample_rate, 80)
    features = log_mel(mel, torch.from_numpy(samples)[None])[0]
    np.save(content, np.ascontiguousarray(features.numpy(), np.float16))
    return content.getvalue()


if __name__ == "__main__":
    from evar import cli

    cli.call("pretrain.prepare", prepare)
