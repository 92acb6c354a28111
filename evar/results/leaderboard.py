"""The leaderboard: every table is rebuilt from the runs' JSONs and the published figures."""

import csv
import hashlib
import io
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import filelock

import evar
from evar import files
from evar.errors import UserError
from evar.results import record as results
from evar.results import text
from evar.results.record import RunRecord

# Tasks whose mean is a model's average in the paper; a model that lacks one has no average.
AVERAGED = {
    "linear": (
        "esc50",
        "us8k",
        "spcv2",
        "vc1",
        "voxforge",
        "cremad",
        "gtzan",
        "nsynth",
        "surge",
    )
}
_RETRIEVAL = {"text_to_audio": "t→a", "audio_to_text": "a→t"}


@dataclass(frozen=True)
class Row:
    """One model under one protocol: cells by task, e.g. "96.3 ± 0.3", and where they are from."""

    protocol: str
    model: str
    source: str  # "run" or "published"
    cells: dict[str, str]
    average: str


@dataclass(frozen=True)
class Rebuilt:
    """The tables that were written, and one line for each file in runs/ that is no result."""

    paths: list[Path]
    problems: list[str]


def rebuild(folder) -> Rebuilt:
    """Rewrites scores.csv, leaderboard.csv and leaderboard.md from the runs in a folder.

    Other processes may do the same at the same time: the last one to write has read all runs.
    """
    folder = files.make_folder(folder)
    with files.writing(folder), filelock.FileLock(folder / ".leaderboard.lock"):
        runs, problems = results.load_runs(folder)
        rows = [*rows_of_runs(runs), *rows_published(folder / "published.csv")]
        tables = {
            "scores.csv": _csv(scores_table(runs)),
            "leaderboard.csv": _csv(_wide(rows)),
            "leaderboard.md": markdown(rows),
        }
        for name, content in tables.items():
            files.write_atomic(folder / name, content)
    return Rebuilt([folder / name for name in tables], problems)


def scores_table(runs: Iterable[RunRecord]) -> list[dict]:
    """One line a run: what it was, its score in percent with both intervals, its caveats."""
    return [
        {
            "id": r.id,
            "protocol": r.protocol,
            "model": r.model.name,
            "variant": variant(r),
            "weights": r.model.weights,
            "source": r.model.source,
            "task": r.task.name,
            "task_version": r.task.version,
            "seconds": r.task.seconds,
            "protocol_version": r.protocol_version,
            "metric": r.score.metric,
            "score_percent": round(100 * r.score.mean, 4),
            "ci95": "" if r.score.ci95 is None else round(100 * r.score.ci95, 4),
            "runs": r.score.runs,
            "bootstrap_low": round(100 * r.score.bootstrap95[0], 4),
            "bootstrap_high": round(100 * r.score.bootstrap95[1], 4),
            "test_clips_by": r.score.bootstrap_unit,
            "caveats": "; ".join(text.caveats(r)),
            "finished": r.finished,
        }
        for r in runs
    ]


def variant(record: RunRecord) -> str:
    """Returns what differs from the defaults of model and protocol, e.g. "lr=0.001"."""
    named = [f"{name}={_shown(name, value)}" for name, value in record.variant.items()]
    return ", ".join(named + ["reduced set"] * record.reduced)


def _shown(name: str, value: object) -> str:
    if name == "seeds" and isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def rows_of_runs(runs: Iterable[RunRecord]) -> list[Row]:
    """One row a protocol, model, weights and variant; the newest run of a cell counts.

    A column holds scores on the same clips: where a data set has changed between runs, or two
    CSVs share a name, the newest keeps the plain name and others get their manifest's hash, or
    their unit's length. A row holds scores of one version of its protocol.
    """
    runs = list(runs)
    newest = {_asked(r): r for r in runs if not _part_of_published(r)}
    versions: dict[str, int] = {}
    for r in runs:
        versions[r.protocol] = max(versions.get(r.protocol, 0), r.protocol_version)
    grouped: dict[tuple, dict[str, dict]] = {}
    for record in runs:  # oldest first: later ones replace earlier ones
        key = (
            record.protocol,
            record.model.name,
            _model(record),
            _told(record, versions[record.protocol]),
        )
        grouped.setdefault(key, {})[_column(record, newest)] = record
    alike: dict[tuple, list[tuple[str, ...]]] = {}  # what rows of one name differ by
    for protocol, model, identity, told in grouped:
        alike.setdefault((protocol, model, told), []).append(identity)
    rows = []
    for key, cells in grouped.items():
        protocol, model, identity, told = key
        label = model + (f" ({told})" if told else "")
        others = alike[protocol, model, told]
        if len(others) > 1:
            label += f" [{_mark(identity, others)}]"
        shown = {k: text for name, r in cells.items() for k, text in _cells(name, r).items()}
        means = [  # of whole sets only: a mean with a reduced one would not be the paper's
            cells[t].score.mean
            for t in AVERAGED.get(protocol, ())
            if t in cells and not cells[t].reduced
        ]
        whole = AVERAGED.get(protocol) and len(means) == len(AVERAGED[protocol])
        average = f"{100 * sum(means) / len(means):.1f}" if whole else ""
        rows.append(Row(protocol, label, "run", shown, average))
    return sorted(rows, key=lambda r: (r.protocol, r.model))


def _model(record: RunRecord) -> tuple[str, str, str]:
    """What models of one name may differ by: weights, source, what reads the captions."""
    captions = files.canonical_json(record.settings.get("text", {}))
    read_by = hashlib.sha256(captions.encode()).hexdigest()
    return record.model.weights, record.model.source, read_by


