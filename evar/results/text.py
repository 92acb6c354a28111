"""A run's score in words: for the last lines of a command and the cells of tables."""

from html import escape

from evar.results.record import RunRecord
from evar.scoring.evaluation import Unit
from evar.scoring.metrics import format_value


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
    interval = None if record.seeds else score.bootstrap95
    return value_text(score.mean, score.unit, ci95=score.ci95, interval=interval, digits=digits)


def caveats(record: RunRecord) -> list[str]:
    """Returns what must be said wherever the score is shown: a partial set, skipped clips, ..."""
    said, clips = [], record.clips
    if record.select == "oracle":
        said.append("oracle")  # the epoch was chosen by the test set
    if clips.partial:
        said.append(f"partial: {clips.partial}")
    if clips.skipped:
        count = len(clips.skipped)
        said.append(f"{count} bad clip{'s' if count > 1 else ''} skipped")
    return said


def summary_line(record: RunRecord) -> str:
    """Returns the line a run ends with: model, task, protocol, score, interval, runs, caveats."""
    score = record.score
    runs = f"{score.runs} runs" if score.runs > 1 else "1 run, no interval over runs"
    how = f"{'' if score.ci95 is None else '95 % CI, '}{runs}"
    if not record.seeds:
        how = "95 % CI over test clips"
    parts = [
        record.model.name,
        record.task.name,
        record.protocol,
        f"{score.metric} {percent(record)} % ({how})",
        *(f"[{caveat}]" for caveat in caveats(record)),
    ]
    return "  ".join(parts)


def notes(record: RunRecord) -> list[str]:
    """Returns the lines that go before the last one: what the score should be read with."""
    low, high = (100 * value for value in record.score.bootstrap95)
    said = [
        f"95 % interval over test clips, by {record.score.bootstrap_unit}: {low:.1f}-{high:.1f} %"
    ]
    if record.config.get("checkpoint") == "none given":
        said.insert(0, f"note: no --weights given, so {record.model.name} was built without any")
    return said


def html(record: RunRecord) -> str:
    """Returns the run as a fragment of HTML: score, interval, caveats, values of the classes."""
    rows = [("score", summary_line(record)), *(("note", note) for note in notes(record))]
    rows += [
        (name, "undefined" if v is None else f"{v:.3f}") for name, v in record.per_class.items()
    ]
    cells = (f"<tr><th>{escape(a)}</th><td>{escape(b)}</td></tr>" for a, b in rows)
    return f"<table>{''.join(cells)}</table>"
