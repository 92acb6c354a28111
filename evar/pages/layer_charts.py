"""What probes on layers found: the score of each layer, or its weight in the mixture."""

from collections.abc import Mapping

from evar.pages import charts
from evar.results.record import RunRecord
from evar.results.text import value_text


def _curve(run: RunRecord) -> list[Mapping]:
    found = run.extra.get("curve")
    found = found if isinstance(found, (list, tuple)) else ()
    return [p for p in found if isinstance(p, Mapping) and {"layer", "mean", "valid"} <= set(p)]


def _weights(run: RunRecord) -> list[tuple[str, float]]:
    found = run.extra.get("layer_weights")
    return [(str(k), float(v)) for k, v in found.items()] if isinstance(found, Mapping) else []


def rows(run: RunRecord) -> list[dict[str, str]]:
    """Returns the table: layer, and test score and validation score in percent, or its weight."""
    of_curve = [
        {
            "layer": str(point["layer"]),
            "score": value_text(point["mean"], ci95=point.get("ci95")),
            "valid": value_text(point["valid"]),
        }
        for point in _curve(run)
    ]
    return of_curve or [{"layer": k, "weight": f"{v:.3f}"} for k, v in _weights(run)]


def of_run(run: RunRecord) -> dict[str, dict]:
    """Returns the chart "layers" of a run of that protocol; of any other, nothing."""
    values = []
    for point in _curve(run):
        half = point.get("ci95") or 0.0
        low, high = point["mean"] - half, point["mean"] + half
        shown = {"layer": point["layer"], "chosen": point["layer"] == run.extra.get("chosen_layer")}
        test = {"value": point["mean"], "low": low, "high": high}
        test = {key: round(100 * value, 3) for key, value in test.items()}
        values.append({**shown, "side": "test", **test})
        values.append({**shown, "side": "validation", "value": round(100 * point["valid"], 3)})
    if values:
        return {"layers": charts.layers(values, title=f"{run.score.metric} in percent")}
    weights = [{"layer": int(k), "value": round(v, 5)} for k, v in _weights(run) if k.isdigit()]
    return {"layers": charts.layer_weights(weights)} if weights else {}
