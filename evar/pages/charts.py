"""Charts as Vega-Lite specifications: plain dictionaries, drawn by the library in the page.

Field names are fixed and short; labels and file names are values alone, never names of fields,
titles or expressions. Colours come from the page's style (evar/pages/static/common.js).
"""

from collections.abc import Mapping, Sequence
from typing import Any

Values = Sequence[Mapping[str, Any]]
_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
_MAX_LABEL = 180  # pixels


def _chart(values: Values, *, height: object = 240, **more: object) -> dict:
    return {
        "$schema": _SCHEMA,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": {"name": "rows", "values": list(values)},
        **more,
    }


def bars(values: Values, *, title: str) -> dict:
    """Classes as sorted bars with intervals; values: name, value, low, high (percent), clips."""
    order = [row["name"] for row in values]
    tooltip = [
        {"field": "name", "title": "class"},
        {"field": "value", "title": title, "format": ".1f"},
        {"field": "low", "title": "95 % from", "format": ".1f"},
        {"field": "high", "title": "to", "format": ".1f"},
        {"field": "clips", "title": "clips"},
    ]
    y = {
        "field": "name",
        "type": "nominal",
        "sort": order,
        "title": None,
        "axis": {"labelLimit": _MAX_LABEL, "ticks": False, "domain": False},
    }
    x = {
        "field": "value",
        "type": "quantitative",
        "title": title,
        "scale": {"domainMin": 0, "nice": True},
        "axis": {"tickCount": 6},
    }
    rule = {
        "mark": {"type": "rule", "strokeWidth": 1.5, "style": "interval"},
        "encoding": {
            "x": {"field": "low", "type": "quantitative"},
            "x2": {"field": "high"},
        },
    }
    bar = {"mark": {"type": "bar", "height": {"band": 0.68}, "cornerRadiusEnd": 2}}
    bar["encoding"] = {"x": x}
    return _chart(
        values,
        height={"step": 20},
        encoding={"y": y, "tooltip": tooltip},
        layer=[bar, rule],
    )


def heatmap(values: Values, order: Sequence[str]) -> dict:
    """The confusion matrix; values: true, predicted, count, share (percent of the true class)."""
    axis = {"labelLimit": 120, "ticks": False, "domain": False, "grid": False}
    return _chart(
        values,
        height={"step": 18 if len(order) > 20 else 26},
        mark={"type": "rect", "cornerRadius": 1},
        encoding={
            "y": {"field": "true", "type": "nominal", "scale": {"domain": list(order)}}
            | {"title": "true", "axis": axis},
            "x": {"field": "predicted", "type": "nominal", "scale": {"domain": list(order)}}
            | {"title": "predicted", "axis": {**axis, "labelAngle": -60, "labelLimit": 100}},
            "color": {
                "field": "share",
                "type": "quantitative",
                "title": "% of class",
                "scale": {"domain": [0, 100]},
                "legend": {"orient": "bottom", "gradientLength": 160},
            },
            "tooltip": [
                {"field": "true"},
                {"field": "predicted"},
                {"field": "count", "title": "predictions"},
                {"field": "share", "title": "% of the class", "format": ".1f"},
            ],
        },
    )


def points_of_runs(values: Values, *, title: str) -> dict:
    """Scores of seeds and folds as points; values: seed, fold, score (percent)."""
    below = {"orient": "bottom"}
    return _chart(
        values,
        height={"step": 28},
        mark={"type": "point", "filled": True, "size": 90, "opacity": 0.8},
        encoding={
            "y": {"field": "fold", "type": "nominal", "title": None, "axis": {"labelLimit": 120}},
            "x": {
                "field": "score",
                "type": "quantitative",
                "title": title,
                "scale": {"zero": False, "nice": True, "padding": 12},
            },
            "color": {"field": "seed", "type": "nominal", "title": "seed", "legend": below},
            "shape": {"field": "seed", "type": "nominal", "title": "seed", "legend": below},
            "tooltip": [
                {"field": "seed"},
                {"field": "fold"},
                {"field": "score", "format": ".2f"},
            ],
        },
    )


def curves(values: Values, *, what: str, title: str) -> dict:
    """Learning curves; values: epoch, value, run ("seed 42, fold 1")."""
    return _chart(
        [row for row in values if row["what"] == what],
        mark={"type": "line", "point": {"size": 18}},
        encoding={
            "x": {"field": "epoch", "type": "quantitative", "title": "epoch"}
            | {"axis": {"tickMinStep": 1, "format": "d"}},
            "y": {"field": "value", "type": "quantitative", "title": title}
            | {"scale": {"zero": False}},
            "color": {"field": "run", "type": "nominal", "title": None},
            "tooltip": [
                {"field": "run"},
                {"field": "epoch"},
                {"field": "value", "format": ".4f"},
            ],
        },
    )


