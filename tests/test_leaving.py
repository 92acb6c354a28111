"""A command's process leaves at once, with its exit code, its output and its last duties done."""

import subprocess
import sys
from pathlib import Path

import pytest

import evar

ROOT = Path(evar.__file__).resolve().parent.parent
BEGIN = "import sys; sys.argv[1:] = {arguments}; from evar import cli, leaving; "
SEEN = "import atexit; cli.run('list'); atexit.register(print, 'atexit'); "
# Freed by an ordinary end of the interpreter only.
FREED = "import os\nclass Last:\n def __del__(self): os.write(1, b'freed')\nkept = Last()\n"


def python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    code = FREED + BEGIN.format(arguments=list(arguments)) + code
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


def test_output_is_complete_and_functions_of_atexit_are_called():
    done = python(SEEN, "tasks")
    assert done.returncode == 0
    assert "demo" in done.stdout
    assert done.stdout.endswith("atexit\n")  # and nothing was freed after it


def test_the_exit_code_of_an_error_is_kept():
    done = python("cli.run('list')", "nothing")
    assert done.returncode == 2
    assert "freed" not in done.stdout
    assert done.stderr.startswith("error:")


def test_threads_are_waited_for():
    code = "import threading, time; cli.run('list'); "
    code += "threading.Thread(target=lambda: (time.sleep(0.3), print('thread'))).start()"
    done = python(code, "tasks")
    assert done.stdout.endswith("thread\n")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("cli.run('list'); raise ValueError('later')", 1),
        ("sys.modules['coverage'] = sys; cli.run('list')", 0),
    ],
)
def test_an_ordinary_end_where_something_else_decides(code, expected):
    done = python(code, "tasks")
    assert done.returncode == expected
    assert done.stdout.endswith("freed")


def test_a_function_call_does_not_end_the_process():
    done = python("cli.run('list', ['tasks']); print('goes on'); cli.main(['list', 'tasks'])")
    assert done.returncode == 0
    assert "goes on" in done.stdout
    assert done.stdout.endswith("freed")


def test_a_closed_pipe_is_no_failure():
    code = BEGIN.format(arguments=["models"]) + "cli.run('list')"
    piped = f'"{sys.executable}" -c "{code}" | head -1; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""
