"""Whatever a user gets wrong: file, reason and remedy in one line, exit code 2, nothing left."""

import errno
import importlib
import json
import os
import pickle
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from evar import files

# --- files that are no sound, or no usable one


def corrupt_header(path):
    path.write_bytes(b"RIFF" + bytes(range(200)))


def truncated(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("this is not sound\n" * 50)


def folder(path):
    path.unlink()
    path.mkdir()


FILES = {  # name: (file, how it is made, keyword arguments of the sound, what the message says)
    "corrupt header": ("bad.wav", corrupt_header, {}, "not readable as sound"),
    "truncated WAV": ("bad.wav", truncated, {}, "truncated"),
    "truncated FLAC": ("bad.flac", truncated, {"seconds": 2}, "lost sync"),
    "truncated MP3": ("bad.mp3", truncated, {"seconds": 2}, "truncated"),
    "truncated OGG": ("bad.ogg", truncated, {"seconds": 2}, "truncated"),
    "zero length": ("bad.wav", empty, {}, "empty file"),
    "silence": ("bad.wav", None, {"samples": np.zeros(3200)}, "silent"),
    "NaN": ("bad.wav", None, {"samples": np.full(3200, np.nan), "subtype": "FLOAT"}, "NaN"),
    "infinity": ("bad.wav", None, {"samples": np.full(99, np.inf), "subtype": "DOUBLE"}, "inf"),
    "no samples": ("bad.wav", None, {"samples": np.zeros(0)}, "no samples"),
    "one sample": ("bad.wav", None, {"samples": np.ones(1)}, "single sample"),
    "text as .wav": ("bad.wav", text, {}, "not readable as sound"),
    "headerless .raw": ("bad.raw", text, {"format": "RAW", "subtype": "PCM_16"}, "not readable"),
    "a folder": ("bad.wav", folder, {}, "not "),
}


@pytest.fixture(params=FILES)
def with_bad_clip(request, clips):
    """Two classes of good clips and one test clip that cannot be used."""
    name, spoil, how, reason = FILES[request.param]
    path = clips.add(name, "low", "test", **how)
    if spoil:
        spoil(path)
    return clips, path, reason


def test_bad_clip_stops_the_run_or_is_counted_everywhere(
    with_bad_clip, simple, lineareval, refused, tmp_path
):
    clips, path, reason = with_bad_clip
    csv = clips.csv
    refused(lineareval(simple, csv), str(path), reason, "--skip_bad")

    ran = lineareval(simple, csv, "--skip_bad")
    assert ran.code == 0, ran.err
    said = "1 bad clip skipped"
    assert said in ran.out.splitlines()[-1]
    record = json.loads(next(tmp_path.glob("results/runs/*.json")).read_text())
    assert [s["clip"] for s in record["clips"]["skipped"]] == [path.name]
    assert reason in record["clips"]["skipped"][0]["why"]
    assert record["clips"]["test"] == 8
    for table in ("scores.csv", "leaderboard.csv", "leaderboard.md"):
        assert said in (tmp_path / "results" / table).read_text(), table


def test_a_bad_clip_noticed_while_skipping_still_stops_the_next_run(
    clips, simple, lineareval, command
):
    clips.add("bad.wav", "low", "test", samples=np.zeros(3200))
    assert lineareval(simple, clips.csv, "--skip_bad").code == 0
    ran = lineareval(simple, clips.csv)  # its embeddings are in the cache by now
    assert ran.code == 2
    assert "bad.wav" in ran.err


def test_skipping_never_leaves_a_class_or_a_side_without_clips(clips, simple, lineareval, refused):
    for row in clips.rows:
        if row[2] == "train" and row[1] == "low":
            (clips.root / row[0]).write_bytes(b"")
    refused(lineareval(simple, clips.csv, "--skip_bad"), "'low'", "training clip")


def test_skipping_every_training_clip_is_refused(clips, sound, lineareval, refused):
    for row in clips.rows:
        if row[2] == "train":
            sound(clips.root / row[0], samples=np.zeros(3200))
    refused(lineareval("logmel", clips.csv, "--skip_bad"), "train")


def test_prepare_names_every_bad_and_missing_file(clips, command):
    (clips.root / "test/low0.wav").write_bytes(b"")
    (clips.root / "test/low1.wav").unlink()
    ran = command("prepare", clips.csv, "--quiet")
    assert ran.code == 0
    assert "unreadable: test/low0.wav: an empty file" in ran.out
    assert "missing: test/low1.wav" in ran.out
    assert "NOT COMPLETE: 23 of 24 clips" in ran.out


# --- tables


def test_missing_file_stops_the_run_or_is_counted_everywhere(
    clips, simple, lineareval, refused, tmp_path
):
    (clips.root / "test/low0.wav").unlink()
    refused(lineareval(simple, clips.csv), "test/low0.wav", "23 of 24 clips", "--partial")

    ran = lineareval(simple, clips.csv, "--partial")
    assert ran.code == 0, ran.err
    said = "partial: 23 of 24 clips"
    assert said in ran.out.splitlines()[-1]
    record = json.loads(next(tmp_path.glob("results/runs/*.json")).read_text())
    assert record["clips"]["partial"] == "23 of 24 clips"
    assert record["clips"]["test"] == 7
    for table in ("scores.csv", "leaderboard.csv", "leaderboard.md"):
        assert said in (tmp_path / "results" / table).read_text(), table


@pytest.mark.parametrize(
    "outside", ["../../etc/passwd", "/etc/passwd", "a/../../b.wav", "..\\b.wav", "C:\\b.wav"]
)
def test_files_outside_the_folder(outside, clips, simple, lineareval, refused):
    clips.rows.append([outside, "low", "test"])
    refused(
        lineareval(simple, clips.csv), clips.csv, outside, "must lie inside the data set's folder"
    )


def test_the_same_row_twice(clips, simple, lineareval, refused):
    clips.rows.append(clips.rows[0])
    refused(lineareval(simple, clips.csv), clips.csv, clips.rows[0][0], "more than once")


def test_the_same_file_under_two_spellings(clips, simple, lineareval, refused):
    clips.rows.append(["./test/low0.wav", "low", "test"])
    refused(lineareval(simple, clips.csv), clips.csv, "test/low0.wav", "more than once")


def test_the_same_sound_in_train_and_test(clips, simple, lineareval, refused):
    shutil.copy(clips.root / "train/low0.wav", clips.root / "copy.wav")
    clips.rows.append(["copy.wav", "low", "test"])
    refused(lineareval(simple, clips.csv), "copy.wav", "train/low0.wav", "Remove one")


def test_clips_that_differ_only_between_their_silences_are_not_the_same(
    clips, sound, simple, lineareval
):
    """Equal length, and silence at the beginning, in the middle and at the end."""
    for number, side in enumerate(("train", "test")):
        samples = np.zeros(64000)
        samples[12000:14000] = np.random.default_rng(number).uniform(-0.5, 0.5, 2000)
        clips.add(f"sparse{number}.wav", "low", side, samples=samples)
    ran = lineareval(simple, clips.csv)
    assert ran.code == 0, ran.err


def test_a_group_on_both_sides(clips, simple, lineareval, refused):
    clips.columns.append("group")
    for row in clips.rows:
        row.append("one singer" if row[0] in ("train/low0.wav", "test/low0.wav") else row[0])
    refused(lineareval(simple, clips.csv), clips.csv, "one singer", "both sides", "Correct")


def test_a_class_that_training_lacks(clips, simple, lineareval, refused):
    clips.listed("test/low0.wav")[1] = "middle"
    refused(lineareval(simple, clips.csv), "sounds", "'middle'", "training clip")


@pytest.mark.parametrize("side", ["train", "test"])
def test_an_empty_side(side, clips, simple, lineareval, refused):
    clips.rows = [row for row in clips.rows if row[2] != side]
    there = "test 8, valid 4" if side == "train" else "train 12, valid 4"
    refused(lineareval(simple, clips.csv), clips.csv, f"split {side!r} (there are: {there})")


def test_one_class_only_is_no_question(clips, simple, lineareval, refused):
    clips.rows = [row for row in clips.rows if row[1] == "low"]
    refused(lineareval(simple, clips.csv), "class", "'low'", "nothing to tell apart")


def test_multi_label_test_clips_without_a_trained_class(clips, simple, lineareval, refused):
    for row in clips.rows:
        row[1] = "never,trained" if row[2] == "test" else row[1]
    refused(lineareval(simple, clips.csv), "sounds", "train")


def test_a_label_with_a_comma_in_a_single_label_task(command, tmp_path, refused, sound):
    meta = tmp_path / "esc/meta/esc50.csv"
    meta.parent.mkdir(parents=True)
    meta.write_text('filename,fold,category,src_file\na.wav,1,"dog,cat",1\n')
    ran = command("prepare", "esc50", f"--source={tmp_path / 'esc'}", "--quiet")
    refused(ran, "audio/a.wav", "comma in its label", "Correct")


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_an_empty_cell(empty, clips, simple, lineareval, refused):
    clips.listed("test/low0.wav")[empty] = " "
    refused(lineareval(simple, clips.csv), clips.csv)


def test_unicode_and_spaces_in_names(new_clips, simple, lineareval, tmp_path):
    made = new_clips("Größe und Klang 音")
    for side in ("train", "test"):
        for i in range(4):
            for label, hertz in (("tief é", 300), ("高い", 3000)):
                made.add(f"{side} 🎵/{label} {i}'.wav", label, side, hertz=hertz)
    ran = lineareval(simple, made.csv)
    assert ran.code == 0, ran.err
    assert "高い" in next(tmp_path.glob("results/runs/*.json")).read_text(encoding="utf-8")


# --- folders and disks


@pytest.mark.parametrize("place", ["cache", "results", "data"])
def test_an_unwritable_folder(place, clips, simple, lineareval, refused, tmp_path, monkeypatch):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, where a folder should be")
    if place == "data":  # a folder that is named as an option must be there
        monkeypatch.setenv("EVAR_DATA", str(blocked / "here"))
        ran = lineareval(simple, clips.csv)
    else:
        ran = lineareval(simple, clips.csv, f"--{place}={blocked / 'here'}")
    refused(ran, str(blocked), "cannot write", f"--{place}")
    assert blocked.is_file()


@pytest.mark.parametrize("call", ["fsync", "fdopen"])
@pytest.mark.parametrize(
    "victim",
    ["manifests/.*csv$", "manifests/.*json$", "cache/.*safetensors$", "runs/.*gz$", "runs/.*json$"],
)
def test_a_full_disk(call, victim, clips, simple, lineareval, refused, monkeypatch):
    """Wherever the disk runs full: a message, and not a part of a result."""
    real_write, real_call, current = files.write_atomic, getattr(os, call), []

    def full(*arguments, **more):
        if re.search(victim, current[-1]):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_call(*arguments, **more)

    def write(path, content):
        current.append(str(path))
        real_write(path, content)

    monkeypatch.setattr(files, "write_atomic", write)
    monkeypatch.setattr(os, call, full)
    refused(lineareval(simple, clips.csv), "No space left", "Free some space")


# --- adapters

ADAPTERS = {
    "NaN": ("return torch.full((len(audio), 3), torch.nan)", ("not finite", "evar.check", ".wav:")),
    "sparse": ("return torch.zeros(len(audio), 3).to_sparse()", ("sparse tensor", "evar.check")),
    "meta": ("return torch.zeros(len(audio), 3, device='meta')", ("meta tensor", "evar.check")),
    "leaves": ("import sys; sys.exit()", ("sys.exit(None)",)),
    "shape": ("return torch.zeros(len(audio), 4)", ("shape", "(16, 4)", "(16, 3)", "evar.check")),
    "frames": ("return torch.zeros(len(audio), 5, 3)", ("shape", "(16, 5, 3)", "evar.check")),
    "dtype": ("return torch.zeros(len(audio), 3).double()", ("float64", "float32", "evar.check")),
    "array": ("return audio[:, :3].numpy()", ("ndarray", "not a tensor", "evar.check")),
    "None": ("return None", ("NoneType", "not a tensor")),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_that_gives_something_else(kind, clips, new_adapter, lineareval, refused):
    body, words = ADAPTERS[kind]
    source = (
        "import torch\nfrom evar import Adapter\n\n\nclass Wrong(Adapter):\n"
        f"    sample_rate, embed_dim = 16000, 3\n\n    def embed(self, audio):\n        {body}\n"
    )
    refused(lineareval(new_adapter(source, "Wrong"), clips.csv), "Wrong.embed", *words)


SOURCES = {
    "no sample_rate": ("class Wrong(Adapter):\n    embed_dim = 3", "`sample_rate`"),
    "no embed_dim": ("class Wrong(Adapter):\n    sample_rate = 16000", "`embed_dim`"),
    "a rate of 0": ("class Wrong(Adapter):\n    sample_rate, embed_dim = 0, 3", "`sample_rate`"),
    "a rate in words": ("class Wrong(Adapter):\n    sample_rate = '16k'", "`sample_rate`"),
    "raises at import": ("raise RuntimeError('no licence')", "RuntimeError: no licence"),
    "leaves at import": ("import sys\nsys.exit(0)", "SystemExit"),
    "does not parse": ("class Wrong(Adapter:\n", "SyntaxError"),
    "misses a module": ("import nowhere_to_be_found", "nowhere_to_be_found"),
    "no such class": ("class Wrongly(Adapter):\n    pass", "Wrongly"),
    "not an adapter": ("class Wrong:\n    pass", "subclass of evar.Adapter"),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_file_that_is_no_adapter(kind, clips, new_adapter, lineareval, refused):
    source, reason = SOURCES[kind]
    model = new_adapter(f"from evar import Adapter\n{source}\n", "Wrong")
    refused(lineareval(model, clips.csv), model.rpartition(":")[0], reason)


def test_the_clip_is_named_whose_embedding_is_not_finite(clips, new_adapter, lineareval, refused):
    """A loud clip in the middle of a batch, on which an encoder overflows."""
    clips.add("train/loud.wav", "low", "train", samples=np.full(3200, 900.0), subtype="FLOAT")
    source = (
        "import torch\nfrom evar import Adapter\n\n\nclass Wrong(Adapter):\n"
        "    sample_rate, embed_dim = 16000, 3\n\n    def embed(self, audio):\n"
        "        return (10 * audio[:, :3].abs()).exp()\n"
    )
    refused(lineareval(new_adapter(source, "Wrong"), clips.csv), "train/loud.wav: Wrong.embed")


def test_a_tensor_with_gradient_is_taken(clips, new_adapter, lineareval):
    source = (
        "import torch\nfrom evar import Adapter\n\n\nclass Fine(Adapter):\n"
        "    sample_rate, embed_dim = 16000, 3\n\n    def embed(self, audio):\n"
        "        with torch.inference_mode(False), torch.enable_grad():\n"
        "            return audio.clone()[:, :3] * torch.ones(3, requires_grad=True)\n"
    )
    assert lineareval(new_adapter(source, "Fine"), clips.csv).code == 0


# --- surroundings


def test_a_user_without_a_home_folder_names_one(clips, simple, command, monkeypatch, refused):
    """A user id without passwd entry and no $HOME, as containers have it."""

    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    for name in ("EVAR_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pathlib.Path.home", nowhere)
    refused(command("lineareval", simple, clips.csv, "--quiet"), "--cache=DIR", "--no_cache")
    ran = command("lineareval", simple, clips.csv, "--quiet", "--cache=kept")
    assert ran.code == 0, ran.err


TASK_FILE = """
from pathlib import Path

from evar.task import Task

TASK = Task(
    name="fine", version="1", title="Fine", read=lambda root: None, marker="x", seconds=1.0
)
"""


@pytest.mark.parametrize("content", ["TASK = 1 / 0\n", "TASK = Task(\n", "raise SystemExit\n"])
def test_a_faulty_file_is_named_and_the_others_go_on(content, command, tmp_path, monkeypatch):
    import evar.tasks

    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "broken_file.py").write_text(content)
    (folder / "fine.py").write_text(TASK_FILE)
    monkeypatch.setattr(evar.tasks, "__path__", [str(folder)])
    importlib.invalidate_caches()
    for words in (["list", "tasks"], ["list", "tasks", "--json"], ["prepare", "all", "--source=."]):
        ran = command(*words)
        assert ran.code == 0, ran.err
        (named,) = (line for line in ran.out.splitlines() if "broken_file.py" in line)
        assert "cannot be imported" in named
        assert any("fine" in line and "broken" not in line for line in ran.out.splitlines())
    for name in ("broken_file", "fine"):
        sys.modules.pop(f"evar.tasks.{name}", None)


def test_a_faulty_model_file_is_named(command, tmp_path, monkeypatch, refused):
    import evar.model_adapters

    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "broken_model.py").write_text("import nowhere_to_be_found\n")
    monkeypatch.setattr(evar.model_adapters, "__path__", [str(folder)])
    importlib.invalidate_caches()
    ran = command("list", "models")
    assert ran.code == 0, ran.err
    assert "broken_model" in ran.out
    refused(command("lineareval", "broken_model", "demo"), "broken_model.py", "nowhere_to_be")


def test_what_is_not_prepared_names_the_download(command, refused):
    refused(command("lineareval", "logmel", "esc50"), "--source=DIR", "--download")


def test_no_such_adapter_file(clips, lineareval, refused):
    refused(lineareval("nowhere/mine.py:Mine", clips.csv), "nowhere/mine.py", "no such file")


# --- weights

WEIGHTED = """
import torch
from evar import Adapter
from evar.weights import load_checkpoint, load_strict


class Weighted(Adapter):
    sample_rate, embed_dim = 16000, 3

    def __init__(self, weights=None):
        super().__init__(weights)
        self.net = torch.nn.Linear(1, 3)
        if weights:
            load_strict(self.net, load_checkpoint(weights), weights)

    def embed(self, audio):
        return self.net(audio.abs().mean(dim=1, keepdim=True))
"""


class Evil:
    """What a malicious checkpoint holds: unpickling it makes a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (Path(self.target),)


def _pickled(path, evil):
    path.write_bytes(pickle.dumps({"weight": evil}, protocol=2))


def _saved(path, evil):
    torch.save({"weight": torch.zeros(3, 1), "extra": evil}, path)


@pytest.mark.parametrize("model", ["mine", "byola"])
@pytest.mark.parametrize("write", [_pickled, _saved])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_malicious_pickle_is_never_run(
    write, suffix, model, clips, new_adapter, lineareval, refused, tmp_path
):
    weights, harm = tmp_path / f"evil{suffix}", tmp_path / "harm done"
    write(weights, Evil(harm))
    pickle.loads(pickle.dumps(Evil(tmp_path / "it works")))
    assert (tmp_path / "it works").exists()
    model = new_adapter(WEIGHTED, "Weighted") if model == "mine" else model
    reason = "refused" if suffix == ".pt" else "not a readable checkpoint"
    refused(lineareval(model, clips.csv, f"--weights={weights}"), str(weights), reason, "convert")
    assert not harm.exists()


def test_weights_of_another_model(clips, new_adapter, lineareval, refused, tmp_path):
    weights = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(3, 7), "conv.weight": torch.zeros(2)}, weights)
    ran = lineareval(new_adapter(WEIGHTED, "Weighted"), clips.csv, f"--weights={weights}")
    refused(ran, str(weights), "bias", "conv.weight", "(3, 7), expected (3, 1)", "--weights=PATH")


def test_weights_that_are_not_there(clips, lineareval, refused, tmp_path):
    refused(lineareval("byola", clips.csv, "--weights=gone.pt"), "gone.pt", "--weights")
    folder = str(tmp_path / "weights")
    refused(lineareval("byola", clips.csv), "byola", folder, "--weights=PATH")
