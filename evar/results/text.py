"""A run's score in words: for the last lines of a command and the cells of tables."""

from collections.abc import Mapping

from evar.results import escape
from evar.results.record import RunRecord
from evar.scoring import ranking, statistics
from evar.scoring.evaluation import Unit
from evar.scoring.metrics import format_value

FEW = 20  # groups, below which the interval over test clips is said to be rough
SEEN = ("test set", "test audio", "train set", "train audio")  # overlaps that are shown
SMALL = 100  # training clips, below which a score is said to depend on the seed


def value_text(
    value: float,
    unit: Unit = "fraction",
    *,
    ci95: float | None = None,
    interval: tuple[float, float] | None = None,
    digits: int = 1,
) -> str:
    """Returns a score with the interval that it has: "71.3 ± 0.8" or "71.3 [69.0, 73.5]"."""
    text = format_value(value, unit, digits)
    if interval is not None:
        low, high = (format_value(end, unit, digits) for end in interval)
        return f"{text} [{low}, {high}]"
    return text if ci95 is None else f"{text} ± {format_value(ci95, unit, digits)}"


def percent(record: RunRecord, digits: int = 1) -> str:
    """Returns a run's score with its interval over runs, or, without seeds, over test clips."""
    score = record.score
    interval = None if record.seeds else score.test95
    return value_text(score.mean, score.unit, ci95=score.ci95, interval=interval, digits=digits)


def caveats(record: RunRecord) -> list[str]:
    """Returns what must be said wherever the score is shown: a partial set, skipped clips, ..."""
    said, clips = [], record.clips
    by = record.settings.get("windows")
    if isinstance(by, Mapping):
        said.append(f"{by['pool']} over windows of {by['seconds']:g} s, every {by['hop']:g} s")
    if record.unheard and not record.task.published:
        said.append(f"{100 * float(str(record.unheard['share'])):.0f} % of the audio not heard")
    if record.seen_in_training in SEEN:
        said.append(f"seen in training: {record.seen_in_training}")
    if record.select == "oracle":
        said.append("oracle")  # the epoch was chosen by the test set
    if clips.partial:
        said.append(f"partial: {clips.partial}")
    if clips.skipped:
        count = len(clips.skipped)
        said.append(f"{count} bad clip{'s' if count > 1 else ''} skipped")
    return said


def summary_line(record: RunRecord) -> str:
    """Returns the line a run ends with: model, task, protocol, score, both intervals, caveats.

    "m2d  esc50  linear  accuracy 91.3 ± 0.4 % (± over 3 seeds; 95 % interval over test clips
    89.2-93.1 %; chance level 2.0 %; 2,000 test clips)"
    """
    score = record.score
    sign = " %" if score.unit == "fraction" else ""
    value = value_text(score.mean, score.unit, ci95=score.ci95)
    details = [_over_seeds(record), _over_clips(record), _chance(record), _test_clips(record)]
    parts = [
        record.model.name,
        record.task.name,
        record.protocol,
        f"{score.metric} {value}{sign} ({'; '.join(filter(None, details))})",
        *(f"[{caveat}]" for caveat in caveats(record)),
    ]
    return escape.terminal("  ".join(parts))


def _over_seeds(record: RunRecord) -> str:
    if not record.seeds:
        return ""
    count = len(record.seeds)
    return f"± over {count} seeds" if count > 1 else "1 seed, no interval over seeds"


def _over_clips(record: RunRecord) -> str:
    score = record.score
    if score.test95 is None:
        return f"no 95 % interval: {_groups(record)} are too few"
    low, high = (format_value(end, score.unit) for end in score.test95)
    return f"95 % interval over test clips {low}-{high}" + " %" * (score.unit == "fraction")


def _chance(record: RunRecord) -> str:
    chance = record.score.chance
    if chance is None:
        return ""
    return f"chance level {value_text(chance, record.score.unit)}" + " %" * (
        record.score.unit == "fraction"
    )


def _test_clips(record: RunRecord) -> str:
    score = record.score
    if score.test_clips is None:
        return ""
    clips = f"{score.test_clips:,} test clip{'s' if score.test_clips > 1 else ''}"
    return clips if score.test_unit == "clip" else f"{clips} of {_groups(record)}"


def _groups(record: RunRecord) -> str:
    """ "24 speakers"; "3 test clips" where clips have no groups."""
    count, unit = record.score.test_groups, record.score.test_unit
    unit = "test clip" if unit == "clip" else unit
    return f"{count:,} {unit}{'s' if count != 1 else ''}" if count else f"{unit}s"


def notes(record: RunRecord) -> list[str]:
    """Returns the lines before the last one: further metrics, what makes the score uncertain."""
    said = [
        f"{direction.replace('_', ' ')}: {', '.join(_metric(*item) for item in found.items())}"
        for direction, found in record.metrics.items()
        if isinstance(found, Mapping)
    ]
    if record.unheard:
        said.append(f"note: {record.unheard['note']}")
    if record.config.get("checkpoint") == "none given":
        said.append(f"note: no --weights given, so {record.model.name} was built without any")
    if record.task.kind == "tagging" and not record.task.published:
        said.append("note: several labels per clip, so that the metric is mAP")
    score = record.score
    if score.metric == "mAP" and (absent := record.undefined_classes):
        said.append(
            f"note: {absent} class{'es have' if absent > 1 else ' has'} no positive test clip and "
            "no part in mAP (the reference harness counts 0)"
        )
    if score.test95 is None:
        said.append(
            f"note: an interval over test clips needs {statistics.FEWEST} or more independent "
            f"{'clips' if score.test_unit == 'clip' else score.test_unit + 's'}, better {FEW}"
        )
    elif score.test_groups and score.test_groups < FEW:
        said.append(
            f"note: {_groups(record)} are few, so that the interval over test clips is wide and "
            "rough (docs/results.md says how rough)"
        )
    training = training_clips(record)
    if record.seeds and training and training < SMALL:
        said.append(
            f"note: {training} training clips are few for {record.protocol}: the score depends on "
            "the seed. Add clips, or average more seeds (--seeds=10)"
        )
    return [escape.terminal(line) for line in said]


def _metric(name: str, value: float | None) -> str:
    """ "R@1 37.5 %", "medR 3"."""
    unit = ranking.unit(name)
    text = "undefined" if value is None else format_value(value, unit)
    return f"{name} {text}" + " %" * (unit == "fraction" and value is not None)


def training_clips(record: RunRecord) -> int | None:
    """Returns how many clips were there to train on: with folds, on average."""
    sides, clips = record.clips.sides, record.score.test_clips
    if "train" in sides:
        return sides["train"]
    folds = [count for count in sides.values() if count]
    if len(folds) < 2 or clips != sum(folds):
        return None
    return round(sum(folds) * (len(folds) - 1) / len(folds))


def html(record: RunRecord) -> str:
    """Returns the run as a fragment of HTML: score, intervals, caveats, values of the classes."""
    rows = [("score", summary_line(record)), *(("", note) for note in notes(record))]
    rows += [
        (name, "undefined" if value is None else format_value(value, record.score.unit))
        for name, value in record.per_class.items()
    ]
    cells = (
        f"<tr><th>{escape.html(name)}</th><td>{escape.html(value)}</td></tr>"
        for name, value in rows
    )
    return f"<table>{''.join(cells)}</table>"