def _mark(identity: tuple[str, ...], others: list[tuple[str, ...]]) -> str:
    """What tells a model from others: six digits of each hash, as far as they are needed."""
    for count in range(1, len(identity) + 1):
        for parts in itertools.combinations(range(len(identity)), count):
            if len({tuple(other[i] for i in parts) for other in others}) == len(others):
                return "/".join(identity[i][:6] for i in parts)
    raise AssertionError("rows that differ in nothing are one row")


def _asked(record: RunRecord) -> tuple[str, str]:
    return record.protocol, record.task.name


def _told(record: RunRecord, newest_version: int) -> str:
    version = record.protocol_version
    old = [f"protocol version {version}"] if version < newest_version else []
    return ", ".join(filter(None, [variant(record), *old]))


def _part_of_published(record: RunRecord) -> bool:
    """Whether a run had some clips of a set that everybody knows by its name; its cell says so."""
    return bool(record.clips.partial and record.task.published)


def _data(record: RunRecord) -> tuple[str, str]:
    """What a run was scored on: version of the task, hash of the manifest."""
    return record.task.version, record.manifest


def _column(record: RunRecord, newest: dict) -> str:
    name, usual = record.task.name, newest.get(_asked(record), record)
    if _part_of_published(record):
        return name
    if _data(record) != _data(usual):
        name += f" [{record['manifest'][:6]}]"
    if record.task.seconds != usual.task.seconds:
        name += f" ({record['task']['seconds']:g} s)"
    return name


def _cells(task: str, record: RunRecord) -> dict[str, str]:
    """Column: text. A retrieval run has a column a direction and metric, others one a task."""
    caveats = [f"({c})" for c in text.caveats(record)]
    if record.select not in (None, "oracle"):  # that is a caveat already
        caveats.insert(0, f"({record.select})")
    if record.protocol != "retrieval":
        return {task: " ".join([text.percent(record), *caveats])}
    return {
        f"{task} {_RETRIEVAL[direction]} {metric}": " ".join([_retrieved(metric, value), *caveats])
        for direction, metrics in record.metrics.items()
        for metric, value in metrics.items()
    }


def _retrieved(metric: str, value: float) -> str:
    return f"{value:g}" if metric == "medR" else f"{100 * value:.1f}"


def rows_published(path) -> list[Row]:
    """Rows of the paper's tables: of `path`, else of the checkout's results/published.csv."""
    path = Path(path)
    if not path.is_file():
        path = Path(evar.__file__).resolve().parent.parent / "results" / "published.csv"
    if not path.is_file():
        return []
    grouped: dict[tuple[str, str], dict[str, str]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                float(line["score_percent"])  # a number, shown as it was printed
                cell = line["score_percent"] + (f" ± {line['ci95']}" if line["ci95"] else "")
                cell += f" ({line['caveat']})" if line.get("caveat") else ""
                cells = grouped.setdefault((line["protocol"], line["model"]), {})
                cells[line["task"]] = cell
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: not the table of published figures ({error!r})") from error
    return [
        Row(protocol, model, "published", cells, cells.pop("average", ""))
        for (protocol, model), cells in grouped.items()
    ]


def _tasks(rows: list[Row]) -> list[str]:
    """Columns: the paper's tasks first, in its order, then all others by name."""
    present = {task for row in rows for task in row.cells}
    first = [t for t in AVERAGED["linear"] if t in present]
    rest = [t for row in rows for t in row.cells]  # a run's own order, of retrieval metrics
    return first + sorted(present - set(first), key=lambda t: (t.partition(" ")[0], rest.index(t)))


def _wide(rows: list[Row]) -> list[dict]:
    tasks = _tasks(rows)
    return [
        {
            "protocol": row.protocol,
            "model": row.model,
            "source": row.source,
            **{task: row.cells.get(task, "") for task in tasks},
            "average": row.average,
        }
        for row in rows
    ]


def _csv(lines: list[dict]) -> str:
    text = io.StringIO()
    if lines:
        writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return text.getvalue()


def markdown(rows: list[Row]) -> str:
    """One table a protocol; scores in percent, ± half of the 95 % interval over runs."""
    parts = [
        "# Leaderboard",
        "",
        "Scores in percent, ± half width of the 95 % interval over runs (Student t), or with the "
        "95 % interval over test clips in brackets where nothing random decides (those of "
        "retrieval are in the runs' JSONs). medR is a rank. Sets with several labels a clip have "
        "macro mAP, others accuracy (scores.csv names it). A row's brackets name what differs "
        "from the published weights and the protocol's settings; digits in square brackets begin "
        "the hashes (weights, source, manifest) that scores.csv and the JSONs have in full. "
        "Fine-tuned scores name how the epoch was selected; an oracle looked at the test set. Rows "
        "marked *published* are quoted from the M2D-CLAP paper (Interspeech 2024), Tables 3 to 5. "
        "Rebuild with `python leaderboard.py`.",
    ]
    for protocol in sorted({row.protocol for row in rows}):
        own = [row for row in rows if row.protocol == protocol]
        tasks = _tasks(own)
        averaged = protocol in AVERAGED or any(row.average for row in own)
        parts += ["", f"## {protocol}", ""]
        parts.append(_line(["model", *tasks, *["average"] * averaged]))
        parts.append("|" + " --- |" * (1 + len(tasks) + averaged))
        for row in own:
            name = row.model if row.source == "run" else f"{row.model} *published*"
            cells = [row.cells.get(t, "") for t in tasks]
            parts.append(_line([name, *cells, *[row.average] * averaged]))
    return "\n".join(parts) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
