"""From sound files to shards: sources, what is left out, going on after an interruption."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from evar import task
from evar.errors import UserError
from evar.pretrain import prepare as prepare_module
from evar.pretrain.prepare import prepare
from evar.pretrain.shards import ShardSet

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def tones(tmp_path, sound):
    for i in range(6):
        sound(tmp_path / f"in/{i}.wav", hertz=200 * (i + 1), rate=8000 + 8000 * (i % 2))
    return tmp_path / "in"


def made(source, out, **options) -> ShardSet:
    prepare(str(source), str(out), quiet=True, **{"workers": 1, **options})
    return ShardSet.open(out)


def rows(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_csv_brings_labels_and_captions(tones, tmp_path):
    table = 'file,label,caption,split\n0.wav,"dog,rain",a dog in the rain,train\n'
    table += '0.wav,"dog,rain",it rains on a dog,train\n1.wav,siren,,train\n2.wav,x,y,test\n'
    (tones / "clips.csv").write_text(table)
    assert made(tones / "clips.csv", tmp_path / "out").files == ["0.wav", "1.wav"]
    captions = [row["caption"] for row in rows(tmp_path / "out/captions.csv")]
    assert captions == ["a dog in the rain", "it rains on a dog"]
    labels = {row["file"]: row["labels"] for row in rows(tmp_path / "out/labels.csv")}
    assert labels == {"0.wav": "dog;rain", "1.wav": "siren"}
    assert len(made(tones / "clips.csv", tmp_path / "all", split="all")) == 3


@pytest.mark.parametrize("name", ["../outside.wav", "/etc/passwd", "C:\\a.wav", "a\0b.wav"])
def test_no_path_of_a_csv_leaves_its_folder(name, tones, tmp_path, sound):
    sound(tmp_path / "outside.wav")
    (tones / "clips.csv").write_text(f"file\n0.wav\n{name}\n")
    with pytest.raises(UserError, match="clips.csv.* line 3"):
        made(tones / "clips.csv", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_pipe_in_a_csv_is_refused_and_not_waited_for(tones, tmp_path):
    os.mkfifo(tones / "pipe.wav")
    (tones / "clips.csv").write_text("file\n0.wav\npipe.wav\n")
    with pytest.raises(UserError, match="'pipe.wav' is a pipe"):
        made(tones / "clips.csv", tmp_path / "out")


def test_labels_of_all_rows_of_a_file_count(tones, tmp_path):
    (tones / "clips.csv").write_text('file,label\n0.wav,dog\n0.wav,\n0.wav,"rain,dog"\n')
    made(tones / "clips.csv", tmp_path / "out")
    assert rows(tmp_path / "out/labels.csv") == [{"file": "0.wav", "labels": "dog;rain"}]


def test_texts_of_an_earlier_run_are_gone(tones, tmp_path):
    (tones / "clips.csv").write_text("file,label,caption\n0.wav,dog,a dog\n")
    made(tones / "clips.csv", tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").glob("*s.csv")} == {"captions.csv", "labels.csv"}
    made(tones, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*s.csv"))


def test_other_sounds_of_the_same_names_and_sizes_are_not_taken_for_these(tones, tmp_path, sound):
    before = made(tones, tmp_path / "out").read(0)
    for i in range(6):
        sound(tmp_path / f"other/{i}.wav", hertz=900 + i, rate=8000 + 8000 * (i % 2))
        assert (tmp_path / f"other/{i}.wav").stat().st_size == (tones / f"{i}.wav").stat().st_size
    assert not np.array_equal(made(tmp_path / "other", tmp_path / "out").read(0), before)


def test_a_task_brings_its_training_side_and_labels(tmp_path):
    out = made("demo", tmp_path / "out", per_shard=100)
    demo = task.get("demo")
    table = demo.read(demo.bundled)
    train = table[table.split == "train"]
    assert out.files == sorted(train.file)
    labels = {row["file"]: row["labels"] for row in rows(tmp_path / "out/labels.csv")}
    assert labels == dict(zip(train.file, train.label, strict=True))


def test_what_does_not_decode_is_named_and_left_out(tones, tmp_path, capsys):
    (tones / "3.wav").write_bytes(b"RIFF no sound")
    out = made(tones, tmp_path / "out")
    assert "3.wav" not in out.files
    assert len(out) == 5
    (skipped,) = rows(tmp_path / "out/skipped.csv")
    assert skipped["file"] == "3.wav"
    assert "not readable as sound" in skipped["reason"]
    assert "1 left out" in capsys.readouterr().out


def test_clips_are_cut_and_resampled(tones, tmp_path):
    out = made(tones, tmp_path / "out", seconds=0.15)
    assert {len(out.read(i)) for i in range(6)} == {2400}


def test_processes_make_the_same_bytes(tones, tmp_path):
    made(tones, tmp_path / "one", per_shard=2)
    made(tones, tmp_path / "two", per_shard=2, workers=2)
    for path in sorted((tmp_path / "one").glob("*.tar")):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_second_run_makes_what_is_missing_only(tones, tmp_path, capsys):
    made(tones, tmp_path / "out", per_shard=2)
    paths = sorted((tmp_path / "out").glob("*.tar"))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}
    paths[1].unlink()
    made(tones, tmp_path / "out", per_shard=2)
    assert "(3 shards, 2 were there)" in capsys.readouterr().out
    for path in paths:
        assert path.read_bytes() == before[path][1]
    assert paths[0].stat().st_mtime_ns == before[paths[0]][0]
    made(tones, tmp_path / "out", per_shard=3)
    assert len(list((tmp_path / "out").glob("*.tar"))) == 2, "shards of another plan are gone"


def test_killed_at_any_moment_it_goes_on(tmp_path, sound):
    for i in range(40):
        sound(tmp_path / f"in/{i:02d}.wav", seconds=2, hertz=100 + i)
    made(tmp_path / "in", tmp_path / "whole", per_shard=4)
    command = [
        sys.executable,
        "-m",
        "pretrain.prepare",
        str(tmp_path / "in"),
        str(tmp_path / "cut"),
    ]
    command += ["--per_shard=4", "--workers=1", "--quiet"]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    while process.poll() is None and not list((tmp_path / "cut").glob("*.json")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    with pytest.raises(UserError):
        ShardSet.open(tmp_path / "cut")
    made(tmp_path / "in", tmp_path / "cut", per_shard=4)
    whole = sorted((tmp_path / "whole").iterdir())
    assert [p.name for p in whole] == sorted(p.name for p in (tmp_path / "cut").iterdir())
    for path in whole:
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes()


def test_a_change_of_plan_that_is_interrupted_leaves_no_mixture(tones, tmp_path, monkeypatch):
    made(tones, tmp_path / "out", per_shard=2)
    whole, count = prepare_module.make, []

    def interrupted(plan):
        if count:
            raise KeyboardInterrupt
        count.append(plan)
        whole(plan)

    monkeypatch.setattr("evar.pretrain.prepare.make", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(tones, tmp_path / "out", per_shard=2, seconds=0.15)
    with pytest.raises(UserError, match="again to resume it"):
        ShardSet.open(tmp_path / "out")
    monkeypatch.undo()
    again = made(tones, tmp_path / "out", per_shard=2, seconds=0.15)
    assert {len(again.read(i)) for i in range(6)} == {2400}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_workers_end_with_the_process_that_was_killed(tmp_path, sound):
    for i in range(40):
        sound(tmp_path / f"in/{i:02d}.wav", seconds=5, hertz=100 + i)
    command = [sys.executable, "-m", "pretrain.prepare", str(tmp_path / "in")]
    command += [str(tmp_path / "out"), "--per_shard=1", "--workers=2", "--quiet"]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    while process.poll() is None and not list((tmp_path / "out").glob("*.json")):
        time.sleep(0.002)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    assert len(children) > 1
    for _ in range(500):
        if not any(_running(child) for child in children):
            return
        time.sleep(0.02)
    pytest.fail("workers live on")


def _running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_file_name_that_no_table_can_hold_is_named(tones, tmp_path):
    try:
        Path(os.fsdecode(os.fsencode(tones) + b"/\xff.wav")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system has Unicode names only")
    with pytest.raises(UserError, match="udcff.wav' is not UTF-8; rename it"):
        made(tones, tmp_path / "out")


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("nothing", {}, "nothing: no such folder, CSV or task"),
        ("empty", {}, "no sound files there"),
        ("in", {"kind": "wav"}, "unknown kind"),
        ("in", {"seconds": 0}, "--seconds"),
        ("in", {"per_shard": 0}, "--per_shard"),
        ("demo", {"split": "dev"}, "train, valid, all"),
        ("absent.csv", {}, "absent.csv"),
    ],
)
def test_mistakes_are_named(source, options, words, tones, tmp_path):
    (tmp_path / "empty").mkdir()
    source = tmp_path / source if (tmp_path / source).exists() else source
    with pytest.raises(UserError) as caught:
        made(source, tmp_path / "out", **options)
    assert all(word.strip() in str(caught.value) for word in words.split(", "))
