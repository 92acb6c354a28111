"""Every probe on several models and tasks: `python benchmarks/probes.py OUT TASK... [options]`.

--models=logmel,whisper  --weights=whisper:PATH  --protocols=knn,layers  --limit=SECONDS

Writes OUT/probes.csv (one row per model, task and probe: score, intervals, seconds of embedding,
CPU seconds of the whole run) and, for encoders with blocks, OUT/layers.csv (the curve over layers).
docs/make_probes.py makes the table and the picture of docs/probes.md from them. No run is begun
after `limit` seconds. Rows that are in OUT already are kept and not run again, so that the command
can be repeated.
"""

import csv
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROBES = {  # name: protocol and options
    "linear": ("linear", {}),
    "linear, lr=auto": ("linear", {"lr": "auto"}),
    "knn": ("knn", {}),
    "fewshot, 16 shots": ("fewshot", {}),
    "fewshot, mteb": ("fewshot", {"preset": "mteb"}),
    "attentive": ("attentive", {}),
    "attentive, lr=auto": ("attentive", {"lr": "auto"}),
    "attentive, 4 queries": ("attentive", {"queries": 4}),
    "layers, each": ("layers", {}),
    "layers, weighted": ("layers", {"layers": "weighted"}),
    "hear": ("hear", {}),
    "xares": ("xares", {}),
}
FIELDS = ("task", "model", "probe", "metric", "mean", "ci95", "low", "high", "embed", "cpu")


def main(
    out: str,
    *tasks: str,
    models="logmel,whisper",
    weights: str = "",
    protocols: str = "",
    device: str = "auto",
    limit: float = 1e9,
) -> None:
    """Runs what the arguments say, and writes after every run."""
    sys.path.insert(0, str(ROOT))
    import evar

    names = models.split(",") if isinstance(models, str) else models
    wanted = protocols.split(",") if isinstance(protocols, str) else protocols
    files = dict(part.split(":", 1) for part in filter(None, str(weights).split(",")))
    folder, begun = Path(out), time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    rows, layers = _read(folder / "probes.csv"), _read(folder / "layers.csv")
    done = {(row["task"], row["model"], row["probe"]) for row in rows}
    for task in tasks:
        for model in names:
            for probe, (protocol, options) in PROBES.items():
                if time.perf_counter() - begun > limit:
                    return
                if protocol not in wanted and protocols:
                    continue
                if (Path(task).stem, model, probe) in done:
                    continue
                started = time.process_time()
                try:
                    run = evar.evaluate(
                        model,
                        task,
                        protocol,
                        weights=files.get(model),
                        device=device,
                        cache=folder / "cache",
                        **options,
                    )
                except evar.UserError as error:
                    print(f"{task} {model} {probe}: {error}", flush=True)
                    continue
                rows.append(_row(run, Path(task).stem, model, probe, time.process_time() - started))
                if probe == "layers, each":
                    layers += [
                        {"task": Path(task).stem, "model": model, **point}
                        for point in run.record.extra["curve"]
                    ]
                print(rows[-1], flush=True)
                _write(folder / "probes.csv", rows)
                _write(folder / "layers.csv", layers)


def _row(run, task: str, model: str, probe: str, cpu: float) -> dict:
    score, seconds = run.record.score, run.record.seconds
    values = score.mean, score.ci95, *(run.interval or (None, None))
    rounded = ["" if value is None else round(value, 4) for value in values]
    values = (task, model, probe, score.metric, *rounded, seconds["embed"], round(cpu, 1))
    return dict(zip(FIELDS, values, strict=True))


def _read(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write(path: Path, rows: list[dict]) -> None:
    if not rows:
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    import fire

    fire.Fire(main)