def shots(values: Values, *, title: str) -> dict:
    """Score by number of training clips; values: shots, value, low, high (percent)."""
    x: dict[str, Any] = {
        "field": "shots",
        "type": "quantitative",
        "title": "training clips of each class",
        "scale": {"type": "log", "base": 2, "padding": 12},
        "axis": {"format": "d"},
    }
    y: dict[str, Any] = {
        "type": "quantitative",
        "title": title,
        "scale": {"zero": False, "nice": True},
    }
    return _chart(
        values,
        encoding={"x": x},
        layer=[
            {
                "mark": {"type": "rule", "style": "interval"},
                "encoding": {"y": y | {"field": "low"}, "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "line", "point": {"size": 60}},
                "encoding": {
                    "y": y | {"field": "value"},
                    "tooltip": [
                        {"field": "shots"},
                        {"field": "value", "title": title, "format": ".1f"},
                    ],
                },
            },
        ],
    )


def layers(values: Values, *, title: str) -> dict:
    """Score by layer, and a rule at the layer that validation chooses.

    values: layer, side ("test" or "validation"), value, low, high (percent, of test), chosen.
    """
    x = _of_layers()
    y: dict[str, Any] = {"type": "quantitative", "title": title, "scale": {"zero": False}}
    chosen = {
        "transform": [{"filter": "datum.chosen && datum.side == 'test'"}],
        "mark": {"type": "rule", "strokeDash": [4, 3], "strokeWidth": 1.5},
        "encoding": {"x": x},
    }
    span = {
        "transform": [{"filter": "datum.side == 'test'"}],
        "mark": {"type": "rule", "style": "interval"},
        "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}},
    }
    side = {"field": "side", "type": "nominal", "title": None, "legend": {"orient": "bottom"}}
    line = {
        "mark": {"type": "line", "point": {"size": 50}},
        "encoding": {
            "x": x,
            "y": y | {"field": "value"},
            "color": side,
            "strokeDash": side,
            "tooltip": [
                {"field": "layer"},
                {"field": "side"},
                {"field": "value", "title": title, "format": ".1f"},
            ],
        },
    }
    return _chart(values, layer=[chosen, span, line])


def layer_weights(values: Values) -> dict:
    """Weight of each layer in a learned mixture as bars; values: layer, value (a fraction)."""
    return _chart(
        values,
        height=160,
        mark={"type": "bar", "width": {"band": 0.7}},
        encoding={
            "x": _of_layers() | {"type": "ordinal"},
            "y": {"field": "value", "type": "quantitative", "title": "weight"},
            "tooltip": [{"field": "layer"}, {"field": "value", "format": ".3f"}],
        },
    )


def _of_layers() -> dict[str, Any]:
    axis = {"tickMinStep": 1, "format": "d", "labelAngle": 0}
    return {"field": "layer", "type": "quantitative", "title": "layer", "axis": axis}


def plane(values: Values, *, classes: int) -> dict:
    """Embeddings on a plane; values: x, y, label, predicted, clip, right ("right" or "wrong").

    classes: 0 where clips have no labels, as in retrieval; then they have one colour and no legend.
    """
    hidden = {"axis": None, "scale": {"zero": False, "nice": False, "padding": 10}}
    encoding: dict = {
        "x": {"field": "x", "type": "quantitative", **hidden},
        "y": {"field": "y", "type": "quantitative", **hidden},
        "opacity": {"value": 0.85},
        "tooltip": [{"field": "clip"}],
    }
    chosen = {"name": "chosen", "select": {"type": "point", "fields": ["label"]}, "bind": "legend"}
    return _chart(
        values,
        height=420,
        params=[chosen] if classes else [],
        mark={"type": "point", "filled": True, "size": 55 if len(values) <= 2000 else 14},
        encoding=encoding | (_of_labels(classes) if classes else {}),
    )


def _of_labels(classes: int) -> dict:
    """Colour by true label, shape by whether the prediction is right; the legend picks a class."""
    return {
        "color": {
            "field": "label",
            "type": "nominal",
            "title": "true label",
            "scale": {"scheme": "tableau10" if classes <= 10 else "tableau20"},
            "legend": {"orient": "bottom", "columns": 3, "labelLimit": 110, "symbolLimit": 30},
        },
        "shape": {
            "field": "right",
            "type": "nominal",
            "title": "predicted",
            "scale": {"domain": ["right", "wrong"], "range": ["circle", "cross"]},
            "legend": {"orient": "bottom"},
        },
        "opacity": {"condition": {"param": "chosen", "value": 0.85}, "value": 0.08},
        "tooltip": [{"field": "clip"}, {"field": "label", "title": "true"}, {"field": "predicted"}],
    }


def scatter(values: Values, *, x: str, title: str, y: str) -> dict:
    """Models by average and cost; values: model, value (percent), x, family."""
    return _chart(
        values,
        height=260,
        encoding={
            "x": {
                "field": x,
                "type": "quantitative",
                "title": title,
                "scale": {"type": "log", "nice": True, "padding": 16},
                "axis": {"format": "~s", "tickCount": 5},
            },
            "y": {"field": "value", "type": "quantitative", "title": y}
            | {"scale": {"zero": False, "nice": True, "padding": 12}},
        },
        layer=[
            {
                "mark": {"type": "point", "filled": True, "size": 80, "opacity": 0.85},
                "encoding": {
                    "color": {"field": "family", "type": "nominal", "title": "family"}
                    | {"legend": {"orient": "bottom", "columns": 4, "symbolLimit": 24}},
                    "tooltip": [
                        {"field": "model"},
                        {"field": "value", "title": y, "format": ".1f"},
                        {"field": x, "title": title, "format": ".3~s"},
                    ],
                },
            },
            {
                "mark": {"type": "text", "dy": -10, "fontSize": 10, "limit": 110},
                "encoding": {"text": {"field": "model"}},
            },
        ],
    )


def differences(values: Values, *, title: str) -> dict:
    """Differences with intervals around zero; values: name, value, low, high, clear."""
    y = {
        "field": "name",
        "type": "nominal",
        "sort": [row["name"] for row in values],
        "title": None,
        "axis": {"labelLimit": _MAX_LABEL, "ticks": False, "domain": False},
    }
    zero = {"mark": {"type": "rule", "strokeDash": [4, 3]}, "encoding": {"x": {"datum": 0}}}
    span = {
        "mark": {"type": "rule", "strokeWidth": 2, "style": "interval"},
        "encoding": {
            "y": y,
            "x": {"field": "low", "type": "quantitative", "title": title},
            "x2": {"field": "high"},
        },
    }
    dot = {
        "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
        "encoding": {
            "y": y,
            "x": {"field": "value", "type": "quantitative", "title": title},
            "shape": {
                "field": "clear",
                "type": "nominal",
                "title": "interval",
                "scale": {"domain": ["without 0", "with 0"], "range": ["diamond", "circle"]},
                "legend": {"orient": "bottom"},
            },
            "tooltip": [
                {"field": "name", "title": "of"},
                {"field": "value", "title": "difference", "format": "+.1f"},
                {"field": "low", "title": "95 % from", "format": "+.1f"},
                {"field": "high", "title": "to", "format": "+.1f"},
            ],
        },
    }
    return _chart(values, height={"step": 22}, layer=[zero, span, dot])


def class_differences(values: Values) -> dict:
    """Differences of classes as bars around zero; values: name, value, a, b (percent)."""
    return _chart(
        values,
        height={"step": 20},
        mark={"type": "bar", "height": {"band": 0.68}},
        encoding={
            "y": {
                "field": "name",
                "type": "nominal",
                "sort": [row["name"] for row in values],
                "title": None,
                "axis": {"labelLimit": _MAX_LABEL, "ticks": False, "domain": False},
            },
            "x": {"field": "value", "type": "quantitative", "title": "difference in points"},
            "opacity": {
                "condition": {"test": "datum.value < 0", "value": 0.55},
                "value": 1,
            },
            "tooltip": [
                {"field": "name", "title": "class"},
                {"field": "value", "title": "difference", "format": "+.1f"},
                {"field": "a", "title": "first", "format": ".1f"},
                {"field": "b", "title": "second", "format": ".1f"},
            ],
        },
    )


def critical_difference(values: Values) -> dict:
    """Mean ranks, half the critical difference to each side; values: model, rank, low, high.

    Intervals without a rank in common belong to models that Nemenyi's test separates: the same
    reading as the bars of Demsar 2006, Figure 1, without their crossing.
    """
    x: dict[str, Any] = {"type": "quantitative", "title": "mean rank"}
    x |= {"scale": {"zero": False, "nice": True}}
    y = {
        "field": "model",
        "type": "nominal",
        "title": None,
        "sort": [row["model"] for row in values],
        "axis": {"labelLimit": _MAX_LABEL, "ticks": False, "domain": False},
    }
    span = {
        "mark": {"type": "rule", "strokeWidth": 2, "style": "interval"},
        "encoding": {"x": {"field": "low", **x}, "x2": {"field": "high"}},
    }
    dot = {
        "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
        "encoding": {
            "x": {"field": "rank", **x},
            "tooltip": [{"field": "model"}, {"field": "rank", "format": ".2f"}],
        },
    }
    return _chart(values, height={"step": 24}, encoding={"y": y}, layer=[span, dot])
