"""What commands share: options read and checked, tasks opened, progress, results written."""

import math
import os
from collections.abc import Callable
from pathlib import Path

from evar.errors import UserError, unknown


def data_folder(given) -> Path:
    """Where data sets and manifests are: as given, else $EVAR_DATA, else data/."""
    return Path(given or os.environ.get("EVAR_DATA", "data"))


def cache_of(given, no_cache: bool) -> Path | None:
    """Where embeddings are kept; None keeps nothing."""
    from evar.embedding import store

    return None if no_cache else Path(given or store.cache_folder())


def open_task(
    name: str,
    data: Path,
    seconds: float | None,
    quiet: bool,
    source=None,
    *,
    anew: bool = False,
    captioned: bool = False,
):
    """The manifest of a registered task, or of a user's CSV, as the disk is now.

    `captioned`: a CSV has captions, not labels.
    """
    from evar import task as tasks
    from evar.data import manifests, own_sounds

    if own_sounds.is_csv(name):
        if captioned:
            task = own_sounds.captions_from_csv(name)
        else:
            task = own_sounds.task_from_csv(name, seconds=seconds)
            if task.multi_label:
                print(f"{name}: a comma in a label: several labels a clip, the metric is mAP")
        manifest_name = own_sounds.manifest_name(name)
    else:
        if Path(name).is_dir() and name not in tasks.names():
            raise UserError(
                f"{name}: a folder. List its sounds in a CSV (file,label,split) and name that"
            )
        if seconds is not None:
            raise UserError("--seconds is for CSV tasks: a registered task has its published unit")
        task, manifest_name = tasks.get(name), None
    bar = progress_bar(f"index {task.name}", "file", quiet)
    if own_sounds.is_csv(name) or task.bundled:
        source = task.bundled  # small, and the user's own: looked at anew each time
    return manifests.open_task(
        task, data, source=source, progress=bar, name=manifest_name, anew=anew
    )


def progress_bar(title: str, unit: str, quiet: bool = False, **more) -> Callable | None:
    """A tqdm bar that waits half a second before it shows, and leaves nothing behind."""
    if quiet:
        return None
    from tqdm import tqdm

    def bar(iterable=None, total=None):
        settings = {"desc": title, "unit": unit, "delay": 0.5, "leave": False, **more}
        return tqdm(iterable, total=total, **settings)

    return bar


def write_run(evaluation, config, identity: dict, manifest, *, device: str, results) -> None:
    """Write a run's result, rebuild the tables, and print where they are and the score."""
    from evar.results import leaderboard
    from evar.results import record as results_

    record = results_.run_record(evaluation, config, identity, manifest, device=device)
    path = results_.save_run(record, evaluation, results)
    failure = None
    try:
        table = f"table: {leaderboard.rebuild(results)[-1]}"
    except UserError as error:  # of another run's file, perhaps; this one is saved
        failure, table = error, "tables not rebuilt (see below)"
    low, high = (100 * v for v in record["score"]["bootstrap95"])
    unit = record["score"]["bootstrap_unit"]
    if config.checkpoint == "none given":
        print(f"note: no --weights given, so {config.name} was built without any")
    print(f"test clips resampled by {unit}: 95 % interval {low:.1f} to {high:.1f} %")
    print(f"results: {path}, {table}")
    print(results_.summary_line(record))
    if failure is not None:
        raise failure


def require_reads_text(model: str) -> None:
    """Refuse an audio-only model, and say which ones read captions."""
    from evar import models

    if not models.reads_text(model):
        able = [name for name in models.names() if models.reads_text(name)]
        raise UserError(
            f"{model} is an audio-only model: it reads no captions (which takes embed_joint() and "
            f"embed_text()). Audio-language models are {', '.join(able)}"
        )


def precision_of(value) -> str:
    if value not in ("fp32", "bf16"):
        raise unknown("precision", str(value), ["fp32", "bf16"])
    return value


def device_of(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--device={name}: not usable here ({reason}); usual ones are cpu, cuda and cuda:1"
        ) from error
    return name


_SEEDS = 2**32  # as many as every generator takes


def seeds_of(value) -> tuple[int, ...]:
    if isinstance(value, (tuple, list)) and value:
        if not all(type(v) is int and 0 <= v < _SEEDS for v in value):
            raise UserError(f"--seeds must be whole numbers from 0 to {_SEEDS - 1}, not {value}")
        if len(set(value)) < len(value):
            raise UserError("--seeds: the same seed twice is the same run twice")
        return tuple(value)
    count = whole("seeds", value)
    if count > 1000:
        raise UserError(f"--seeds={count} is a number of runs; one seed has a comma: {count},")
    return tuple(range(42, 42 + count))


def widths(value) -> tuple[int, ...]:
    values = value if isinstance(value, (tuple, list)) else (value,)
    return tuple(whole("hidden", v) for v in values)


def whole(name: str, value) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"--{name} must be a whole number of 1 or more, not {value!r}")
    return value


def number(name: str, value, *, above: float, optional: bool = False) -> float | None:
    if value is None and optional:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not value >= above or math.isinf(value):
        raise UserError(f"--{name} must be a number of {above:g} or more, not {value!r}")
    return float(value)
