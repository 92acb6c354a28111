"""A model, a task, a metric and a protocol of other packages: one file and one entry point each."""

import importlib
import sys

import pytest

import evar
from evar import models, protocol, registry, task
from evar.errors import UserError
from evar.scoring import metrics

MODEL = '''
"""The share of samples at which the sign changes: it tells low tones from high ones."""

import evar


class Crossings(evar.Adapter):
    sample_rate, embed_dim = 16000, 1

    def embed(self, audio):
        return (audio[:, 1:].sign() != audio[:, :-1].sign()).float().mean(dim=1, keepdim=True)
'''

TASK = '''
"""Tones in a folder of their own."""

from pathlib import Path

import pandas as pd

from evar.task import Task

TASK = Task(
    name="tones",
    version="1",
    title="Tones: low or high",
    read=lambda root: pd.read_csv(root / "sounds.csv", dtype=str),
    marker="sounds.csv",
    seconds=0.2,
    metric="balanced",
    bundled=Path({root!r}),
)
'''

METRIC = '''
"""Balanced accuracy: the mean of the classes' recalls."""

from evar.scoring import metrics


def per_class(truth, scores):
    return metrics.accuracy_per_class(truth, scores.argmax(axis=1), scores.shape[1])


METRIC = metrics.Metric(
    name="balanced",
    title="balanced accuracy",
    kinds=frozenset({"classification"}),
    value=lambda truth, scores: metrics.mean_defined(per_class(truth, scores)),
    validate=metrics.METRICS["accuracy"].validate,
    per_class=per_class,
)
'''

PROTOCOL = '''
"""The nearest class mean, without any training."""

from dataclasses import asdict, dataclass

import numpy as np

from evar.data import targets
from evar.embedding import embeddings
from evar.protocol import Protocol
from evar.scoring import summary


@dataclass(frozen=True, kw_only=True)
class Settings:
    power: float = 2.0  # of the difference in each dimension


def evaluate(model, manifest, settings, seeds, runtime):
    embedded = embeddings.embed_task(model, manifest, runtime)
    names = targets.class_names(manifest)
    y = targets.encode_labels(manifest, names)
    folds = targets.folds_of(manifest)
    scores = []
    for fold in folds:
        rows = embeddings.training_rows(embedded, fold.train)
        x, labels = embedded.values[rows], embeddings.of_views(embedded, y)[rows]  # (N, D), (N,)
        means = np.stack([x[labels == c].mean(axis=0) for c in range(len(names))])  # (C, D)
        test = embedded.values[embeddings.test_rows(embedded, fold.test)]
        scores.append(-(np.abs(test[:, None] - means) ** settings.power).sum(axis=2))  # (n, C)
    return summary.evaluation(
        manifest, folds, seeds, names, y, [scores], settings=asdict(settings)
    )


PROTOCOL = Protocol(
    name="nearest", version=1, title="Nearest class mean.", settings=Settings, evaluate=evaluate
)
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that installs a module with one entry point, as pip does."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    registry.plugins.cache_clear()
    installed = []

    def write(kind: str, name: str, text: str, attribute: str = "") -> None:
        module = f"evar_test_{name}"
        installed.append(module)
        (site / f"{module}.py").write_text(text)
        about = site / f"{module}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[evar.{kind}]\n{name} = {module}{attribute}\n")
        importlib.invalidate_caches()
        registry.plugins.cache_clear()

    yield write
    registry.plugins.cache_clear()
    for module in installed:
        sys.modules.pop(module, None)


@pytest.fixture
def all_installed(install, clips):
    """Four packages, one of each kind. Of the five low test clips one sounds high."""
    clips.add("test/odd.wav", "low", "test", hertz=3000)
    root = str(clips.root) if clips.csv else ""
    install("model_adapters", "crossings", MODEL)
    install("tasks", "tones", TASK.format(root=root))
    install("metrics", "balanced", METRIC)
    install("protocols", "nearest", PROTOCOL)


def test_they_are_listed_with_those_of_the_harness(all_installed):
    assert {"crossings", "logmel"} <= set(models.names())
    assert {"tones", "demo"} <= set(task.names())
    assert {"balanced", "accuracy"} <= set(metrics.names())
    assert {"nearest", "linear"} <= set(protocol.names())


def test_they_run_together(all_installed):
    run = evar.evaluate("crossings", "tones", "nearest", device="cpu")
    assert run.score == pytest.approx((4 / 5 + 4 / 4) / 2)
    assert run.record.score.metric == "balanced"
    assert run.predictions.set_index("clip").loc["test/odd.wav", "predicted"] == "high"
    assert run.record.protocol == "nearest"


def test_a_setting_of_the_protocol_is_an_option(all_installed):
    runs = [
        evar.evaluate("crossings", "tones", "nearest", device="cpu", power=power)
        for power in (2.0, 1.0)
    ]
    assert runs[0].record.id != runs[1].record.id


def test_they_run_with_what_the_harness_has(all_installed, simple):
    run = evar.evaluate(simple, "tones", "linear", device="cpu", seeds=1, epochs=2)
    assert run.record.score.metric == "balanced"


def test_an_edit_of_a_plug_in_is_another_model(install, tmp_path):
    install("model_adapters", "crossings", MODEL)
    before = models.load("crossings").identity
    file = tmp_path / "site-packages" / "evar_test_crossings.py"
    file.write_text(MODEL.replace('"""The share', '"""Share'))
    assert models.load("crossings").identity == before
    file.write_text(MODEL + "\nWIDTH = 2\n")
    assert models.load("crossings").identity != before


def test_the_harness_wins_over_a_plug_in_of_the_same_name(install):
    install("model_adapters", "logmel", MODEL)
    assert models.adapter_class("logmel").__module__ == "evar.model_adapters.logmel"


@pytest.mark.parametrize(
    ("kind", "name", "text", "attribute", "get"),
    [
        ("model_adapters", "crossings", MODEL, "Crossings", models.adapter_class),
        ("protocols", "nearest", PROTOCOL, "PROTOCOL", protocol.get),
        ("metrics", "balanced", METRIC, "METRIC", metrics.get),
    ],
)
def test_an_entry_point_may_name_the_object_itself(kind, name, text, attribute, get, install):
    install(kind, name, text, f":{attribute}")
    assert get(name) is getattr(importlib.import_module(f"evar_test_{name}"), attribute)


@pytest.mark.parametrize(
    ("kind", "get"), [("tasks", task.get), ("protocols", protocol.get), ("metrics", metrics.get)]
)
@pytest.mark.parametrize("text", ["", "TASK = PROTOCOL = METRIC = 3\n"])
def test_a_plug_in_without_its_declaration_is_refused(text, kind, get, install):
    install(kind, "hollow", text)
    with pytest.raises(UserError, match="hollow: its module must define"):
        get("hollow")


@pytest.mark.parametrize("kind", registry.KINDS)
def test_a_plug_in_that_fails_is_named_when_it_is_used(kind, install):
    install(kind, "broken", "import nowhere_to_be_found\n")
    get = {
        "model_adapters": models.load,
        "tasks": task.get,
        "protocols": protocol.get,
        "metrics": metrics.get,
    }[kind]
    with pytest.raises(UserError, match=r"broken \(evar_test_broken of evar.test.broken\) cannot"):
        get("broken")


@pytest.mark.parametrize("kind", registry.KINDS)
def test_a_plug_in_that_fails_disturbs_nothing_else(kind, install, clips, simple):
    install(kind, "broken", "import nowhere_to_be_found\n")
    evar.evaluate(simple, clips.csv, "lineareval", device="cpu", seeds=1, epochs=1)
