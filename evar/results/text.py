"""A run's score in words: for the last lines of a command and the cells of tables."""

from evar.results.record import RunRecord


def percent(record: RunRecord, digits: int = 1) -> str:
    """Returns the score in percent with its interval.

    "71.3 ± 0.8" is the half width over runs; "71.3" a single run of several possible ones, which
    has none. "71.3 [69.0, 73.5]" is the interval over test clips, where nothing is random.
    """
    score = record.score
    text = f"{100 * score.mean:.{digits}f}"
    if not record.seeds:
        low, high = (f"{100 * value:.{digits}f}" for value in score.bootstrap95)
        return f"{text} [{low}, {high}]"
    return text if score.ci95 is None else f"{text} ± {100 * score.ci95:.{digits}f}"


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
