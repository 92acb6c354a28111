"""Results of a model for its model card, in the Hugging Face Hub's model-index format.

https://huggingface.co/docs/hub/model-cards#evaluation-results
"""

from collections.abc import Sequence

from evar.errors import unknown
from evar.results import escape
from evar.results.record import RunRecord
from evar.results.render import variant_text
from evar.results.text import caveats, value_text
from evar.task import get, names

_TASK = {"type": "audio-classification", "name": "Audio classification"}
_BY_PROTOCOL = {
    "zeroshot": {"type": "zero-shot-audio-classification", "name": "Zero-shot classification"},
    "retrieval": {"type": "audio-text-retrieval", "name": "Audio-text retrieval"},
}


def newest(runs: Sequence[RunRecord], model: str) -> list[RunRecord]:
    """Returns the newest run of a model for each protocol, task and variant, by name.

    Raises UserError where the model has no run.
    """
    found = {}
    for run in runs:
        if run.model.name == model:
            variant = variant_text(run.variant, reduced=run.reduced)
            found[run.protocol, run.task.name, variant] = run
    if not found:
        raise unknown("model", model, dict.fromkeys(run.model.name for run in runs))
    return [run for _, run in sorted(found.items())]


def index(runs: Sequence[RunRecord]) -> dict:
    """Returns the model index of one model's runs, as YAML values."""
    return {"model-index": [{"name": runs[0].model.name, "results": [_result(r) for r in runs]}]}


def _result(run: RunRecord) -> dict:
    task = get(run.task.name) if run.task.name in names() else None
    title = run.task.name if task is None else task.title
    said = [f"{run.protocol} evaluation, {run.score.runs} run{'s' * (run.score.runs > 1)}"]
    if run.score.test95 is not None:
        low, high = run.score.test95
        said.append(f"95 % interval over test clips {low:.4f} to {high:.4f}")
    if run.score.ci95 is not None:
        said.append(f"± {run.score.ci95:.4f} over runs")
    variant = variant_text(run.variant, reduced=run.reduced)
    said += [*([variant] if variant else []), *caveats(run)]
    return {
        "task": _BY_PROTOCOL.get(run.protocol, _TASK),
        "dataset": {"type": run.task.name, "name": escape.terminal(title), "split": "test"},
        "metrics": [
            {
                "type": run.score.metric,
                "value": round(run.score.mean, 6),
                "name": f"{run.protocol} {run.score.metric}",
                "verified": False,
            }
        ],
        "source": {"name": f"evar {run.evar}, run {run.id}: {'; '.join(said)}"},
    }


def front_matter(runs: Sequence[RunRecord]) -> str:
    """Returns the YAML block that opens a model card."""
    import yaml

    text = yaml.safe_dump(index(runs), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---\n"


def section(runs: Sequence[RunRecord]) -> str:
    """Returns a section of Markdown for the card's text."""
    rows = [["task", "protocol", "metric", "score", "95 % over test clips", "remarks"]]
    for run in runs:
        score = run.score
        variant = variant_text(run.variant, reduced=run.reduced)
        over_clips = " to ".join(value_text(end, score.unit) for end in score.test95 or ())
        said = ", ".join([*([variant] if variant else []), *caveats(run)])
        shown = value_text(score.mean, score.unit, ci95=score.ci95)
        rows.append([run.task.name, run.protocol, score.metric, shown, over_clips, said])
    lines = ["| " + " | ".join(map(escape.markdown, row)) + " |" for row in rows]
    lines.insert(1, "|---|---|---|---:|---:|---|")
    head = "## Evaluation\n\nMeasured with evar; ± is the 95 % interval over runs (Student t).\n\n"
    return head + "\n".join(lines) + "\n"
