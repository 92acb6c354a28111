"""Records of runs as JSON values, for tests of what reads them."""

import copy
import hashlib
import json


def record(name="m", of="esc50", mean=0.5, **more) -> dict:
    """A run's record of schema 2; keywords replace fields, or fields inside of an object."""
    made = {
        "schema": 2,
        "id": hashlib.sha256(repr((name, of, mean, more)).encode()).hexdigest()[:16],
        "protocol": "linear",
        "protocol_version": 1,
        "model": {
            "name": name,
            "weights": "w" * 16,
            "source": "s" * 16,
            "options": {},
            "adapter": "Net",
            "parameters": 10,
            "width": 4,
        },
        "task": {
            "name": of,
            "version": "1",
            "seconds": 5.0,
            "published": True,
            "usual_seconds": 5.0,
            "kind": "classification",
        },
        "manifest": "d" * 64,
        "settings": {"lr": 3e-4, "hidden": [], "epochs": 200, "precision": "fp32"},
        "seeds": [42, 43, 44],
        "clips": {"train": 8, "test": 4, "total": 12, "skipped": [], "partial": ""},
        "score": {
            "metric": "accuracy",
            "mean": mean,
            "ci95": 0.012,
            "std": 0.01,
            "runs": 3,
            "test95": [0.4, 0.6],
            "test_unit": "clip",
            "test_groups": 40,
            "test_clips": 40,
            "chance": 0.25,
            "unit": "fraction",
            "higher_is_better": True,
        },
        "finished": "2025-01-01T00:00:00+00:00",
        "variant": {},
        "select": None,
        "metrics": {"accuracy": mean},
        "per_class": {"high": 1.0, "low": None},
        "undefined_classes": 1,
        "runs": [{"seed": 42, "folds": [{"fold": "test", "score": mean}]}],
        "seconds": {"embed": 1.5},
        "clips_per_second": None,
        "config": {"lr": 3e-4, "options": {}, "checkpoint": ""},
        "device": "cpu",
        "python": "3.11.0",
        "evar": "0.1",
        "libraries": {"numpy": "2.0"},
        "git": None,
        "request": "",
        "seen_in_training": None,
        "unheard": {},
    }
    for key, value in more.items():
        inside = isinstance(value, dict) and isinstance(made.get(key), dict)
        made[key] = {**made[key], **value} if inside else value
    return copy.deepcopy(made)


def write(folder, *records: dict):
    """Writes records as runs of a results folder; returns the paths of their files."""
    runs = folder / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    paths = [runs / f"{made['id']}.json" for made in records]
    for path, made in zip(paths, records, strict=True):
        path.write_text(json.dumps(made), encoding="utf-8")
    return paths
