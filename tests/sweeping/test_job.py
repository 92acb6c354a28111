"""Jobs as data: their identity, groups and parts."""

import pytest

from evar.sweeping.job import Job, groups, part_of

JOBS = [
    Job.of(model, task, protocol, {"lr": 0.1, "seeds": [1, 2]})
    for task in ("t1", "t2", "t3")
    for model in ("a", "b", "c", "d")
    for protocol in ("linear", "knn")
]


def test_a_job_survives_json():
    for job in JOBS:
        assert Job.from_json(job.to_json()) == job
        assert Job.from_json(job.to_json()).id == job.id
    assert len({job.id for job in JOBS}) == len(JOBS)


def test_options_decide_the_identity_and_their_order_does_not():
    one, other = Job.of("a", "t", "p", {"x": 1, "y": 2}), Job.of("a", "t", "p", {"y": 2, "x": 1})
    assert one.id == other.id != Job.of("a", "t", "p", {"x": 1, "y": 3}).id


@pytest.mark.parametrize("total", [1, 2, 3, 5, 24, 30])
def test_parts_are_the_whole_and_do_not_overlap(total):
    parts = [part_of(JOBS, (i, total)) for i in range(total)]
    assert sorted(job.id for part in parts for job in part) == sorted(job.id for job in JOBS)


@pytest.mark.parametrize(("workers", "expected"), [(1, 3), (3, 3), (4, 4), (8, 8), (99, 12)])
def test_groups_hold_one_task_and_are_enough_for_all_workers(workers, expected):
    found = groups(JOBS, at_least=workers)
    assert len(found) == expected
    assert sorted(j.id for g in found for j in g) == sorted(j.id for j in JOBS)
    assert all(len({job.task for job in group}) == 1 for group in found)
    cells = [{(job.model, job.task) for job in group} for group in found]
    assert sum(map(len, cells)) == len(set().union(*cells))  # no model of a task is in two groups
