"""Command lines: quick to explain themselves, strict about their arguments."""

import inspect
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import evar
from evar import cli, task
from evar.commands import evaluate

ROOT = Path(evar.__file__).resolve().parent.parent
HEAVY = ["torch", "numpy", "pandas", "scipy", "sklearn", "soundfile", "timm", "transformers"]


def cpu_seconds_of(*arguments, **more) -> tuple[float, str]:
    """CPU time of a Python process of its own, whoever else is busy here; and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, **more
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, done.stdout


def test_help_answers_in_under_a_second(tmp_path):
    used, out = cpu_seconds_of(ROOT / "lineareval.py", "--help", cwd=tmp_path)
    assert "--seeds=3" in out
    assert used < 1


def test_every_help_leaves_heavy_imports_alone():
    code = (
        "import sys; from evar import cli; cli.main(['--help'])\n"
        "for name in cli.commands(): cli.run(name, ['--help'])\n"
        f"print('heavy:', [m for m in {HEAVY} if m in sys.modules])"
    )
    _, out = cpu_seconds_of("-c", code)
    assert out.endswith("heavy: []\n")
    for name in cli.commands():
        assert f"\n  {name} " in out


@pytest.mark.parametrize("name", sorted(cli.commands()))
def test_help_names_every_option_and_no_other(name):
    function = cli._function(name)
    options = {
        p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY
    }
    said = set(re.findall(r"^\s*--(\w+)", inspect.getdoc(function), re.MULTILINE)) - {"NAME"}
    assert said == options


@pytest.mark.parametrize(
    "script", ["prepare", "leaderboard", "lineareval", "finetune", "zeroshot", "retrieval"]
)
def test_root_scripts_are_the_commands(script):
    assert f'run("{script}")' in (ROOT / f"{script}.py").read_text()
    assert len((ROOT / f"{script}.py").read_text().splitlines()) < 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["logmle", "demo"], ["unknown model 'logmle'", "logmel"]),
        (["logmel", "dmeo"], ["unknown task 'dmeo'", "demo"]),
        (["logmel", "demo", "--sedes=1"], ["--sedes", "--seeds"]),
        (["logmel", "demo", "--no_cahce"], ["--no_cahce", "--no_cache"]),
        (["logmel", "demo", "--nocache"], ["--nocache", "--no_cache"]),
        (["logmel", "demo", "--oops"], ["--oops"]),
        (["logmel", "demo", "-x"], ["unknown option", "-x"]),
        (["logmel"], ["lineareval needs MODEL TASK", "--help"]),
        ([], ["lineareval needs MODEL TASK", "--help"]),
        (["logmel", "demo", "esc50"], ["2 words at most"]),
        (["logmel", "no.csv"], ["no.csv", "no such file"]),
        (["logmel", "esc50"], ["esc50", "not prepared", "prepare.py esc50 --source=DIR"]),
        (["logmel", "demo", "--weights=x.pt"], ["logmel", "no weights"]),
        (["logmel", "demo", "--seconds=3"], ["--seconds", "CSV"]),
    ],
)
def test_a_wrong_name_is_one_line_with_what_is_close(arguments, words, command, refused):
    refused(command("lineareval", *arguments), *words)


@pytest.mark.parametrize(
    "words", [["list", "models"], ["cache", "ls"], ["prepare", "demo"], ["leaderboard"]]
)
@pytest.mark.parametrize("option", ["--oops", "--oops=1", "--noops", "-o"])
def test_every_command_refuses_unknown_options(words, option, command, refused):
    refused(command(*words, option), option.partition("=")[0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list", "modles"], ["'modles'", "models"]),
        (["list"], ["needs WHAT"]),
        (["cache", "rmm"], ["'rmm'", "rm"]),
        (["cache", "rm", "abc"], ["'abc'", "cache ls"]),
        (["cache", "rm"], ["KEY"]),
        (["cache", "rm", ""], ["KEY"]),
        (["prepare", "dmeo"], ["'dmeo'", "demo"]),
        (["prepare", "esc50", "--source=gone"], ["gone", "no such folder"]),
    ],
)
def test_other_commands_name_the_mistake(arguments, words, command, refused):
    refused(command(*arguments), *words)


def test_an_unknown_command(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["linearevla"])
    assert left.value.code == 2
    assert "did you mean lineareval" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    [
        "--seeds=0",
        "--seeds=-1",
        "--seeds=2.5",
        "--seeds=many",
        "--seeds=()",
        "--seeds=42,42",
        "--seeds=42,-1",
        "--seeds",
        "--lr=0",
        "--lr=-1e-3",
        "--lr=fast",
        "--lr=inf",
        "--lr=1e999",
        "--lr=True",
        "--hidden=0",
        "--hidden=wide",
        "--hidden=(512,0)",
        "--hidden=2.5",
        "--epochs=0",
        "--epochs=ten",
        "--batch_size=0",
        "--batch_size=all",
        "--seconds=0",
        "--seconds=long",
        "--seconds=1e-9",
        "--seconds=1e999",
        "--precision=fp8",
        "--device=abacus",
        "--skip_bad=false",
        "--partial=no",
        "--no_cache=0.5",
        "--results",
    ],
)
def test_a_wrong_value_is_named(option, clips, simple, lineareval, refused):
    refused(lineareval(simple, clips.csv, option), option.partition("=")[0].lstrip("-"))


@pytest.mark.parametrize("flags", [["--skip_bad"], ["--no_cache", "--partial"], ["--no-cache"]])
def test_a_flag_does_not_swallow_the_words_after_it(flags, clips, simple, command):
    ran = command("lineareval", "--quiet", *flags, simple, clips.csv, "--seeds", "2")
    assert ran.code == 0, ran.err
    assert "± over 2 seeds" in ran.out


def test_adapter_options_are_known_by_name(clips, new_adapter, lineareval, refused):
    model = new_adapter(
        "from evar import Adapter\n\n\nclass Tuned(Adapter):\n"
        "    sample_rate, embed_dim = 16000, 1\n\n"
        "    def __init__(self, layers: int = 3):\n        super().__init__()\n",
        "Tuned",
    )
    refused(lineareval(model, clips.csv, "--layer=2"), "--layer", "--layers")


def test_lists_models_and_tasks(command):
    models = command("list", "models").out.split()
    assert "logmel" in models
    assert not [name for name in models if name.startswith("_")]
    tasks = command("list", "tasks").out
    assert re.search(r"^esc50 +2,000 +50 .*accuracy", tasks, re.MULTILINE)


def test_cache_is_listed_and_removed(clips, simple, lineareval, command, tmp_path):
    lineareval(simple, clips.csv)
    listed = command("cache", "ls").out
    key = listed.split()[0]
    assert "Simple" in listed
    assert "1 keys" in listed
    assert command("cache", "rm", key).code == 0
    assert command("cache", "ls").out.startswith("0 keys")
    assert os.listdir(tmp_path / "cache") == []  # noqa: PTH208


def test_the_package_names_its_two_imports():
    assert evar.Adapter.__name__ == "Adapter"
    assert evar.Task.__name__ == "Task"
    with pytest.raises(AttributeError, match="Adaptor"):
        evar.Adaptor  # noqa: B018


def test_python_m_evar_is_the_console_command():
    command = [sys.executable, "-m", "evar", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == evar.__version__


@pytest.mark.parametrize(
    ("started", "folder", "expected"),
    [
        ("lineareval.py", "results", "python leaderboard.py; python report.py abc"),
        ("a b/lineareval.py", "results", "python 'a b/leaderboard.py'; python 'a b/report.py' abc"),
        ("x/mine.py", "results", "python -m evar leaderboard; python -m evar report abc"),
        ("/bin/evar", "a b", "evar leaderboard --results='a b'; evar report abc --results='a b'"),
        ("/x/evar/__main__.py", "results", "python -m evar leaderboard; python -m evar report abc"),
    ],
)
def test_the_hint_after_a_run_can_be_typed_as_it_stands(
    started, folder, expected, monkeypatch, tmp_path
):
    for scripts in (tmp_path, tmp_path / "a b"):  # the current folder, and another
        scripts.mkdir(exist_ok=True)
        for name in ("leaderboard.py", "report.py"):
            (scripts / name).touch()
    monkeypatch.setattr(sys, "argv", [started])
    assert evaluate._as_pages("abc", folder) == f"as pages: {expected}"


def spoken(code: str, **environment) -> subprocess.CompletedProcess:
    """How a small command ends whose body is `code`."""
    source = f"from evar import cli\ndef f():\n    'Does it.'\n    {code}\ncli.call('f', f)\n"
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", source, *environment.pop("words", ())]
    return subprocess.run(command, env=surroundings, capture_output=True)


def test_what_was_not_foreseen_is_one_line(capsys):
    def command():
        """Fails."""
        raise KeyError("wanted")

    with pytest.raises(SystemExit) as leaving:
        cli.call("command", command, [])
    assert leaving.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: KeyError: 'wanted' (")
    assert said.endswith("--debug shows the traceback\n")
    assert said.count("\n") == 1
    with pytest.raises(KeyError):
        cli.call("command", command, ["--debug"])


def test_a_terminal_without_the_signs_shows_others():
    ran = spoken("print('49.3 ± 0.0 % é')", PYTHONIOENCODING="ascii")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"49.3 +/- 0.0 % \\xe9\n", b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("words", [["--version"], ["--help"], ["list", "protocols"]])
def test_a_full_standard_output_is_one_line(words):
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "evar", *words], cwd=ROOT, stdout=full, stderr=subprocess.PIPE
        )
    assert ran.returncode == 1
    assert ran.stderr == b"error: cannot write (No space left on device). Free some space.\n"


@pytest.mark.skipif(not Path("/bin/sh").exists(), reason="no shell on this system")
def test_a_closed_standard_output_is_no_failure():
    command = f"exec {sys.executable} -m evar list protocols >&-"
    ran = subprocess.run(["/bin/sh", "-c", command], cwd=ROOT, stderr=subprocess.PIPE)
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_names_that_are_no_utf_8_or_hold_nul_are_refused(command, refused):
    for name in ("log\udcffmel", "a\udcff.csv", "a\0.csv", "a\0.py:Mine"):
        refused(command("lineareval", name, "demo"))
        refused(command("lineareval", "logmel", name))


def test_torchrun_does_not_score_a_frozen_encoder_twice(command, refused, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(command("lineareval", "logmel", "demo"), "runs in one process")


def test_a_device_that_is_not_there_is_named(command, refused, monkeypatch):
    monkeypatch.setattr("torch.zeros", lambda *_, **how: (_ for _ in ()).throw(RuntimeError("no")))
    refused(command("lineareval", "logmel", "demo", "--device=mps"), "--device=mps: not usable")


def test_a_models_options_are_shown_with_their_values(command):
    for words in (["list", "models", "byola"], ["lineareval", "byola", "--help"]):
        shown = command(*words).out
        assert "version" in shown
        assert "2048" in shown


@pytest.mark.parametrize("name", ["lineareval", "zeroshot", "embed", "check", "sweep"])
def test_help_names_models_of_other_libraries(name, command):
    shown = command(name, "--help").out
    assert "hf:" in shown
    assert "hear:" in shown


def test_results_of_ones_own_recordings_lie_beside_their_table(command, tmp_path, monkeypatch):
    demo = task.get("demo")
    table = demo.read(demo.bundled).groupby(["split", "label"]).head(2)
    (tmp_path / "birds").mkdir()
    for file in table.file:
        (tmp_path / "birds" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(demo.bundled / file, tmp_path / "birds" / file)
    table.to_csv(tmp_path / "birds/birds.csv", index=False, columns=["file", "label", "split"])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.delenv("EVAR_RESULTS")
    ran = command("lineareval", "logmel", "../birds/birds.csv", "--seeds=1", "--quiet")
    assert ran.code == 0, ran.err
    assert not list(Path().iterdir())
    assert (tmp_path / "birds/results/leaderboard.md").is_file()
    for name in ("report", "predict"):
        more = ["../birds/audio"] if name == "predict" else []
        ran = command(name, "logmel", "../birds/birds.csv", *more)
        assert ran.code == 0, ran.err
    assert not list(Path().iterdir())
