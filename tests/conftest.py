"""What tests share: folders of their own, small generated sounds, command lines in-process."""

import csv
import gc
import os
import random
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

# Before torch is imported: nothing is looked for on the network, one thread a test process.
os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# Many tests start commands in processes of their own. Where bytecode is not kept, as in containers
# that say so, each of them compiles the whole package again, which takes a second or more.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

ADAPTER = """
import torch

from evar import Adapter


class Simple(Adapter):
    "Level, peak and zero crossings a second: enough to tell a low tone from a high one."

    sample_rate = 16000
    embed_dim = 3
    lr = 0.05

    def embed(self, audio):
        crossings = (audio[:, 1:].sign() != audio[:, :-1].sign()).float().mean(dim=1)
        return torch.stack([audio.square().mean(dim=1), audio.abs().amax(dim=1), crossings], 1)
"""


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    """No test reads or writes a folder of the person who runs it, or the current one."""
    for name in ("cache", "data", "weights"):
        monkeypatch.setenv(f"EVAR_{name.upper()}", str(tmp_path / name))
    monkeypatch.setenv("EVAR_RESULTS", "results")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _same_random_numbers():
    """Two runs of a test, in any order and process, draw the same numbers."""
    random.seed(0)
    np.random.seed(0)
    if torch := sys.modules.get("torch"):  # a test that needs none need not import it
        torch.manual_seed(0)


def pytest_collection_finish(session):
    """Has later searches for garbage leave out what imports and the collected tests have made."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def write_sound(path, *, hertz=440.0, seconds=0.2, rate=16000, seed=0, samples=None, **how):
    """Write a tone with a little noise, or given samples; returns the path.

    `how`: soundfile's `subtype` and `format`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if samples is None:
        time = np.arange(int(seconds * rate)) / rate
        noise = np.random.default_rng(seed).standard_normal(len(time))
        samples = 0.3 * np.sin(2 * np.pi * hertz * time) + 0.01 * noise
    soundfile.write(path, samples, rate, **how)
    return path


class Clips:
    """A folder of sounds and the CSV that lists them; `rows` is open to a test's mischief."""

    def __init__(self, root: Path, columns=("file", "label", "split")):
        self.root, self.columns, self.rows = root, list(columns), []

    def add(self, file, label, side, *more, **sound) -> Path:
        self.rows.append([file, label, side, *more])
        return write_sound(self.root / file, seed=len(self.rows), **sound)

    def listed(self, file: str) -> list:
        return next(row for row in self.rows if row[0] == file)

    @property
    def csv(self) -> str:
        """The path of the CSV, written anew from `rows`."""
        path = self.root / "sounds.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([self.columns, *self.rows])
        return str(path)


class Ran(NamedTuple):
    """How a command line ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def sound():
    return write_sound


@pytest.fixture
def new_clips(tmp_path):
    """A function for an empty folder of clips: `new_clips("folder", columns=...)`."""
    return lambda folder="sounds", **more: Clips(tmp_path / folder, **more)


@pytest.fixture
def clips(new_clips):
    """Low and high tones: 2 classes, 12 training, 4 validation and 8 test clips."""
    made = new_clips()
    for side, count in (("train", 6), ("valid", 2), ("test", 4)):
        for i in range(count):
            for label, hertz in (("low", 300), ("high", 3000)):
                made.add(f"{side}/{label}{i}.wav", label, side, hertz=hertz + 10 * i)
    return made


@pytest.fixture
def new_adapter(tmp_path):
    """A function that writes a user's adapter; returns MODEL as a command line takes it."""

    def write(source: str = ADAPTER, name: str = "Simple", file: str = "mine.py") -> str:
        path = tmp_path / file
        path.write_text(source)
        return f"{path}:{name}"

    return write


@pytest.fixture
def several_labels(new_clips):
    """Sixty clips of one to three tones each, a third of them for the test."""
    made, rng, time = new_clips(), np.random.default_rng(0), np.arange(3200) / 16000
    tones = {"low": 200, "middle": 1000, "high": 5000}
    for i in range(60):
        present = [name for name in tones if rng.random() < 0.5] or ["low"]
        samples = sum(0.2 * np.sin(2 * np.pi * tones[name] * time) for name in present)
        samples = samples + 0.001 * rng.standard_normal(3200)
        made.add(f"{i}.wav", ",".join(present), ("train", "train", "test")[i % 3], samples=samples)
    return made


@pytest.fixture
def simple(new_adapter):
    return new_adapter()


@pytest.fixture
def command(capsys):
    """A function that runs one command in this process: `command("prepare", TASK, ...)`."""
    from evar import cli

    def call(name: str, *arguments) -> Ran:
        capsys.readouterr()
        code = 0
        try:
            cli.run(name, [str(a) for a in arguments])
        except SystemExit as leaving:
            code = leaving.code
        return Ran(code, *capsys.readouterr())

    return call


@pytest.fixture
def lineareval(command):
    return lambda model, task, *options: command("lineareval", model, task, "--quiet", *options)


@pytest.fixture
def refused(tmp_path):
    """A function: exit code 2, one line that says all of `words`, nothing left behind."""

    def check(ran: Ran, *words: str) -> None:
        assert ran.code == 2, ran
        assert ran.err.startswith("error: "), ran.err
        assert ran.err.count("\n") == 1, f"not one line: {ran.err}"
        for word in words:
            assert word in ran.err, f"{word!r} not in: {ran.err}"
        assert not list(tmp_path.glob("results/runs/*")), "a refused run left results"
        hidden = [p for p in tmp_path.rglob(".*") if p.is_file() and p.suffix != ".lock"]
        assert not hidden, f"temporary files left: {hidden}"

    return check
