"""A comparison as a sentence, a table in several formats, and a page."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from evar import files
from evar.pages import charts, clips, finding, latex, outcomes, page
from evar.pages.clips import Sounds
from evar.pages.details import Shown
from evar.pages.pairs import ALPHA, Pair
from evar.results import escape
from evar.results.record import RunRecord
from evar.scoring import comparison
from evar.scoring.comparison import Difference
from evar.scoring.metrics import format_value

_DISAGREE = 8
_SEED = 42


@dataclass(frozen=True)
class Ranks:
    """Several models over the same tasks: names and mean ranks, best first.

    friedman: p-value that all are equal. critical: the difference that Nemenyi's test takes.
    bars: positions of models that it does not separate.
    """

    models: tuple[str, ...]
    ranks: tuple[float, ...]
    tasks: tuple[str, ...]
    friedman: float
    critical: float
    bars: tuple[tuple[int, int], ...]


def ranks_of(runs: Sequence[RunRecord], models: Sequence[str], protocol: str) -> Ranks | None:
    """Returns mean ranks over the tasks that all models have on the same clips.

    None for fewer than three models or two tasks.
    """
    alike: dict[tuple[str, str, str], list[RunRecord]] = {}
    for run in runs:
        if run.protocol == protocol:
            alike.setdefault((run.model.name, run.task.name, run.manifest), []).append(run)
    newest = {key: finding.preferred(own) for key, own in alike.items()}
    tasks = {(r.task.name, r.manifest) for r in newest.values()}
    common = sorted(key for key in tasks if all((m, *key) in newest for m in models))
    if len(models) < 3 or len(common) < 2:
        return None
    scores = np.array(
        [[_signed(newest[m, *key]) for m in models] for key in common]
    )  # (T, M), higher is better
    ranks = comparison.mean_ranks(scores)
    order = np.argsort(ranks, kind="stable")
    sorted_ranks = tuple(float(ranks[i]) for i in order)
    critical = comparison.critical_difference(len(models), len(common))
    return Ranks(
        models=tuple(models[i] for i in order),
        ranks=sorted_ranks,
        tasks=tuple(task for task, _ in common),
        friedman=comparison.friedman(scores),
        critical=critical,
        bars=tuple(comparison.cliques(sorted_ranks, critical)),
    )


def _signed(run: RunRecord) -> float:
    return run.score.mean if run.score.higher_is_better else -run.score.mean


def overall(pairs: Sequence[Pair]) -> Difference:
    """Returns the difference of one pair, or the mean difference over tasks."""
    if len(pairs) == 1:
        return pairs[0].difference
    drawn = comparison.over_tasks([pair.draws for pair in pairs], np.random.default_rng(_SEED))
    return drawn.difference()


def names(pair: Pair) -> tuple[str, str]:
    """Returns what to call two runs: their models, with the ids where those are the same."""
    a, b = pair.a.model.name, pair.b.model.name
    return (a, b) if a != b else (f"{a} ({pair.a.id[:8]})", f"{b} ({pair.b.id[:8]})")


def sentence(pairs: Sequence[Pair]) -> str:
    """Returns the result as a plain sentence.

    "a is better than b on demo by 21.0 points, 95 % interval 9.6 to 31.5, p = 0.0004."
    """
    a, b = names(pairs[0])
    found, score = overall(pairs), pairs[0].a.score
    where = f"on {pairs[0].a.task.name}" if len(pairs) == 1 else f"over {len(pairs)} tasks"
    how = "by" if len(pairs) == 1 else "on average by"
    sign = 1 if score.higher_is_better else -1
    scale, unit = (100, " points") if score.unit == "fraction" else (1, "")
    low, high = scale * found.low, scale * found.high
    if found.p >= ALPHA:
        return (
            f"{a} and {b} are not separated {where}: the difference is "
            f"{scale * found.mean:+.1f}{unit}, 95 % interval {low:.1f} to {high:.1f}, "
            f"{p_text(found.p)}."
        )
    if sign * found.mean < 0:
        a, b, low, high = b, a, -high, -low
    return (
        f"{a} is better than {b} {where} {how} {abs(scale * found.mean):.1f}{unit}, "
        f"95 % interval {low:.1f} to {high:.1f}, {p_text(found.p)}."
    )


def p_text(p: float) -> str:
    """Returns a p-value as it is printed: "p < 0.0001", "p = 0.0004", "p = 0.03"."""
    if p < 0.0001:
        return "p < 0.0001"
    return f"p = {p:.4f}" if p < 0.01 else f"p = {p:.2f}"


def _number(p: float) -> str:
    """A p-value for a column of them: "0.03", "< 0.0001"."""
    return p_text(p).removeprefix("p ").removeprefix("= ")


def lines(pairs: Sequence[Pair]) -> list[list[str]]:
    """Returns the table: task, scores of both, difference, interval, p, McNemar's p."""
    rows = []
    for pair in pairs:
        score, found = pair.a.score, pair.difference
        unit = score.unit
        rows.append(
            [
                pair.a.task.name,
                score.metric,
                format_value(score.mean, unit),
                format_value(pair.b.score.mean, unit),
                _signed_text(found.mean, unit),
                f"{_signed_text(found.low, unit)} to {_signed_text(found.high, unit)}",
                _number(found.p),
                "" if pair.mcnemar is None else _number(pair.mcnemar.p),
                f"{found.clips:,}",
                f"{found.groups:,} {pair.by}s" if pair.by != "clip" else "clips",
            ]
        )
    if len(pairs) > 1:
        found = overall(pairs)
        unit = pairs[0].a.score.unit
        rows.append(
            ["mean of tasks", "", "", "", _signed_text(found.mean, unit)]
            + [f"{_signed_text(found.low, unit)} to {_signed_text(found.high, unit)}"]
            + [_number(found.p), "", f"{found.clips:,}", ""]
        )
    return rows


