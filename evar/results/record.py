"""The record of a run: typed, written as one JSON per run, and read back with every field checked.

results/runs/<id>.json, with <id>.predictions.csv.gz and further tables and files of the protocol,
such as its probes, next to it.
The leaderboard and pages are rebuilt from the JSONs. docs/results.md documents every field.
"""

import gzip
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from evar import files
from evar.errors import UserError
from evar.results import checks, schema1
from evar.scoring.evaluation import Evaluation, Score

SCHEMA = 2


@dataclass(frozen=True)
class ModelRecord:
    """Which model was evaluated.

    source: hash of its code. weights: hash of its parameters and buffers. options: those its
    adapter was built with. identity: the rest of what decides its embeddings (the adapter's class,
    hashes of files, versions of libraries). parameters: their number. width: D of its embeddings.
    """

    name: str
    source: str
    weights: str
    options: Mapping[str, object]
    identity: Mapping[str, object] = field(default_factory=dict)
    parameters: int | None = None
    width: int | None = None


@dataclass(frozen=True)
class TaskRecord:
    """Which task was evaluated.

    seconds: the unit length; None where clips were read whole. published: whether the task has
    published clip counts, so that everybody's copy is the same. usual_seconds: the unit length a
    run gets by default; None in old records. kind: a name in evar.task.KINDS, "" in old records.
    """

    name: str
    version: str
    seconds: float | None
    published: bool
    usual_seconds: float | None = None
    kind: str = ""


@dataclass(frozen=True)
class Skipped:
    """A clip left out, relative to the data set's folder, and why."""

    clip: str
    why: str


