"""What the command lines do: read options, call the harness, print. Heavy imports are inside."""

import math
import os
from dataclasses import replace
from pathlib import Path

from fire.decorators import SetParseFns

from evar.errors import UserError, unknown


@SetParseFns(model=str, task=str, weights=str, data=str, cache=str, results=str)
@SetParseFns(device=str, precision=str)
def lineareval(
    model,
    task,
    *,
    seeds=3,
    lr=None,
    hidden=(),
    epochs=200,
    weights=None,
    data=None,
    seconds=None,
    device="auto",
    precision="fp32",
    batch_size=None,
    results="results",
    cache=None,
    no_cache=False,
    partial=False,
    skip_bad=False,
    quiet=False,
    **options,
):
    """Score a frozen encoder on a task with linear probes.

    usage: lineareval MODEL TASK [options]

    MODEL          a registered name (`evar list models`) or path/to/file.py:ClassName
    TASK           a registered name (`evar list tasks`) or the path of a CSV with the columns
                   file,label,split (or fold) and optionally group

    --seeds=3      runs, with seeds 42, 43, ...; or the seeds themselves: --seeds=42,43
    --lr=RATE      learning rate of the probe; default: the model's
    --hidden=()    widths of hidden layers, e.g. --hidden=(512,); none is the linear probe
    --epochs=200   at most so many; the probe stops 20 epochs after its best
    --weights=PATH checkpoint; default: the published file in $EVAR_WEIGHTS or weights/;
                   "random" evaluates the untrained network
    --data=DIR     where data sets and manifests are; default: $EVAR_DATA or data/
    --seconds=S    unit length of a CSV task; default: its longest clip, at most 10
    --device=auto  cpu, cuda, cuda:1, ...
    --precision=fp32  or bf16: mixed precision in the encoder, behind its front end
    --batch_size=N clips through the encoder at a time (no effect on the protocol)
    --results=DIR  where results are written; default: results/
    --cache=DIR    where embeddings are kept; default: $EVAR_CACHE or the user's cache folder
    --no_cache     keep no embeddings
    --partial      accept an incomplete data set; the score then says so
    --skip_bad     leave out clips that cannot be decoded; the score then says so
    --quiet        no progress bars
    --NAME=VALUE   an option of the model's adapter
    """
    from evar import models, store

    seeds, hidden, epochs = _seeds(seeds), _widths(hidden), _whole("epochs", epochs)
    lr = _number("lr", lr, above=1e-12, optional=True)
    if precision not in ("fp32", "bf16"):
        raise unknown("precision", str(precision), ["fp32", "bf16"])
    batch_size = None if batch_size is None else _whole("batch_size", batch_size)
    seconds = _number("seconds", seconds, above=0.001, optional=True)
    manifest = _open_task(task, _data(data), seconds, quiet)
    from evar import clips, files, leaderboard
    from evar import results as results_
    from evar.probe import ProbeSettings
    from evar.protocols import linear

    if manifest.task.metric == "recall":
        raise UserError(f"{task} has captions, no classes: it is a task of audio-text retrieval")
    clips.require_usable(manifest, partial=partial, skip_bad=skip_bad)
    device = _device(device)
    files.make_folder(results)
    adapter, config = models.load(model, weights=weights, **options)
    identity = models.identity(adapter, config, options)
    config = replace(config, lr=linear.learning_rate(config, manifest.task), lr_by_task={})
    probe = ProbeSettings(lr=lr or config.lr, hidden=hidden, epochs=epochs)
    with _bars(f"{model} {task}", quiet) as (embedding, probing):
        evaluation = linear.evaluate(
            adapter,
            identity,
            manifest,
            linear.LinearSettings(probe, seeds),
            cache=None if no_cache else Path(cache or store.cache_folder()),
            device=device,
            precision=precision,
            batch_size=batch_size,
            skip_bad=skip_bad,
            embed_progress=embedding,
            probe_progress=probing(probe.epochs) if probing else None,
        )
    record = results_.run_record(evaluation, config, identity, manifest, device=device)
    path = results_.save_run(record, evaluation, results)
    board = leaderboard.rebuild(results)[-1]
    low, high = (100 * v for v in record["score"]["bootstrap95"])
    unit = record["score"]["bootstrap_unit"]
    print(f"test clips resampled by {unit}: 95 % interval {low:.1f} to {high:.1f} %")
    print(f"results: {path}, table: {board}")
    print(results_.summary_line(record))


def _data(given) -> Path:
    return Path(given or os.environ.get("EVAR_DATA", "data"))


def _open_task(
    name: str, data: Path, seconds: float | None, quiet: bool, source=None, *, anew: bool = False
):
    from evar import clips, csvtask
    from evar import task as tasks

    if csvtask.is_csv(name):
        task = csvtask.task_from_csv(name, seconds=seconds)
        manifest_name = csvtask.manifest_name(name)
    else:
        if seconds is not None:
            raise UserError("--seconds is for CSV tasks: a registered task has its published unit")
        task, manifest_name = tasks.get(name), None
    bar = None if quiet else _bar(f"index {task.name}", "file")
    if csvtask.is_csv(name) or task.bundled:
        source = task.bundled  # small, and the user's own: looked at anew each time
    return clips.open_task(task, data, source=source, progress=bar, name=manifest_name, anew=anew)