def _signed_text(value: float, unit) -> str:
    text = format_value(value, unit)
    return text if text.startswith("-") else f"+{text}"


def head(pairs: Sequence[Pair]) -> list[str]:
    """Returns the head of `lines`."""
    a, b = names(pairs[0])
    return [
        "task",
        "metric",
        a,
        b,
        "difference",
        "95 % interval",
        "p",
        "McNemar p",
        "clips",
        "drawn by",
    ]


def as_markdown(pairs: Sequence[Pair]) -> str:
    """Returns the comparison as Markdown."""
    top = head(pairs)
    rows = [top, *lines(pairs)]
    text = ["| " + " | ".join(map(escape.markdown, row)) + " |" for row in rows]
    text.insert(1, "|---|---|" + "---:|" * (len(top) - 2))
    said = [f"- {escape.markdown(note)}" for pair in pairs for note in pair.notes]
    return "\n".join([escape.markdown(sentence(pairs)), "", *text, *(["", *said] if said else [])])


def as_latex(pairs: Sequence[Pair]) -> str:
    """Returns the comparison as a LaTeX table; the better score of a separated task is bold."""
    rows = []
    for pair, cells in zip(pairs, lines(pairs), strict=False):
        cells = [latex.escape(cell) for cell in cells]
        if pair.difference.p < ALPHA:
            higher = pair.difference.mean > 0
            best = 2 if higher == pair.a.score.higher_is_better else 3
            cells[best] = rf"\textbf{{{cells[best]}}}"
        rows.append(cells)
    rows += [[latex.escape(cell) for cell in cells] for cells in lines(pairs)[len(pairs) :]]
    top = [latex.escape(name) for name in head(pairs)]
    return latex.table(top, rows, caption=sentence(pairs))


def as_json(pairs: Sequence[Pair], ranks: Ranks | None = None) -> str:
    """Returns the comparison as JSON: all numbers, unrounded, in the unit of the scores."""
    value = {
        "sentence": sentence(pairs),
        "overall": asdict(overall(pairs)),
        "tasks": [
            {
                "task": pair.a.task.name,
                "protocol": pair.a.protocol,
                "metric": pair.a.score.metric,
                "a": {"model": pair.a.model.name, "run": pair.a.id, "score": pair.a.score.mean},
                "b": {"model": pair.b.model.name, "run": pair.b.id, "score": pair.b.score.mean},
                "difference": asdict(pair.difference),
                "drawn_by": pair.by,
                "mcnemar": None if pair.mcnemar is None else asdict(pair.mcnemar),
                "notes": list(pair.notes),
            }
            for pair in pairs
        ],
        "ranks": None if ranks is None else asdict(ranks),
    }
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)