@dataclass(frozen=True)
class Clips:
    """Clips in use.

    sides: their number in each split or fold; other counts of a protocol (captions) too. partial:
    "N of M clips" where the data set is incomplete, else "".
    """

    sides: Mapping[str, int]
    total: int
    skipped: tuple[Skipped, ...]
    partial: str


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """All that is kept of a run, apart from its tables per clip.

    id: hash of what decides the score. manifest: SHA-256 of the clips' table. config: the model's
    configuration (evar.models.ModelConfig). settings, seeds, metrics, per_class, undefined_classes,
    runs, seconds, clips_per_second: as in `Evaluation`. variant: what differs from the defaults of
    model and protocol. select: how the epoch was chosen where the encoder was trained. extra:
    further fields of the protocol. evar: version of this package. libraries: versions. git: the
    checkout's commit. request: hash of what was asked for, known before the run.
    seen_in_training: how the checkpoint's training data overlap with the task's clips
    (`evar.models.seen_in_training`); None: no overlap is known. unheard: how much of the clips lies
    beyond the unit (longer, clips, share, note); empty: nothing. finished: ISO 8601 in UTC.
    """

    id: str
    protocol: str
    protocol_version: int
    model: ModelRecord
    task: TaskRecord
    manifest: str
    settings: Mapping[str, object]
    seeds: tuple[int, ...]
    clips: Clips
    score: Score
    finished: str
    variant: Mapping[str, object] = field(default_factory=dict)
    select: str | None = None
    metrics: Mapping[str, object] = field(default_factory=dict)
    per_class: Mapping[str, float | None] = field(default_factory=dict)
    undefined_classes: int = 0
    runs: tuple[Mapping[str, object], ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    clips_per_second: float | None = None
    config: Mapping[str, object] = field(default_factory=dict)
    device: str = ""
    python: str = ""
    evar: str = ""
    libraries: Mapping[str, str] = field(default_factory=dict)
    git: str | None = None
    request: str = ""
    seen_in_training: str | None = None
    unheard: Mapping[str, object] = field(default_factory=dict)
    extra: Mapping[str, object] = field(default_factory=dict)

    @property
    def reduced(self) -> bool:
        """Returns whether clips of the data set were absent or left out."""
        return bool(self.clips.partial or self.clips.skipped)

    def to_json(self) -> dict[str, object]:
        """Returns the record as JSON values, in the order of docs/results.md."""
        model, interval = asdict(self.model), self.score.test95
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        return {
            "schema": SCHEMA,
            **known,
            "model": {"name": model.pop("name"), **model.pop("identity"), **model},
            "task": asdict(self.task),
            "seeds": list(self.seeds),
            "clips": {
                **self.clips.sides,
                "total": self.clips.total,
                "skipped": [asdict(skipped) for skipped in self.clips.skipped],
                "partial": self.clips.partial,
            },
            "score": {**asdict(self.score), "test95": interval and list(interval)},
            "runs": list(self.runs),
            **self.extra,
        }


def from_json(data: object, *, file: str = "record") -> RunRecord:
    """Returns the record of JSON values, of this schema or an older one.

    Raises UserError that names `file` and the first field that is missing, mistyped or impossible.
    """
    try:
        found = checks.Fields.of(data)
        written_as = found("schema", checks.whole(1))
        if written_as == 1:
            found = checks.Fields.of(schema1.converted(found.values))
        elif written_as != SCHEMA:
            raise ValueError(f"schema: {written_as} is of another version of evar")
        return _record(found)
    except ValueError as error:
        raise UserError(f"{file}: not a run's result ({error}). Move it away.") from error


def _record(data: checks.Fields) -> RunRecord:
    known = {f.name for f in fields(RunRecord)} | {"schema"}
    plain = checks.mapping(checks.anything)
    texts = checks.mapping(checks.text)
    return RunRecord(
        id=data("id", checks.digest),
        protocol=data("protocol", checks.name),
        protocol_version=data("protocol_version", checks.whole()),
        model=_model(data.inside("model")),
        task=_task(data.inside("task")),
        manifest=data("manifest", checks.digest),
        settings=data("settings", plain),
        seeds=data("seeds", checks.many(checks.whole())),
        clips=_clips(data.inside("clips")),
        score=_score(data.inside("score")),
        finished=data("finished", checks.moment),
        variant=data("variant", plain, {}),
        select=data("select", checks.optional(checks.text), None),
        metrics=data("metrics", checks.mapping(_metric_value), {}),
        per_class=data("per_class", checks.mapping(checks.optional(checks.number)), {}),
        undefined_classes=data("undefined_classes", checks.whole(), 0),
        runs=data("runs", checks.many(plain), ()),
        seconds=data("seconds", checks.mapping(checks.at_least(0)), {}),
        clips_per_second=data("clips_per_second", checks.optional(checks.at_least(0)), None),
        config=data("config", plain, {}),
        device=data("device", checks.text, ""),
        python=data("python", checks.text, ""),
        evar=data("evar", checks.text, ""),
        libraries=data("libraries", texts, {}),
        git=data("git", checks.optional(checks.text), None),
        request=data("request", checks.text, ""),
        seen_in_training=data("seen_in_training", checks.optional(checks.text), None),
        unheard=data("unheard", _unheard, {}),
        extra=data.without(known),
    )


def _metric_value(value, where: str):
    """A number, None where undefined, or several by name (of one direction of retrieval)."""
    if isinstance(value, dict):
        return checks.mapping(checks.optional(checks.number))(value, where)
    return checks.optional(checks.number)(value, where)


def _unheard(value, where: str):
    """Returns what `RunRecord.unheard` holds: nothing, or a note and a share among others."""
    found = checks.mapping(checks.anything)(value, where)
    if found:
        data = checks.Fields.of(value, where)
        data("note", checks.text)
        data("share", checks.number)
    return found


def _model(data: checks.Fields) -> ModelRecord:
    known = {f.name for f in fields(ModelRecord)}
    size = checks.optional(checks.whole(1))
    return ModelRecord(
        name=data("name", checks.name),
        source=data("source", checks.text),
        weights=data("weights", checks.text),
        options=data("options", checks.mapping(checks.anything)),
        identity=data.without(known),
        parameters=data("parameters", size, None),
        width=data("width", size, None),
    )


def _task(data: checks.Fields) -> TaskRecord:
    seconds = checks.optional(checks.above_zero)
    return TaskRecord(
        name=data("name", checks.name),
        version=data("version", checks.text),
        seconds=data("seconds", seconds),
        published=data("published", checks.flag),
        usual_seconds=data("usual_seconds", seconds, None),
        kind=data("kind", checks.text, ""),
    )


def _clips(data: checks.Fields) -> Clips:
    partial, skipped = data("partial", checks.text), data("skipped", checks.many(_skipped))
    sides = data.without({"total", "skipped", "partial"})
    counts = {name: checks.whole()(value, data.name(name)) for name, value in sides.items()}
    return Clips(counts, data("total", checks.whole(), sum(counts.values())), skipped, partial)


def _skipped(value, where: str) -> Skipped:
    data = checks.Fields.of(value, where)
    return Skipped(data("clip", checks.text), data("why", checks.text))


def _score(data: checks.Fields) -> Score:
    half_width = checks.optional(checks.at_least(0))
    unit = data("unit", checks.one_of("fraction", "plain"), "fraction")
    interval = data("test95", checks.optional(checks.many(checks.number)))
    if interval is not None and (len(interval) != 2 or interval[0] > interval[1]):
        raise ValueError(f"{data.name('test95')}: not a low and a high end")
    mean = data("mean", checks.number)
    for value in (mean, *(interval or ())):
        if unit == "fraction" and not 0 <= value <= 1:
            raise ValueError(f"{data.name('mean')}: {value} is not between 0 and 1")
    return Score(
        metric=data("metric", checks.name),
        mean=mean,
        ci95=data("ci95", half_width),
        std=data("std", half_width, None),
        runs=data("runs", checks.whole(1)),
        test95=interval,
        test_unit=data("test_unit", checks.text),
        test_groups=data("test_groups", checks.optional(checks.whole(1)), None),
        test_clips=data("test_clips", checks.optional(checks.whole(1)), None),
        chance=data("chance", checks.optional(checks.number), None),
        unit=unit,
        higher_is_better=data("higher_is_better", checks.flag, True),
    )


def save_run(record: RunRecord, evaluation: Evaluation, folder) -> Path:
    """Writes the tables and files, then the JSON that makes the run count; returns the JSON's path.

    Raises UserError where the folder is not writable; tables of a new run are removed then.
    """
    runs = Path(folder) / "runs"
    path = runs / f"{record.id}.json"
    text = json.dumps(record.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    known = path.exists()
    written = []
    try:
        for name, table in {"predictions": evaluation.predictions, **evaluation.tables}.items():
            content = table.to_csv(index=False, lineterminator="\n").encode()
            packed = gzip.compress(content, compresslevel=5, mtime=0)  # the same bytes every time
            written.append(runs / f"{record.id}.{name}.csv.gz")
            files.write_atomic(written[-1], packed)
        for name, content in evaluation.files.items():
            written.append(runs / f"{record.id}.{name}")
            files.write_atomic(written[-1], content)
        files.write_atomic(path, text)
    except UserError:
        if not known:
            for table_path in written:
                table_path.unlink(missing_ok=True)
        raise
    return path


def load_runs(folder) -> tuple[list[RunRecord], list[str]]:
    """Returns the runs in a results folder, oldest first, and one line per file that is none.

    A run under two file names counts once. A bad file does not stop the others.
    """
    found: dict[str, RunRecord] = {}
    problems = []
    for path in sorted((Path(folder) / "runs").glob("*.json")):
        try:
            record = read_run(path)
        except UserError as error:
            problems.append(str(error))
            continue
        if record.id not in found or path.stem == record.id:
            found[record.id] = record
    return sorted(found.values(), key=lambda r: (checks.instant(r.finished), r.id)), problems


def read_run(path) -> RunRecord:
    """Returns the record in a file; UserError that names the file and what is wrong with it."""
    path = Path(path)
    if not path.is_file():  # a folder, or a pipe that would be waited for without end
        raise UserError(f"{path}: not a run's result (no regular file). Move it away.")
    with files.reading(path):
        content = path.read_bytes()
    try:
        data = checks.parse(content)
    except ValueError as error:
        raise UserError(f"{path}: not a run's result ({error}). Move it away.") from error
    return from_json(data, file=str(path))
