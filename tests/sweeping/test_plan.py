"""From words to jobs, and which of them cannot run."""

from pathlib import Path

import pytest

from evar import protocol
from evar import task as tasks
from evar.errors import UserError
from evar.sweeping import plan


def names(jobs, what):
    return list(dict.fromkeys(getattr(job, what) for job in jobs))


def test_lists_globs_and_paths(models, clips):
    jobs = plan.make_jobs(f"logmel, beats_*,{models('One')}", f"demo,{clips.csv}", "linear,knn", {})
    assert names(jobs, "model") == ["logmel", "beats_iter3", "beats_iter3_plus", models("One")]
    assert names(jobs, "task") == ["demo", clips.csv]
    assert len(jobs) == 4 * 2 * 2


def test_sets_of_tasks(tmp_path):
    jobs = plan.make_jobs("logmel", "paper", "linear", {})
    assert names(jobs, "task") == list(protocol.get("linear").averaged)
    prepared = {job.task for job in plan.make_jobs("logmel", "all", "linear", {})}
    assert prepared == {name for name in tasks.names() if tasks.get(name).bundled}
    (tmp_path / "data" / "esc50").mkdir(parents=True)
    assert {job.task for job in plan.make_jobs("logmel", "all", "linear", {})} == prepared | {
        "esc50"
    }


def test_a_job_takes_the_options_that_it_has():
    given = {"seeds": 2, "lr": 0.1, "weights": "random", "device": "cpu"}
    jobs = plan.make_jobs("logmel,whisper", "demo", "linear,zeroshot", given)
    options = {(job.model, job.protocol): dict(job.options) for job in jobs}
    assert options["whisper", "linear"] == given
    assert options["whisper", "zeroshot"] == {"weights": "random", "device": "cpu"}
    assert "weights" not in options["logmel", "linear"]


def test_windows_are_of_own_recordings_and_of_protocols_that_have_them(clips):
    given = {"windows": 0.2, "hop": 0.1, "pool": "max"}
    jobs = plan.make_jobs("logmel", f"demo,{clips.csv}", "knn,fewshot", given)
    taken = {(job.task, job.protocol): dict(job.options) for job in jobs}
    assert taken.pop((clips.csv, "knn")) == given
    assert set(map(str, taken.values())) == {"{}"}


@pytest.mark.parametrize(
    ("task", "protocols", "given", "said"),
    [
        ("mine.csv", "linear", {"hop": 1}, "--hop is of --windows=SECONDS, which is not given"),
        ("mine.csv", "linear", {"pool": "max"}, "--pool is of --windows=SECONDS"),
        ("mine.csv", "linear", {"windows": 1, "hop": 2}, "--hop=2 would skip audio"),
        ("mine.csv", "linear", {"windows": 1, "pool": "mad"}, "did you mean max"),
        ("mine.csv", "linear", {"windows": "one"}, "--windows must be a number"),
        ("mine.csv", "linear", {"windows": 1, "seconds": 1}, "leave --seconds out"),
        ("mine.csv", "fewshot,hear", {"windows": 1}, "fewshot does not score recordings"),
        ("demo", "linear", {"windows": 1}, "--windows is for CSV tasks"),
    ],
)
def test_windows_that_mean_nothing_are_refused(task, protocols, given, said):
    with pytest.raises(UserError, match=said):
        plan.make_jobs("logmel", task, protocols, given)


def test_a_plan_file(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(
        "models:\n  - logmel\n  - {name: whisper, weights: random}\n"
        "tasks: [demo]\nprotocols: [knn]\nseconds: 2\n"
    )
    what, options = plan.read_plan(path)
    jobs = plan.make_jobs(what["models"], what["tasks"], what["protocols"], options)
    assert [(job.model, dict(job.options)) for job in jobs] == [
        ("logmel", {}),
        ("whisper", {"weights": "random"}),
    ]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("models: [a]", "`tasks`"),
        ("[1, 2]", "`models`"),
        ("models: [1]\ntasks: demo", "`models`"),
        ("models: a\ntasks: []", "`tasks`"),
    ],
)
def test_what_is_no_plan_is_refused(content, word, tmp_path):
    (tmp_path / "plan.yaml").write_text(content)
    with pytest.raises(UserError, match=word):
        plan.read_plan(tmp_path / "plan.yaml")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("logmell", "demo", "linear", {}), "logmel"),
        (("nothing*", "demo", "linear", {}), "no model matches"),
        (("logmel", "dem0", "linear", {}), "demo"),
        (("logmel", "demo", "lineal", {}), "linear"),
        (("logmel", "demo", "linear", {"epoch": 3}), "epochs"),
    ],
)
def test_typing_errors_are_named(arguments, word):
    with pytest.raises(UserError, match=word):
        plan.make_jobs(*arguments)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--worker=2", "did you mean --workers"),
        ("--epocs=2", "did you mean --epochs"),
        ("--workers=0", "--workers must be a whole number of 1 or more, not 0"),
        ("--retries=-1", "--retries must be a whole number of 0 or more, not -1"),
        ("--engine=rai", "did you mean ray"),
        ("--partial=3", "--partial is a flag"),
    ],
)
def test_options_of_the_command_are_checked(option, said, command):
    ran = command("sweep", "logmel", "demo", "--dry_run", option)
    assert ran.code == 2
    assert said in ran.err


@pytest.mark.parametrize(
    ("model", "task", "protocol_", "options", "reason"),
    [
        ("logmel", "demo", "zeroshot", {}, "audio-only"),
        ("logmel", "demo", "retrieval", {}, "audio-only"),
        ("laion_clap", "demo", "retrieval", {}, "captions, no classes|does not score"),
        ("logmel", "esc50", "linear", {}, "not prepared"),
        ("beats_iter3", "demo", "linear", {}, "weights"),
        ("m2d", "demo", "linear", {"weights": "nowhere.pth"}, "nowhere.pth"),
        ("m2d", "demo", "linear", {"weights": "random"}, ""),
        ("logmel", "demo", "linear", {}, ""),
    ],
)
def test_jobs_that_cannot_run_say_why(model, task, protocol_, options, reason):
    (job,) = plan.make_jobs(model, task, protocol_, options)
    found = plan.blocked(job)
    assert any(r in found for r in reason.split("|")) if reason else found == ""


def test_what_was_understood_of_a_table_is_said_once(clips):
    lines = Path(clips.csv).read_text(encoding="utf-8").replace(",", ";")
    table = clips.root / "german.csv"
    table.write_text(lines, encoding="utf-8")
    jobs = plan.make_jobs("logmel", f"{clips.csv},{table}", "linear,knn", {})
    assert len(jobs) == 4
    (line,) = plan.understood(jobs)
    assert line.startswith(f"{table}: ")
    assert "semicolon" in line
    table.write_text("")
    assert plan.understood(jobs) == []  # the job says what is wrong
