"""What was run, on what and where, as tables of names and values."""

from collections.abc import Mapping

from evar.results.record import RunRecord


def of_run(run: RunRecord) -> dict[str, list[tuple[str, str]]]:
    """Returns tables of name and value: what was run, on what, where."""
    model, task = run.model, run.task
    what = [
        ("model", model.name),
        ("weights (hash)", model.weights),
        ("code (hash)", model.source),
        ("parameters", "" if model.parameters is None else f"{model.parameters:,}"),
        ("embedding width", "" if model.width is None else str(model.width)),
        *_flat("option", model.options),
        ("task", f"{task.name}, version {task.version}"),
        ("unit", "whole clips" if task.seconds is None else f"{task.seconds:g} s"),
        ("manifest (SHA-256)", run.manifest),
        ("protocol", f"{run.protocol}, version {run.protocol_version}"),
        ("seeds", ", ".join(map(str, run.seeds)) or "nothing is random"),
    ]
    counted = [(side, f"{count:,}") for side, count in run.clips.sides.items()]
    counted += [("in use", f"{run.clips.total:,}"), ("skipped", str(len(run.clips.skipped)))]
    counted += [(s.clip, s.why) for s in run.clips.skipped[:20]]
    where = [
        ("device", run.device),
        ("Python", run.python),
        ("evar", run.evar),
        *run.libraries.items(),
        ("commit", run.git or ""),
        *((f"seconds: {name}", f"{value:g}") for name, value in run.seconds.items()),
        ("clips per second", "" if run.clips_per_second is None else f"{run.clips_per_second:g}"),
    ]
    tables = {
        "What was run": what,
        "Settings": _flat("", run.settings),
        "Differs from the defaults": _flat("", run.variant),
        "Clips": counted,
        "Environment": where,
    }
    return {name: [(k, v) for k, v in rows if v != ""] for name, rows in tables.items() if rows}


def _flat(prefix: str, values: Mapping[str, object]) -> list[tuple[str, str]]:
    def shown(value: object) -> str:
        if isinstance(value, (list, tuple)):
            return ", ".join(map(str, value)) or "none"
        return f"{value:g}" if isinstance(value, float) else str(value)

    return [(f"{prefix} {name}".strip(), shown(value)) for name, value in values.items()]
