"""The report of one run: what it scored, where it fails, how that sounds."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd

from evar import files
from evar.pages import charts, clips, details, embedding_map, facts, layer_charts, outcomes, page
from evar.pages.clips import Sounds
from evar.pages.details import OfClass, Shown
from evar.results.record import RunRecord
from evar.results.text import caveats, summary_line, value_text
from evar.scoring.evaluation import Unit
from evar.scoring.metrics import format_value

_MATRIX = 60  # classes of a confusion matrix that can be read
_LISTED = 20  # strongest confusions
_OF_FOLDS = ("clips", "lr", "best_epoch", "epochs", "valid_score")  # where a protocol has them
_CLIPS = 400  # rows of the table of all clips


def write(run: RunRecord, results, *, data=None, cache=None, audio: str = "") -> Path:
    """Writes <results>/reports/<id>.html and returns its path.

    data: folder of data sets and manifests. cache: folder of embeddings. audio: "embed", "link",
    "none", or "" for what the licence allows: embed, else link.
    """
    path = Path(results) / "reports" / f"{run.id}.html"
    disk = clips.find(run, data)
    free, licence = clips.may_be_passed_on(run)
    how = audio or ("embed" if free else "link")
    sounds = Sounds(disk, how, path)
    context = _context(run, results, sounds, cache)
    context |= {"licence": licence, "audio": _said_of_audio(sounds, licence)}
    content = page.render(
        "report.html", scripts=["report.js"], links_to_sounds=how == "link", **context
    )
    files.write_atomic(path, content)
    return path


def _said_of_audio(sounds: Sounds, licence: str) -> str:
    if sounds.disk.manifest is None:
        return f"No sounds: {sounds.disk.reason}."
    if sounds.how == "none":
        return "Sounds were left out (--audio=none)."
    if sounds.how == "link":
        return f"Sounds are played from this disk; the page alone has none. Licence: {licence}."
    return f"The sounds of this page are excerpts, compressed. Licence: {licence}."


def _context(run: RunRecord, results, sounds: Sounds, cache) -> dict:
    table = outcomes.predictions(results, run)
    found = outcomes.per_clip(table, run)
    scores = outcomes.class_scores(results, run, table)
    listed = details.classes(run, table, found, scores)
    matrix = details.confusion(table) if run.score.metric == "accuracy" else None
    wrong = _wrong(run, results, table, scores)
    shown = {
        "mistakes": _cards(wrong[: details.MISTAKES], sounds),
        "worst": [
            (of_class, _cards(own, sounds))
            for of_class, own in details.worst_classes(listed, wrong)
            if run.score.metric == "accuracy"
        ],
        "queries": _queries(table, outcomes.read_table(results, run, "nearest"), sounds),
    }
    drawn = embedding_map.of_run(run, sounds.disk.manifest, cache)
    drawings: dict[str, object] = {}
    drawings |= _classes_chart(run, listed)
    drawings |= _matrix_chart(matrix)
    drawings |= _run_charts(run)
    drawings |= layer_charts.of_run(run)
    drawings |= _map_charts(drawn, table)
    heard = _heard(drawn, table, sounds, shown)
    return {
        "data": {"charts": drawings, "sounds": heard},
        "run": run,
        "title": f"{run.model.name} on {run.task.name}",
        "line": summary_line(run),
        "score": _score(run),
        "caveats": caveats(run),
        "classes": [_class_row(of_class) for of_class in listed],
        "confusions": _strongest(matrix),
        "runs": _runs(run),
        "columns": [n for n in _OF_FOLDS if any(r.get(n) is not None for r in _runs(run))],
        "metrics": _metrics(run),
        "shots": [(p["shots"], value_text(p["mean"], ci95=p.get("ci95"))) for p in _shots(run)],
        "layers": layer_charts.rows(run),
        "chosen_layer": run.extra.get("chosen_layer"),
        "map": drawn if isinstance(drawn, str) else None,
        "explained": None if isinstance(drawn, str) else f"{100 * drawn.explained:.0f} %",
        "mapped_layer": None if isinstance(drawn, str) else drawn.layer,
        "methods": [] if isinstance(drawn, str) else list(drawn.places),
        "captions": _captions(run),
        "clips": _clip_table(table, found),
        "facts": facts.of_run(run),
        "charts": drawings,
        "finished": datetime.fromisoformat(run.finished).strftime("%Y-%m-%d %H:%M"),
        **shown,
    }


def _score(run: RunRecord) -> dict[str, str]:
    score = run.score
    ends = score.test95 or ()
    groups = "" if score.test_groups is None else f", {score.test_groups:,} of them"
    return {
        "metric": score.metric,
        "value": format_value(score.mean, score.unit),
        "unit": "%" if score.unit == "fraction" else "",
        "over_runs": "" if score.ci95 is None else format_value(score.ci95, score.unit),
        "std": "" if score.std is None else format_value(score.std, score.unit),
        "over_clips": " to ".join(format_value(end, score.unit) for end in ends),
        "by": score.test_unit,
        "groups": groups,
        "chance": "" if score.chance is None else format_value(score.chance, score.unit),
    }


def _class_row(of_class: OfClass) -> dict[str, object]:
    def shown(value):
        return "" if value is None else f"{100 * value:.1f}"

    return {
        "name": of_class.name,
        "value": "undefined" if of_class.value is None else shown(of_class.value),
        "interval": f"{shown(of_class.low)} to {shown(of_class.high)}"
        if of_class.low is not None
        else "",
        "clips": "" if of_class.clips is None else of_class.clips,
    }


def _wrong(run: RunRecord, results, table: pd.DataFrame | None, scores) -> list[Shown]:
    if table is None or not {"true", "predicted", "score"} <= set(table):
        return []
    if run.score.metric != "accuracy":
        return [] if scores is None else details.tagging_mistakes(scores)
    near = outcomes.read_table(results, run, "similarities")
    return details.mistakes(table, near=near, captions=dict(_captions(run)))


def _cards(listed: list[Shown], sounds: Sounds) -> list[dict]:
    return [
        {
            "shown": shown,
            "source": sounds.source(shown.clip),
            "picture": sounds.spectrogram(shown.clip),
        }
        for shown in listed
    ]


def _queries(
    table: pd.DataFrame | None, near: pd.DataFrame | None, sounds: Sounds
) -> dict[str, list[dict]]:
    return {
        direction.replace("_", " "): [
            {"query": query, "source": sounds.source(query.clip)} for query in listed
        ]
        for direction, listed in details.worst_queries(table, near).items()
    }


def _classes_chart(run: RunRecord, listed: list[OfClass]) -> dict:
    def percent(value):
        return None if value is None else round(100 * value, 3)

    rows = [
        {
            "name": c.name,
            "value": percent(c.value),
            "low": percent(c.low),
            "high": percent(c.high),
            "clips": c.clips,
        }
        for c in listed
        if c.value is not None
    ]
    title = f"{'average precision' if run.score.metric == 'mAP' else 'recall'} in percent"
    return {"classes": charts.bars(rows, title=title)} if rows else {}


def _matrix_chart(matrix: pd.DataFrame | None) -> dict:
    if matrix is None:
        return {}
    order = sorted({*matrix.true, *matrix.predicted})
    if len(order) > _MATRIX:
        return {}
    rows = [
        {"true": t, "predicted": p, "count": int(n), "share": round(100 * s, 2)}
        for t, p, n, s in matrix[["true", "predicted", "count", "share"]].itertuples(index=False)
    ]
    return {"confusion": charts.heatmap(rows, order)}


def _strongest(matrix: pd.DataFrame | None) -> list[dict]:
    if matrix is None:
        return []
    wrong = matrix[matrix.true != matrix.predicted]
    wrong = wrong.sort_values(["count", "share"], ascending=False).head(_LISTED)
    return [
        {"true": t, "predicted": p, "count": int(n), "share": f"{100 * s:.1f}"}
        for t, p, n, s in wrong[["true", "predicted", "count", "share"]].itertuples(index=False)
    ]


def _runs(run: RunRecord) -> list[dict]:
    """One row per seed and fold, as far as the protocol recorded them."""
    rows = []
    for of_seed in run.runs:
        folds = of_seed.get("folds")
        for of_fold in folds if isinstance(folds, (list, tuple)) else ():
            if isinstance(of_fold.get("score"), (int, float)):
                rows.append({"seed": str(of_seed.get("seed")), **of_fold})
    return rows


def _run_charts(run: RunRecord) -> dict:
    rows = _runs(run)
    found = {}
    if len(rows) > 1:
        points = [
            {"seed": r["seed"], "fold": str(r.get("fold", "")), "score": round(100 * r["score"], 3)}
            for r in rows
        ]
        found["runs"] = charts.points_of_runs(points, title=f"{run.score.metric} in percent")
    steps = [
        {
            "epoch": epoch,
            "what": what,
            "value": value,
            "run": f"seed {r['seed']}, {r.get('fold', '')}",
        }
        for r in rows
        for epoch, point in enumerate(r.get("curve", ()), start=1)
        for what, value in point.items()
        if isinstance(value, (int, float))
    ]
    for what, title in (("loss", "training loss"), ("valid", "validation score")):
        if any(step["what"] == what for step in steps):
            found[f"curve-{what}"] = charts.curves(steps, what=what, title=title)
    shots = [
        {"shots": point["shots"], "value": 100 * point["mean"], **_ends(point)}
        for point in _shots(run)
    ]
    if shots:
        found["curve-shots"] = charts.shots(shots, title=f"{run.score.metric} in percent")
    return found


def _shots(run: RunRecord) -> list[Mapping]:
    """Points of few-shot classification: the score by number of training clips."""
    curve = run.extra.get("curve")
    curve = curve if isinstance(curve, (list, tuple)) else ()
    return [p for p in curve if isinstance(p, Mapping) and {"shots", "mean"} <= set(p)]


def _ends(point: Mapping) -> dict[str, float]:
    half = point.get("ci95") or 0.0
    return {"low": 100 * (point["mean"] - half), "high": 100 * (point["mean"] + half)}


def _map_charts(drawn, table: pd.DataFrame | None) -> dict:
    if isinstance(drawn, str):
        return {}
    true, predicted, right = _labels(table)
    found = {}
    for method, places in drawn.places.items():
        span = np.abs(places).max() or 1.0
        rows = [
            {
                "x": round(float(x / span), 4),
                "y": round(float(y / span), 4),
                "clip": clip,
                "label": true.get(clip, "clip"),
                "predicted": predicted.get(clip, ""),
                "right": "right" if right.get(clip, True) else "wrong",
            }
            for clip, (x, y) in zip(drawn.clips, places, strict=True)
        ]
        found[f"map-{method}"] = charts.plane(rows, classes=len(set(true.values())))
    return found


def _labels(table: pd.DataFrame | None) -> tuple[Mapping, Mapping, Mapping]:
    """True label, prediction of the first run, and whether most runs are right, by clip."""
    if table is None or not {"true", "predicted"} <= set(table):
        return {}, {}, {}
    first = table.drop_duplicates("clip").set_index("clip")
    hit = (table.true == table.predicted).groupby(table["clip"]).mean() >= 0.5
    return first.true.to_dict(), first.predicted.to_dict(), hit.to_dict()


def _heard(drawn, table, sounds: Sounds, shown: dict) -> dict[str, str]:
    """Sounds of the map's clips that no player of the page has, as far as the budget goes."""
    if isinstance(drawn, str) or sounds.how == "none":
        return {}
    players = {card["shown"].clip for card in shown["mistakes"] if card["source"]}
    players |= {
        card["shown"].clip for _, cards in shown["worst"] for card in cards if card["source"]
    }
    wanted = [clip for clip in drawn.clips if clip not in players]
    if sounds.how == "embed":
        wanted = wanted[:200]
    found = ((clip, sounds.source(clip)) for clip in wanted)
    return {clip: source for clip, source in found if source}