def _bar(title: str, unit: str, **more):
    """A tqdm bar that waits half a second before it shows, and leaves nothing behind."""
    from tqdm import tqdm

    def bar(iterable=None, total=None):
        settings = {"desc": title, "unit": unit, "delay": 0.5, "leave": False, **more}
        return tqdm(iterable, total=total, **settings)

    return bar


class _bars:
    """Progress of a run on standard error: decoding and embedding by clip, probing by epoch."""

    def __init__(self, title: str, quiet: bool):
        self.title, self.quiet, self.open = title, quiet, []

    def __enter__(self):
        if self.quiet:
            return None, None

        def probing(epochs: int):
            bar = _bar(f"{self.title}: probe", "epoch")(total=epochs)
            self.open.append(bar)

            def on_epoch(_, running: int) -> None:
                bar.set_postfix(probes=running, refresh=False)
                bar.update()

            return on_epoch

        return _bar(f"{self.title}: decode and embed", "clip"), probing

    def __exit__(self, *_):
        for bar in self.open:
            bar.close()


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device={name}: not usable here ({reason})") from error
    return name


def _seeds(value) -> tuple[int, ...]:
    if isinstance(value, (tuple, list)) and value:
        if not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in value):
            raise UserError(f"--seeds must be whole numbers of 0 or more, not {value}")
        if len(set(value)) < len(value):
            raise UserError("--seeds: the same seed twice is the same run twice")
        return tuple(value)
    return tuple(range(42, 42 + _whole("seeds", value)))


def _widths(value) -> tuple[int, ...]:
    values = value if isinstance(value, (tuple, list)) else (value,)
    return tuple(_whole("hidden", v) for v in values)


def _whole(name: str, value) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"--{name} must be a whole number of 1 or more, not {value!r}")
    return value


def _number(name: str, value, *, above: float, optional: bool = False) -> float | None:
    if value is None and optional:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not value >= above or math.isinf(value):
        raise UserError(f"--{name} must be a number of {above:g} or more, not {value!r}")
    return float(value)


@SetParseFns(task=str, source=str, data=str)
def prepare(task, *, source=None, data=None, download=False, quiet=False):
    """Index and verify a data set that is on disk, or download it first.

    usage: prepare TASK [options]

    TASK           a registered name (`evar list tasks`), the path of a CSV with the columns
                   file,label,split (or fold) and optionally group, or "all": every data set that
                   is found in --source

    --source=DIR   the data set's folder (it stays where it is); default: where it was last time,
                   else DATA/TASK
    --download     fetch what is openly served into DATA/TASK; says what to do by hand for the rest
    --data=DIR     where manifests are kept; default: $EVAR_DATA or data/
    --quiet        no progress bar
    """
    if task == "all":
        return _prepare_all(source, _data(data), quiet)
    from evar import clips, csvtask
    from evar import prepare as prepare_
    from evar import task as tasks

    if not csvtask.is_csv(task):
        registered = tasks.get(task)
        bytes_ = None if quiet else _bar(f"download {task}", "B", unit_scale=True)
        folder = Path(source) if source else _data(data) / task
        if download:
            prepare_.fetch_all(registered, folder, bytes_)
        if source or folder.is_dir():
            root = clips.find_root(folder, registered.marker)
            prepare_.fetch_tables(registered, root, bytes_)
    manifest = _open_task(task, _data(data), None, quiet, source, anew=True)
    name, column = manifest.task.name, manifest.task.column
    counts = manifest.good[column].value_counts().sort_index()
    print(f"{name}: {len(manifest.good):,} clips in {manifest.root}")
    print("  " + ", ".join(f"{column} {side}: {count:,}" for side, count in counts.items()))
    print(f"  manifest {manifest.sha256[:16]}")
    for kind, rows in (("missing", manifest.missing), ("unreadable", manifest.bad)):
        for file, problem in zip(rows.file, rows.problem, strict=True):
            print(f"  {kind}: {file}" + (f": {problem}" if kind != "missing" else ""))
    print(f"  {_verdict(manifest)}")


def _verdict(manifest) -> str:
    if manifest.partial:
        return f"NOT COMPLETE: {manifest.partial}; scores need --partial and say so"
    if len(manifest.bad):
        return f"{len(manifest.bad)} unreadable: scores need --skip_bad and say so"
    return "complete"