def write(
    pairs: Sequence[Pair], results, *, ranks: Ranks | None = None, data=None, audio: str = ""
) -> Path:
    """Writes <results>/reports/compare-....html and returns its path."""
    path = Path(results) / "reports" / f"{_file_name(pairs)}.html"
    single = pairs[0] if len(pairs) == 1 else None
    context: dict = {"disagreements": [], "audio": "", "classes": []}
    links = False
    drawings: dict[str, object] = {"tasks": _differences(pairs)}
    if single is not None:
        free, _ = clips.may_be_passed_on(single.a)
        how = audio or ("embed" if free else "link")
        sounds = Sounds(clips.find(single.a, data), how, path)
        links = how == "link"
        context["disagreements"] = _disagreements(single, results, sounds)
        context["classes"] = [
            (name, f"{100 * a:.1f}", f"{100 * b:.1f}", f"{100 * (a - b):+.1f}")
            for name, a, b in single.classes
        ]
        if context["classes"]:
            drawings["classes"] = _class_chart(single)
    if ranks is not None:
        drawings["ranks"] = _rank_chart(ranks)
    content = page.render(
        "comparison.html",
        scripts=["report.js"],
        data={"charts": drawings, "sounds": {}},
        links_to_sounds=links,
        sentence=sentence(pairs),
        names=names(pairs[0]),
        pairs=pairs,
        head=head(pairs),
        rows=lines(pairs),
        notes=[(pair.a.task.name, note) for pair in pairs for note in pair.notes],
        ranks=ranks,
        friedman="" if ranks is None else p_text(ranks.friedman),
        charts=drawings,
        single=single,
        protocol=pairs[0].a.protocol,
        **context,
    )
    files.write_atomic(path, content)
    return path


def _file_name(pairs: Sequence[Pair]) -> str:
    first = pairs[0]
    if len(pairs) == 1:
        return f"compare-{first.a.id[:8]}-{first.b.id[:8]}"
    words = ("compare", first.a.model.name, first.b.model.name, first.a.protocol)
    return re.sub(r"[^\w.-]+", "_", "-".join(words))[:120]


def _differences(pairs: Sequence[Pair]) -> dict:
    unit = pairs[0].a.score.unit
    scale = 100 if unit == "fraction" else 1
    found = [(pair.a.task.name, pair.difference) for pair in pairs]
    if len(pairs) > 1:
        found.append(("mean of tasks", overall(pairs)))
    rows = [
        {
            "name": name,
            "value": round(scale * d.mean, 3),
            "low": round(scale * d.low, 3),
            "high": round(scale * d.high, 3),
            "clear": "with 0" if d.low <= 0 <= d.high else "without 0",
        }
        for name, d in found
    ]
    return charts.differences(rows, title="difference in points" if scale == 100 else "difference")


def _class_chart(pair: Pair) -> dict:
    rows = [
        {
            "name": name,
            "value": round(100 * (a - b), 3),
            "a": round(100 * a, 3),
            "b": round(100 * b, 3),
        }
        for name, a, b in pair.classes
    ]
    return charts.class_differences(rows)


def _rank_chart(ranks: Ranks) -> dict:
    # Cut where no rank can be: two lines that meet do so between their models, which stays inside.
    half, last = ranks.critical / 2, len(ranks.models)
    rows = [
        {
            "model": model,
            "rank": round(rank, 4),
            "low": round(max(1, rank - half), 4),
            "high": round(min(last, rank + half), 4),
        }
        for model, rank in zip(ranks.models, ranks.ranks, strict=True)
    ]
    return charts.critical_difference(rows)


def _disagreements(pair: Pair, results, sounds: Sounds) -> list[dict]:
    """Clips that one model alone has right, with what the other one said."""
    a, b = names(pair)
    found = []
    for right, wrong, listed, run in (
        (a, b, pair.only_a, pair.b),
        (b, a, pair.only_b, pair.a),
    ):
        table = outcomes.predictions(results, run)
        if table is None:
            continue
        said = table[table.true != table.predicted].drop_duplicates("clip").set_index("clip")
        shown = [
            Shown(clip, said.true[clip], said.predicted[clip], float(said.score[clip]))
            for clip in listed[:_DISAGREE]
            if clip in said.index
        ]
        cards = [
            {"shown": s, "source": sounds.source(s.clip), "picture": sounds.spectrogram(s.clip)}
            for s in shown
        ]
        found.append({"right": right, "wrong": wrong, "count": len(listed), "cards": cards})
    return found
