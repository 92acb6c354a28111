"""Comparisons: what may be compared, the sentence, the formats, the page."""

import json

import numpy as np
import pytest

from evar.errors import UserError
from evar.pages import comparison, pairs
from evar.results import record
from helpers import made_results as made


def loaded(results, run: str):
    return next(r for r in record.load_runs(results)[0] if r.id == run)


def compared(results, a: str, b: str):
    return pairs.compare(loaded(results, a), loaded(results, b), results)


@pytest.fixture
def two(tmp_path):
    """A good and a bad model on the same clips, in groups of two."""
    score = {"test_unit": "recording"}
    a = made.run_of(tmp_path, "good", 0.95, score=score)
    b = made.run_of(tmp_path, "bad", 0.3, noise=1, score=score)
    return tmp_path, a, b


def test_difference_is_that_of_the_scores(two):
    results, a, b = two
    pair = compared(*two)
    gap = loaded(results, a).score.mean - loaded(results, b).score.mean
    assert pair.difference.mean == pytest.approx(gap, abs=1e-12)
    assert (pair.difference.clips, pair.difference.groups, pair.by) == (40, 20, "recording")
    assert pair.difference.low > 0.3
    assert pair.mcnemar.p < 0.001
    assert pair.mcnemar.only_a == len(pair.only_a)


def test_the_sentence_names_the_better_one_first(two):
    results, a, b = two
    found = comparison.sentence([compared(results, b, a)])
    pair = compared(results, a, b)
    low, high = 100 * pair.difference.low, 100 * pair.difference.high
    gap = 100 * pair.difference.mean
    assert found.startswith(f"good is better than bad on esc50 by {gap:.1f} points, 95 % interval ")
    assert found.endswith("p = 0.0002.")
    assert f"{low:.1f} to {high:.1f}"[:3] in found


def test_equal_models_are_not_separated(tmp_path):
    a = made.run_of(tmp_path, "one", 0.6)
    b = made.run_of(tmp_path, "two", 0.6, noise=1)
    assert "are not separated on esc50" in comparison.sentence([compared(tmp_path, a, b)])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"manifest": "e" * 64}, "different set of clips"),
        ({"protocol": "knn"}, "different protocol"),
        ({"of": "gtzan"}, "different task"),
        ({"clips": 38}, "did not score the same clips"),
    ],
)
def test_what_is_not_alike_is_refused(two, change, said):
    results, a, _ = two
    other = made.run_of(results, "other", 0.5, **change)
    with pytest.raises(UserError, match=said):
        compared(results, a, other)


def test_a_run_is_not_compared_with_itself_or_without_predictions(two):
    results, a, b = two
    with pytest.raises(UserError, match="the same run"):
        compared(results, a, a)
    (results / f"runs/{b}.predictions.csv.gz").unlink()
    with pytest.raises(UserError, match="not there"):
        compared(results, a, b)


def test_other_settings_are_named(two):
    results, a, _ = two
    b = made.run_of(results, "other", 0.5, settings={"lr": 0.1}, select="oracle", seeds=[1, 2, 3])
    notes = " ".join(compared(results, a, b).notes)
    assert "different lr: 0.0003 and 0.1" in notes
    assert "different seeds" in notes
    assert "oracle" in notes


def test_tagging_is_compared_by_its_metric(tmp_path):
    import pandas as pd

    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (40, 3))
    truth[:, 0] |= truth.sum(axis=1) == 0
    names = np.array(["cat", "dog", "owl"])
    files = [f"{i:02d}.wav" for i in range(40)]
    table = pd.DataFrame({"clip": files, "fold": "test", "seed": 42})
    table = table.assign(
        true=[",".join(names[row == 1]) for row in truth], predicted="cat", score=1
    )
    ids, means = [], []
    for name, noise in (("good", 0.2), ("bad", 3.0)):
        scores = truth + noise * rng.standard_normal(truth.shape)
        from evar.scoring import metrics

        means.append(metrics.mean_average_precision(truth, scores))
        content = pd.DataFrame(scores, columns=names)
        content.insert(0, "clip", files)
        content.insert(1, "fold", "test")
        run = made.record(name, mean=means[-1], seeds=[42], score={"metric": "mAP"})
        ids.append(made.save(tmp_path, run, predictions=table, scores_42=content))
    pair = compared(tmp_path, *ids)
    assert pair.difference.mean == pytest.approx(means[0] - means[1], abs=1e-9)
    assert 0 < pair.difference.low < pair.difference.mean < pair.difference.high
    assert pair.mcnemar is None


