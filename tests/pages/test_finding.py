"""Which run stands for a model on a task."""

from evar.pages import comparison, finding, pairs
from evar.results import record
from helpers import made_results as made


def add(results, day: int, *, name="m", of="esc50", mean=0.5, **more) -> str:
    finished = f"2025-01-{day:02d}T00:00:00+00:00"
    return made.save(results, made.record(name, of, mean, finished=finished, **more))


def test_a_run_without_overrides_comes_before_a_newer_one_with_some(tmp_path):
    add(tmp_path, 1)
    plain = add(tmp_path, 2, mean=0.6)
    other = add(tmp_path, 3, mean=0.7, variant={"lr": 0.1})
    runs = finding.load(tmp_path)
    found = finding.run_of(runs, "m", "esc50")
    assert found.id == plain
    assert finding.chosen_of(found, runs) == f"m on esc50: run {plain[:8]} of 3 (no overrides)"
    assert finding.run_of(runs, other).id == other
    assert finding.run_of([r for r in runs if r.variant], "m", "esc50").id == other


def test_of_one_run_there_is_nothing_to_say(tmp_path):
    add(tmp_path, 1)
    runs = finding.load(tmp_path)
    assert finding.chosen_of(runs[0], runs) == ""


def test_comparisons_and_ranks_take_the_same_runs(tmp_path):
    plain = {}
    for i, name in enumerate(("a", "b", "c")):
        for task in ("esc50", "gtzan"):
            plain[name, task] = add(tmp_path, 1, name=name, of=task, mean=0.5 + 0.1 * i)
            add(tmp_path, 2, name=name, of=task, mean=0.9 - 0.1 * i, variant={"lr": 0.1})
    runs = record.load_runs(tmp_path)[0]
    for one, other in pairs.of_models(runs, "a", "b"):
        assert one.id == plain["a", one.task.name]
        assert other.id == plain["b", other.task.name]
    ranks = comparison.ranks_of(runs, ("a", "b", "c"), "linear")
    assert ranks.models == ("c", "b", "a")
