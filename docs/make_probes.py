"""Writes the table of docs/probes.md and docs/layers.svg: `python docs/make_probes.py`.

They come from docs/probes.csv and docs/layers.csv, which benchmarks/probes.py measures.
"""

import csv
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
PAGE, PICTURE = HERE / "probes.md", HERE / "layers.svg"
BEGIN, END = "<!-- table: docs/make_probes.py -->\n", "<!-- end of the table -->\n"
WIDTH, HEIGHT, MARGIN = 640, 320, 56  # of the picture, in pixels
COLOURS = ("#1b6ca8", "#c0392b", "#27864a", "#8e44ad", "#a66a00")


def read(name: str) -> list[dict]:
    """Returns the rows of a CSV next to this file."""
    with (HERE / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(rows: list[dict]) -> str:
    """Returns the scores in percent as Markdown: a line per probe, a column per task.

    A cell has one score for each model, the best in bold where all were measured; a dash is a run
    that was not made.
    """
    tasks, models, probes = (
        list(dict.fromkeys(row[key] for row in rows)) for key in ("task", "model", "probe")
    )
    score = {(r["probe"], r["task"], r["model"]): float(r["mean"]) for r in rows}
    head = [f"probe ({' / '.join(models)})", *tasks]
    lines = [head, ["---"] * len(head)]
    for probe in probes:
        found = [[score.get((probe, task, model)) for model in models] for task in tasks]
        lines.append([probe, *(_cell(values) for values in found)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    shown = ["–" if value is None else f"{100 * value:.1f}" for value in values]
    best = max(known)
    if len(known) == len(values) and known.count(best) == 1:
        place = values.index(best)
        shown[place] = f"**{shown[place]}**"
    return " / ".join(shown)


def picture(points: list[dict]) -> str:
    """Returns the curves over layers as SVG: the test score, with its interval over runs."""
    names = list(dict.fromkeys((p["task"], p["model"]) for p in points))
    last = max(int(p["layer"]) for p in points)
    one_model = len({model for _, model in names}) == 1
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12" role="img">',
        "<title>Score of a linear probe on each layer</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for percent in range(0, 101, 20):
        y = _y(percent / 100)
        parts.append(f'<path d="M{MARGIN} {y:.1f}H{WIDTH - MARGIN}" stroke="#ddd"/>')
        parts.append(f'<text x="{MARGIN - 8}" y="{y + 4:.1f}" text-anchor="end">{percent}</text>')
    for layer in range(last + 1):
        x = _x(layer, last)
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">{layer}</text>'
        )
    parts.append(
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">layer '
        "(0: the input of the first block)</text>"
    )
    parts.append(f'<text x="8" y="{MARGIN - 34}">score, %</text>')
    for number, (task, model) in enumerate(names):
        own = [p for p in points if (p["task"], p["model"]) == (task, model)]
        label = task if one_model else f"{task}, {model}"
        parts += _curve(own, label, COLOURS[number % len(COLOURS)], number, last)
    return "\n".join([*parts, "</svg>\n"])


def _curve(points: list[dict], name: str, colour: str, number: int, last: int) -> list[str]:
    places = [(_x(int(p["layer"]), last), float(p["mean"]), float(p["ci95"] or 0)) for p in points]
    line = " ".join(f"{x:.1f},{_y(mean):.1f}" for x, mean, _ in places)
    bars = "".join(f"M{x:.1f} {_y(m - c):.1f}V{_y(m + c):.1f}" for x, m, c in places)
    at = 100 + (WIDTH - 100) // len(COLOURS) * number
    return [
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>',
        f'<path d="{bars}" stroke="{colour}"/>',
        f'<path d="M{at} {MARGIN - 38}h20" stroke="{colour}" stroke-width="2"/>',
        f'<text x="{at + 26}" y="{MARGIN - 34}">{escape(name)}</text>',
    ]


def _x(layer: int, last: int) -> float:
    return MARGIN + (WIDTH - 2 * MARGIN) * layer / max(last, 1)


def _y(score: float) -> float:
    bounded = min(max(score, 0.0), 1.0)
    return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * bounded


def page(text: str) -> str:
    """Returns the page with the table of today's CSV."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + table(read("probes.csv")) + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    PICTURE.write_text(picture(read("layers.csv")), encoding="utf-8")