def many(results):
    for noise, (name, right) in enumerate([("best", 0.9), ("middle", 0.6), ("worst", 0.3)]):
        for task in ("esc50", "gtzan", "us8k"):
            made.run_of(results, name, right, of=task, noise=noise)


def test_models_are_compared_over_all_tasks_that_both_have(command, tmp_path):
    many(tmp_path)
    made.run_of(tmp_path, "best", 0.9, of="cremad")
    ran = command("compare", "best", "worst", "--also=middle", f"--results={tmp_path}")
    assert ran.code == 0, ran.err
    assert "best is better than worst over 3 tasks on average by" in ran.out
    assert "mean ranks: best 1.00, middle 2.00, worst 3.00 (critical difference 1.91)" in ran.out
    ran = command("compare", "best", "worst", "--format=json", f"--results={tmp_path}")
    value = json.loads(ran.out)
    gaps = [task["a"]["score"] - task["b"]["score"] for task in value["tasks"]]
    assert [task["task"] for task in value["tasks"]] == ["esc50", "gtzan", "us8k"]
    assert value["overall"]["mean"] == pytest.approx(np.mean(gaps))
    for kind, mark in (("markdown", "|---|---|---:"), ("latex", r"\toprule")):
        assert (
            mark
            in command("compare", "best", "worst", f"--format={kind}", f"--results={tmp_path}").out
        )


def test_the_command_refuses_with_one_line(command, tmp_path):
    many(tmp_path)
    made.run_of(tmp_path, "lonely", 0.5, of="cremad")
    for words, said in (
        (("best", "lonely"), "no task in common"),
        (("best", "zzz"), "unknown model"),
        (("yyy", "zzz"), "unknown run"),
        (("best", "worst", "--also=zzz"), "no such model"),
        (("best", "worst", "--format=pdf"), "not one of text"),
    ):
        ran = command("compare", *words, f"--results={tmp_path}")
        assert ran.code == 2, ran
        assert said in ran.err, ran.err
        assert ran.err.count("\n") == 1


def test_the_page_of_two_runs(browser, two):
    results, a, b = two
    pair = compared(*two)
    path = comparison.write([pair], results)
    browser.open(path)
    browser.drawn(2)
    browser.require_sound(path)
    browser.open(path, width=390, dark=True)
    browser.require_sound(path)
    assert browser.accessibility() == []
    assert browser.text("#verdict") == [comparison.sentence([pair])]
    row = browser.text("#differences-table tbody td")
    assert row[1] == f"{100 * loaded(results, a).score.mean:.1f}"
    assert row[2] == f"{100 * loaded(results, b).score.mean:.1f}"
    assert row[3] == f"{100 * pair.difference.mean:+.1f}"


def test_the_page_of_many_models_with_names_that_are_markup(browser, tmp_path):
    many(tmp_path)
    for task in ("esc50", "gtzan"):
        made.run_of(tmp_path, made.NASTY, 0.5, of=task, noise=7)
    runs = record.load_runs(tmp_path)[0]
    chosen = pairs.of_models(runs, made.NASTY, "best")
    found = [pairs.compare(*pair, tmp_path) for pair in chosen]
    ranks = comparison.ranks_of(runs, [made.NASTY, "best", "middle"], "linear")
    path = comparison.write(found, tmp_path, ranks=ranks)
    browser.open(path)
    browser.drawn(2)
    browser.require_sound(path)
    assert made.NASTY in browser.text("#verdict")[0]
    assert made.NASTY in browser.text("#ranks tbody th")
    assert r"\textless{}img" in comparison.as_latex(found)
    assert "<img" not in comparison.as_markdown(found)