def _metrics(run: RunRecord) -> list[tuple[str, str, str]]:
    """Further metrics: name, value, interval; of retrieval by direction."""
    rows = []
    for name, value in run.metrics.items():
        inside = value if isinstance(value, Mapping) else {"": value}
        for metric, number in inside.items():
            unit: Unit = "plain" if "medR" in (metric, name) or name == "d_prime" else "fraction"
            shown = value_text(number, unit) if isinstance(number, (int, float)) else ""
            ends = _interval(run, name, metric)
            interval = " to ".join(format_value(end, unit) for end in ends)
            rows.append((f"{name.replace('_', ' ')} {metric}".strip(), shown, interval))
    return rows


def _interval(run: RunRecord, name: str, metric: str) -> Sequence[float]:
    """The interval of a metric of retrieval, as far as it was recorded."""
    found = run.extra.get("intervals")
    of_direction = found.get(name) if isinstance(found, Mapping) else None
    ends = of_direction.get(metric) if isinstance(of_direction, Mapping) else None
    return ends or ()


def _captions(run: RunRecord) -> list[tuple[str, list[str]]]:
    found = run.extra.get("captions")
    if not isinstance(found, Mapping):
        return []
    return [
        (name, [str(c) for c in (captions if isinstance(captions, (list, tuple)) else [captions])])
        for name, captions in found.items()
    ]


def _clip_table(table: pd.DataFrame | None, found) -> list[dict]:
    """All test clips, where they are few enough for a table."""
    if table is None or found is None or not {"true", "predicted"} <= set(table):
        return []
    if len(found.clips) > _CLIPS:
        return []
    true, predicted, _ = _labels(table)
    return [
        {
            "clip": clip,
            "true": true[clip],
            "predicted": predicted[clip],
            "share": f"{100 * value:.0f}",
        }
        for clip, value in zip(found.clips.tolist(), found.values, strict=True)
    ]
