"""Scores, per-class values and predictions of an evaluation, worked by hand."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evar import task as tasks
from evar.data.manifest import Manifest
from evar.data.targets import Fold
from evar.scoring import metrics, summary

NOTHING = np.zeros(0, np.int64)


def manifest(labels, *, group="", folds=(), kind="classification"):
    """A manifest of test clips; nothing of it is on disk."""
    count = len(labels)
    table = pd.DataFrame(
        {
            "file": [f"{i}.wav" for i in range(count)],
            "label": labels,
            "group": group or [""] * count,
            "problem": "",
            "fold" if folds else "split": folds or "test",
        }
    )
    task = tasks.Task(
        name="made",
        version="1",
        title="made",
        read=lambda root: table,
        marker="x",
        seconds=1.0,
        kind=kind,
        folds=tuple(sorted(set(folds))),
        group="speaker" if group else "",
    )
    return Manifest(task, Path(), table, "0" * 64, np.zeros((count, 3), np.int64))


def one_hot(predicted, classes=2):
    return np.eye(classes)[np.asarray(predicted)]


def evaluated(of, folds, y, scores, *, seeds=(42, 43), **more):
    return summary.evaluation(of, folds, seeds, ["a", "b"], y, scores, settings={}, **more)


def test_a_score_is_the_mean_over_runs_of_the_mean_over_folds():
    of = manifest(["a", "a", "b", "b", "a"], folds=["1", "1", "1", "1", "2"])
    y = np.array([0, 0, 1, 1, 0])
    folds = [Fold("1", NOTHING, None, np.arange(4)), Fold("2", NOTHING, None, np.array([4]))]
    first = [one_hot([0, 0, 1, 0]), one_hot([0])]  # 3 of 4, 1 of 1
    second = [one_hot([0, 1, 0, 0]), one_hot([0])]  # 1 of 4, 1 of 1
    found = evaluated(of, folds, y, [first, second])
    assert found.score.mean == pytest.approx((0.875 + 0.625) / 2)
    assert found.score.std == pytest.approx(0.25 / np.sqrt(2))
    assert (found.score.metric, found.score.runs, found.score.unit) == ("accuracy", 2, "fraction")
    assert found.metrics == {"accuracy": pytest.approx((4 / 5 + 2 / 5) / 2)}
    assert found.per_class == {"a": pytest.approx((1 + 2 / 3) / 2), "b": pytest.approx(0.25)}
    assert found.clips == {"1": 4, "2": 1, "total": 5, "skipped": [], "partial": ""}
    assert " ".join(found.predictions.columns) == "clip fold seed true predicted score"
    assert found.predictions.seed.tolist() == [42] * 5 + [43] * 5
    assert found.predictions.predicted.tolist() == list("aabaa" + "abaaa")
    assert found.tables == {}


def test_a_class_without_a_test_clip_is_undefined_and_counted():
    of = manifest(["a", "a"])
    fold = Fold("test", NOTHING, None, np.arange(2))
    found = evaluated(of, [fold], np.array([0, 0]), [[one_hot([0, 1])]] * 2)
    assert found.per_class == {"a": 0.5, "b": None}
    assert found.undefined_classes == 1


def test_several_labels_have_map_and_the_scores_of_every_class():
    of = manifest(["a", "b", "a,b"], kind="tagging")
    y = np.array([[1, 0], [0, 1], [1, 1]])
    scores = np.array([[0.9, 0.1], [0.2, 0.3], [0.6, 0.5]])
    fold = Fold("test", NOTHING, None, np.arange(3))
    found = evaluated(of, [fold], y, [[scores]], seeds=(42,))
    assert found.score.mean == pytest.approx(1.0)
    assert set(found.metrics) == {"mAP", "roc_auc", "d_prime"}
    assert found.metrics["d_prime"] is None, "infinite: every pair is in order"
    assert found.predictions.predicted.tolist() == ["a", "", "a,b"]
    table = found.tables["scores-42"]
    assert table.columns.tolist() == ["clip", "fold", "a", "b"]
    np.testing.assert_allclose(table[["a", "b"]], scores, rtol=1e-6)


def test_metrics_rank_by_scores_where_probabilities_are_all_one():
    """float32 sigmoid of 18 and 20 is 1: only the logits tell which clip has the class."""
    logits = np.array([[20, 18], [18, 20], [20, 18]], np.float32)
    ones = (1 / (1 + np.exp(-logits))).astype(np.float32)
    assert (ones == 1).all()
    fold = Fold("all", NOTHING, None, np.arange(3))
    of = manifest(["a", "b", "a"], kind="tagging")
    y = np.array([[1, 0], [0, 1], [1, 0]], np.int8)
    found = summary.evaluation(
        of, [fold], [1], ["a", "b"], y, [[logits]], settings={}, probabilities=[[ones]]
    )
    assert found.score.mean == 1
    assert found.predictions.score.tolist() == [1, 1, 1]
    assert found.tables["scores-1"][["a", "b"]].to_numpy().tolist() == logits.tolist()


def test_without_seeds_there_is_one_run_and_no_column_for_it():
    of = manifest(["a", "b", "a,b"], kind="tagging")
    y = np.array([[1, 0], [0, 1], [1, 1]])
    scores = np.array([[-0.1, -0.3], [0.2, 0.3], [0.6, 0.5]])
    fold = Fold("test", NOTHING, None, np.arange(3))
    found = evaluated(of, [fold], y, [[scores]], seeds=(), threshold=None)
    assert found.predictions.columns.tolist() == ["clip", "fold", "true", "predicted", "score"]
    assert found.predictions.predicted.tolist() == ["a", "b", "a"]
    assert found.tables == {}
    assert (found.seeds, found.score.runs, found.score.ci95) == ((), 1, None)


def test_scores_that_are_not_finite_are_refused():
    of, fold = manifest(["a", "b"]), Fold("test", NOTHING, None, np.arange(2))
    with pytest.raises(ValueError, match="finite"):
        evaluated(of, [fold], np.array([0, 1]), [[np.full((2, 2), np.nan)]] * 2)


def test_a_metric_of_ones_own_is_one_entry(monkeypatch):
    first = metrics.Metric(
        name="first",
        title="mean score of the first class",
        kinds=frozenset({"classification"}),
        value=lambda truth, scores: float(scores[:, 0].mean()),
        validate=lambda truth, scores: None,
        unit="plain",
        higher_is_better=False,
    )
    monkeypatch.setitem(metrics.METRICS, "first", first)
    of = manifest(["a", "b"] * 10)
    of = dataclasses.replace(of, task=dataclasses.replace(of.task, metric="first"))
    fold = Fold("test", NOTHING, None, np.arange(20))
    scores = np.linspace(1, 4, 40).reshape(20, 2)
    found = evaluated(of, [fold], np.array([0, 1] * 10), [[scores]] * 2)
    assert found.score.mean == pytest.approx(scores[:, 0].mean())
    assert (found.score.unit, found.score.higher_is_better) == ("plain", False)
    assert found.metrics == {"first": pytest.approx(scores[:, 0].mean())}
    assert found.per_class == {}


def test_a_confusion_matrix_is_a_list():
    predicted = pd.DataFrame({"true": list("aab"), "predicted": list("aba")})
    table = summary.confusion(predicted)
    assert table.to_dict("list") == {
        "true": ["a", "a", "b"],
        "predicted": ["a", "b", "a"],
        "count": [1, 1, 1],
    }


def test_one_clip_without_a_group_does_not_change_what_a_group_is():
    """It is a group of its own; the interval stays that of groups."""
    correct = np.repeat([1, 0, 1, 0, 1, 1, 0, 1, 1, 1], 8)
    truth = np.zeros(80, int)
    labels = ["a"] * 79 + ["b"]
    names = [f"s{i // 8}" for i in range(80)]
    fold = Fold("test", NOTHING, None, np.arange(80))
    scores = [[one_hot(1 - correct)]] * 2
    whole = evaluated(manifest(labels, group=names), [fold], truth, scores).score
    blank = evaluated(manifest(labels, group=[*names[:-1], ""]), [fold], truth, scores).score
    clips = evaluated(manifest(labels), [fold], truth, scores).score
    assert (whole.test_unit, whole.test_groups) == ("speaker", 10)
    assert (blank.test_unit, blank.test_groups) == ("speaker", 11)
    assert (clips.test_unit, clips.test_groups) == ("clip", 80)
    assert np.ptp(blank.test95) == pytest.approx(np.ptp(whole.test95), rel=0.1)
    assert np.ptp(clips.test95) < 0.6 * np.ptp(blank.test95)


def test_the_chance_level_is_that_of_the_commonest_class():
    fold = Fold("test", NOTHING, None, np.arange(10))
    of = manifest(["a"] * 7 + ["b"] * 3)
    found = evaluated(of, [fold], np.array([0] * 7 + [1] * 3), [[one_hot([0] * 10)]] * 2)
    assert (found.score.chance, found.score.test_clips) == (0.7, 10)


def of_queries(hits, clips):
    """The interval of R@1 where queries find their clip at once, or at rank 20."""
    hits = np.asarray(hits, float)
    values = {"R@1": hits, "rank": np.where(hits == 1, 1.0, 20.0)}
    found = {"text_to_audio": values}
    _, _, intervals = summary.of_queries(
        found, {"text_to_audio": np.asarray(clips)}, headline=("text_to_audio", "R@1")
    )
    return intervals["text_to_audio"]["R@1"]


def test_a_share_of_single_queries_has_wilsons_interval():
    """One hit in 73, worked by hand: z = 1.96, and a sample variance of p (1 - p) / 72."""
    p, n, z = 1 / 73, 72, 1.959964
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    found = of_queries([1] + [0] * 72, range(73))
    assert found == pytest.approx((middle - half, middle + half), abs=1e-6)
    assert found[1] < 0.08
    grouped = of_queries([1] + [0] * 72, np.arange(73) // 2)  # two captions per clip
    assert grouped[1] > found[1]