def _prepare_all(source, data: Path, quiet: bool) -> None:
    """Index every registered data set that lies in a folder; one line each."""
    from evar import clips
    from evar import prepare as prepare_
    from evar import task as tasks

    if source is None or not Path(source).is_dir():
        raise UserError("prepare all needs --source=DIR, a folder that holds data sets")
    print(f"{'task':<14} {'clips':>10} {'expected':>10}  verdict")
    for name in tasks.names():
        task = tasks.get(name)
        expected = f"{sum(task.counts.values()):,}"
        root = task.bundled or prepare_.locate(task, source)
        if root is None:
            print(f"{name:<14} {'-':>10} {expected:>10}  not found")
            continue
        try:
            prepare_.fetch_tables(task, root)
            bar = None if quiet else _bar(f"index {name}", "file")
            manifest = clips.open_task(task, data, source=root, progress=bar)
        except UserError as error:
            print(f"{name:<14} {'-':>10} {expected:>10}  {error}")
            continue
        clips_ = f"{len(manifest.good):,}"
        print(f"{name:<14} {clips_:>10} {expected:>10}  {_verdict(manifest)} ({manifest.root})")


@SetParseFns(results=str)
def leaderboard(*, results="results"):
    """Rebuild scores.csv, leaderboard.csv and leaderboard.md from the runs.

    usage: leaderboard [options]

    --results=DIR  the results folder; default: results/
    """
    from evar import leaderboard as leaderboard_

    if not Path(results).is_dir():
        raise UserError(f"{results}: no such results folder (--results=DIR)")
    for path in leaderboard_.rebuild(results):
        print(path)


@SetParseFns(what=str, data=str)
def list_registered(what, *, data=None):
    """List the registered models or tasks.

    usage: list models|tasks [options]

    --data=DIR     where manifests are (to tell which tasks are prepared)
    """
    if what == "models":
        from evar import models

        for name in models.names():
            print(f"{name:<20} {models.config(name).title}")
    elif what == "tasks":
        from evar import task as tasks

        layout = "{:<14} {:>9} {:>7}  {:<8} {:>7}  {:<8}  {:<8}  {}"
        heads = ("task", "clips", "classes", "split", "seconds", "metric", "prepared", "licence")
        print(layout.format(*heads))
        for name in tasks.names():
            task = tasks.get(name)
            split = f"{len(task.folds)} folds" if task.folds else "split"
            total = f"{sum(task.counts.values()):,}"
            seconds = f"{task.seconds:g}" if task.seconds else "whole"
            known = (_data(data) / "manifests" / f"{name}.json").exists() or bool(task.bundled)
            prepared = "yes" if known else "no"
            classes = str(task.classes or "-")
            print(
                layout.format(
                    *(name, total, classes, split, seconds, task.metric, prepared, task.licence)
                )
            )
    else:
        raise unknown("list:", what, ["models", "tasks"])


@SetParseFns(action=str, key=str, cache=str)
def cache(action, key=None, *, cache=None):
    """Show or remove kept embeddings.

    usage: cache ls | cache rm KEY | cache rm all

    KEY            the first digits of a key that `cache ls` shows
    --cache=DIR    the cache folder; default: $EVAR_CACHE or the user's cache folder
    """
    from evar import store

    folder = Path(cache or store.cache_folder())
    kept = store.entries(folder)
    if action == "ls":
        for entry in kept:
            model = entry.identity.get("model", {}).get("adapter", "?")
            task = entry.identity.get("task", "?")
            print(f"{entry.key[:12]}  {entry.bytes / 1e6:9.1f} MB  {model:<24} {task}")
        print(f"{len(kept)} keys, {sum(e.bytes for e in kept) / 1e6:,.1f} MB in {folder}")
    elif action == "rm":
        if key is None:
            raise UserError("cache rm needs KEY: the first digits that `cache ls` shows, or all")
        chosen = [e for e in kept if key == "all" or e.key.startswith(key)]
        if not chosen:
            raise UserError(f"no key begins with {key!r} in {folder}; `cache ls` shows them")
        for entry in chosen:
            store.remove(folder, entry.key)
        print(f"removed {len(chosen)} keys, {sum(e.bytes for e in chosen) / 1e6:,.1f} MB")
    else:
        raise unknown("action", action, ["ls", "rm"])


@SetParseFns(model=str, weights=str)
def check(model, *, weights=None, **options):
    """Check that a model's adapter works as the harness expects.

    usage: check MODEL [options]

    MODEL            a registered name (`evar list models`), path/to/file.py:ClassName,
                     hf:ORG/NAME or hear:MODULE
    --weights=PATH   checkpoint; "random" checks the untrained network
    --NAME=VALUE     an option of the model's adapter

    Prints one line a check: what failed, and how to mend it. Exit code 0, or 2 if any failed.
    """
    from evar import check as check_
    from evar import models

    adapter, _ = models.load(model, weights=weights, **options)
    findings = check_.check(adapter)
    for finding in findings:
        print(finding)
    failed = sum(not finding.ok for finding in findings)
    if failed:
        raise UserError(f"{model}: {failed} of {len(findings)} checks failed")
    print(f"{model}: all {len(findings)} checks passed")
