"""Zero-shot classification end to end, with models whose right answers are known."""

import dataclasses
import gzip
import io
import json

import numpy as np
import pandas as pd
import pytest
import torch

from evar import Adapter, models, task
from evar.data import audio, indexing, manifests, own_sounds, targets
from evar.errors import UserError
from evar.protocols import retrieval, zeroshot
from evar.runtime import Runtime
from evar.scoring import ranking
from helpers import omniscient
from helpers.registered import tiny

LABELS = ["low", "high", "siren"]


@pytest.fixture
def zeroshot_(command):
    return lambda model, of, *options: command("zeroshot", model, of, "--quiet", *options)


@pytest.fixture
def record(tmp_path):
    def only() -> dict:
        (path,) = tmp_path.glob("results/runs/*.json")
        return json.loads(path.read_text())

    return only


@pytest.fixture
def table(tmp_path):
    """A function that reads the one table of a name beside the run."""

    def read(name: str) -> pd.DataFrame:
        (path,) = tmp_path.glob(f"results/runs/*.{name}.csv.gz")
        return pd.read_csv(io.BytesIO(gzip.decompress(path.read_bytes())), dtype={"clip": str})

    return read


@pytest.fixture
def hears(clips, tmp_path):
    """MODEL that hears the right label, but one "low" test clip as a high siren."""
    texts = {clips.root / file: label for file, label, *_ in clips.rows}
    texts[clips.root / "test/low0.wav"] = "high siren siren"
    return omniscient.write(tmp_path / "oracle.py", texts)


@pytest.fixture
def demo(tmp_path):
    """MODEL that knows every clip of the demo task, and its table of clips."""
    made = task.get("demo")
    rows = made.read(made.bundled)
    files = [made.bundled / file for file in rows.file]
    words = rows.label.str.replace("_", " ")
    known = dict(zip(files, words, strict=True))
    return omniscient.write(tmp_path / "knows.py", known, seconds=made.seconds), rows


def test_a_model_that_knows_is_right_on_the_demo_task(zeroshot_, demo, record, table):
    model, rows = demo
    ran = zeroshot_(model, "demo")
    assert "zeroshot  accuracy 100.0 % (95 % interval over test clips" in ran.out
    made = record()
    assert made["seeds"] == []
    assert set(made["per_class"].values()) == {1.0}
    assert len(table("predictions")) == (rows.split == "test").sum(), "no clip of training"
    confusion = table("confusion")
    assert (confusion.true == confusion.predicted).all()
    assert confusion["count"].sum() == len(table("predictions"))


def test_with_shuffled_captions_it_is_right_as_often_as_a_caption_kept_its_place(
    zeroshot_, demo, tmp_path, record
):
    model, rows = demo
    names = sorted(rows.label.unique())
    order = np.random.default_rng(1).permutation(len(names))
    own = {
        a: f"{names[i].replace('_', ' ')} can be heard" for a, i in zip(names, order, strict=True)
    }
    path = tmp_path / "shuffled.yaml"
    path.write_text(json.dumps({"labels": own}))
    ran = zeroshot_(model, "demo", f"--captions={path}")
    assert ran.code == 0, ran.err
    kept = [name for name, i in zip(names, order, strict=True) if name == names[i]]
    share = rows.label[rows.split == "test"].isin(kept).mean()
    assert record()["score"]["mean"] == pytest.approx(share)
    assert share < 0.3, "chance is one of nine"
    assert record()["captions"] == {name: [own[name]] for name in names}


def test_what_a_result_says(zeroshot_, hears, clips, record, table):
    ran = zeroshot_(hears, clips.csv)
    made = record()
    assert made["score"]["mean"] == 7 / 8
    assert made["per_class"] == {"high": 1.0, "low": 0.75}
    counts = table("confusion").set_index(["true", "predicted"])["count"].to_dict()
    assert counts == {("high", "high"): 4, ("low", "low"): 3, ("low", "high"): 1}
    assert made["score"]["runs"] == 1
    assert made["settings"]["rule"] == "task"
    assert made["captions"] == {"high": ["high can be heard"], "low": ["low can be heard"]}
    similarities = table("similarities")
    assert list(similarities.columns) == ["clip", "high", "low"]
    predictions = table("predictions")
    assert "seed" not in predictions
    best = similarities[["high", "low"]].idxmax(axis=1)
    assert predictions.predicted.tolist() == best.tolist()
    assert made["clips_per_second"] > 0
    assert ran.out.splitlines()[-1].startswith("Oracle  sounds  zeroshot  accuracy")


def test_similarities_are_cosines_worked_by_hand():
    text = np.array([[3.0, 0.0], [0.0, 2.0], [0.0, 5.0]])
    weights = zeroshot.classifier(text, [2, 1])  # the first class has two captions
    half = np.sqrt(0.5)
    assert weights == pytest.approx(np.array([[half, half], [0.0, 1.0]]))
    assert ranking.normalised(np.array([[0.0, 0.0]])).tolist() == [[0.0, 0.0]]


def test_folds_are_pooled(new_clips, zeroshot_, tmp_path, record):
    made = new_clips(columns=("file", "label", "fold"))
    texts = {}
    for fold, count in (("1", 1), ("2", 3)):
        for i in range(count):
            for label, hertz in (("low", 300), ("high", 3000)):
                path = made.add(f"{fold}{label}{i}.wav", label, fold, hertz=hertz + i)
                texts[path] = "high" if fold == "1" else label  # one of two, six of six are right
    zeroshot_(omniscient.write(tmp_path / "o.py", texts), made.csv)
    assert record()["score"]["mean"] == 7 / 8, "not the mean of 1/2 and 6/6"


def test_several_labels_give_map(new_clips, zeroshot_, tmp_path, record, table):
    made = new_clips()
    texts = {}
    for side in ("train", "test"):
        for i, label in enumerate(("dog", "rain", "dog,rain", "siren")):
            path = made.add(f"{side}{i}.wav", label, side, hertz=300 * (i + 1))
            texts[path] = label.replace(",", " ")
    ran = zeroshot_(omniscient.write(tmp_path / "o.py", texts), made.csv)
    assert "mAP 100.0" in ran.out
    assert record()["score"]["metric"] == "mAP"
    assert table("predictions").predicted.isin(["dog", "rain", "siren"]).all()


def test_a_set_without_training_side_serves_zero_shot_alone(
    new_clips, zeroshot_, lineareval, tmp_path, refused
):
    made = new_clips()
    texts = {made.add(f"{n}.wav", n, "test", hertz=h): n for n, h in (("low", 300), ("high", 900))}
    refused(lineareval("logmel", made.csv), "zero-shot classification")
    assert "100.0" in zeroshot_(omniscient.write(tmp_path / "o.py", texts), made.csv).out


class Filled(Adapter):
    """Hears how full a clip is: its mean m as the direction (m, 1 - m)."""

    sample_rate, embed_dim, joint_dim = 16000, 2, 2

    def embed(self, audio):
        return self.embed_joint(audio)

    def embed_joint(self, audio):
        mean = audio.mean(dim=1)
        return torch.stack([mean, 1 - mean], dim=1)

    def embed_text(self, captions):
        return torch.tensor([[1.0, 0.0] if "full" in c else [0.0, 1.0] for c in captions])


class FilledWhole(Filled):
    whole_clips = True


@pytest.fixture
def of_lengths(new_clips):
    """A published set like UrbanSound8K: two folds, clips of 0.5 to 3 s, a unit of 2 s."""
    made = new_clips(columns=("file", "label", "fold"))
    ones, minus = np.ones(16000), -np.ones(16000)
    for file, label, fold, samples in (
        ("quarter.wav", "empty", "1", ones[:8000]),
        ("half.wav", "empty", "2", ones[:9600]),
        ("exact.wav", "full", "1", np.tile(ones, 2)),
        ("longer.wav", "full", "2", np.concatenate([ones, ones, minus])),
    ):
        made.add(file, label, fold, samples=samples, subtype="FLOAT")
    rows = own_sounds.task_from_csv(made.csv).read(None)
    whole = task.Task(
        name="lengths",
        version="1",
        title="",
        read=lambda _: rows,
        marker="sounds.csv",
        seconds=2.0,
        folds=("1", "2"),
        counts={"1": 2, "2": 2},
    )
    return indexing.build(whole, made.root)


def means(model, manifest, **given) -> list[float]:
    """What `Filled` heard of each clip, from the similarities, in the order of the files."""
    loaded = models.load(model)
    settings = zeroshot.resolve(given, loaded, manifest)
    found = zeroshot.evaluate(loaded, manifest, settings, (), Runtime())
    table = found.tables["similarities"].set_index("clip")
    return (
        (table.full / (table.full + table["empty"]))
        .loc[["exact.wav", "half.wav", "longer.wav", "quarter.wav"]]
        .tolist()
    )


def test_clips_of_a_published_set_are_cut_or_padded_to_its_unit(of_lengths):
    """By hand: 1 s of ones in a unit of 2 s is half full; what is behind the unit is not heard."""
    assert means(Filled(), of_lengths) == pytest.approx([1.0, 0.3, 1.0, 0.25], abs=1e-4)
    whole = means(Filled(), of_lengths, clips="whole")
    assert whole == pytest.approx([1.0, 1.0, 1 / 3, 1.0], abs=1e-4)


def test_a_model_that_was_given_whole_files_is_given_them(of_lengths):
    assert means(FilledWhole(), of_lengths) == pytest.approx([1.0, 1.0, 1 / 3, 1.0], abs=1e-4)
    assert means(FilledWhole(), of_lengths, clips="unit")[1] == pytest.approx(0.3, abs=1e-4)
    of_this_kind = [
        name
        for name in models.names()
        if models.reads_text(name) and models.class_of(name, models.config(name)).whole_clips
    ]
    assert of_this_kind == ["clap_2022", "clap_2023"]


def test_whole_clips_stand_beside_the_score(zeroshot_, demo, record, tmp_path):
    model, _ = demo
    assert "KeyError" in zeroshot_(model, "demo", "--clips=whole").err, "it knows units alone"
    whole = tmp_path / "whole.py"
    whole.write_text(
        "import torch\nfrom evar import Adapter\n\n\nclass Any(Adapter):\n"
        "    sample_rate, embed_dim, joint_dim = 16000, 2, 2\n\n"
        "    def embed_joint(self, audio):\n        return audio[:, :2] + 0.1\n\n"
        "    def embed_text(self, captions):\n"
        "        return torch.tensor([[1.0, len(c)] for c in captions])\n"
    )
    for option in ("--clips=unit", "--clips=whole"):
        assert zeroshot_(f"{whole}:Any", "demo", option).code == 0
    runs = [json.loads(path.read_text()) for path in tmp_path.glob("results/runs/*.json")]
    said = {run["settings"]["reading"]: run["variant"] for run in runs}
    assert said == {"unit": {}, "whole clips": {"clips": "whole"}}
    assert "Any (clips=whole)" in (tmp_path / "results/leaderboard.md").read_text()


def test_a_cache_that_was_filled_ahead_is_all_that_is_read(command, zeroshot_, demo, monkeypatch):
    model, _ = demo
    filled = command("embed", model, "demo", "--quiet", "--device=cpu")
    assert "units of test clips in the joint space" in filled.out, filled.err

    decoded, load = [], audio.load_clip
    monkeypatch.setattr(audio, "load_clip", lambda p, **how: decoded.append(p) or load(p, **how))
    assert "100.0 %" in zeroshot_(model, "demo").out
    assert len(decoded) == 3  # a spot check: the class is a user's own


def test_own_sounds_are_read_whole(new_clips, zeroshot_, tmp_path):
    made = new_clips()
    texts = {}
    for i, seconds in enumerate((0.1, 0.35, 0.2, 0.35)):
        label = ("low", "high")[i % 2]
        path = made.add(f"{i}.wav", label, "test", hertz=300 + i, seconds=seconds)
        texts[path] = label  # known by all of their samples: a cut or padded clip is not
    assert "100.0" in zeroshot_(omniscient.write(tmp_path / "o.py", texts), made.csv).out


def test_templates_are_averaged_and_part_of_the_run(zeroshot_, hears, clips, tmp_path):
    ids = set()
    for option in ((), ("--template={label}",), ("--template={label}|a {label} tone",)):
        ran = zeroshot_(hears, clips.csv, *option)
        assert ran.code == 0, ran.err
        ids = {p.name for p in tmp_path.glob("results/runs/*.json")}
    assert len(ids) == 3
    board = (tmp_path / "results/leaderboard.md").read_text()
    assert "template={label}\\|a {label} tone" in board


def test_a_second_run_embeds_nothing(zeroshot_, hears, clips, tmp_path):
    first = zeroshot_(hears, clips.csv)
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.glob("cache/*/*.safetensors")}
    assert len(kept) == 2, "captions and clips"
    assert zeroshot_(hears, clips.csv).out == first.out
    assert kept == {p: p.stat().st_mtime_ns for p in tmp_path.glob("cache/*/*.safetensors")}


def test_explain_shows_the_nearest_captions(zeroshot_, hears, clips):
    out = zeroshot_(hears, clips.csv, "--explain").out.splitlines()
    at = out.index("test/high0.wav (true: high)")
    assert out[at + 1].startswith("  * +")
    assert out[at + 1].endswith("high can be heard")
    assert out[at + 2].startswith("    ")
    assert sum("(true:" in line for line in out) == 6


def test_own_sounds_and_labels(zeroshot_, hears, clips, tmp_path):
    ran = zeroshot_(hears, clips.root / "test", "--labels=low,high,siren")
    assert ran.code == 0, ran.err
    rows = [line.split() for line in ran.out.splitlines()]
    assert rows[0] == ["clip", "best", *LABELS]
    assert len(rows) == 1 + 8
    best = {clip: label for clip, label, *_ in rows[1:]}
    assert best["low0.wav"] == "siren"
    assert best["low1.wav"] == "low"
    assert best["high3.wav"] == "high"
    assert not (tmp_path / "results").exists(), "a question is no run"
    one = zeroshot_(hears, clips.root / "test/low0.wav", "--labels=low,siren")
    assert one.out.split()[4:6] == ["low0.wav", "siren"]


def test_own_sounds_that_cannot_be_decoded(zeroshot_, hears, clips, tmp_path, refused):
    bad = tmp_path / "notes.txt"
    bad.write_text("no sound")
    refused(zeroshot_(hears, bad, "--labels=low,siren"), "notes.txt", "not readable as sound")
    (clips.root / "test/low0.wav").write_bytes(b"no sound")
    refused(zeroshot_(hears, clips.root / "test", "--labels=low,siren"), "low0.wav", "--skip_bad")
    ran = zeroshot_(hears, clips.root / "test", "--labels=low,siren", "--skip_bad")
    assert ran.out.splitlines()[-1] == "skipped, cannot be decoded: low0.wav"


@pytest.mark.parametrize("label", ["clip", "best"])
def test_labels_that_the_tables_have_for_columns(
    label, zeroshot_, new_clips, tmp_path, table, record
):
    made = new_clips()
    texts = {
        made.add(f"{name}.wav", name, "test", hertz=hertz): name
        for name, hertz in ((label, 300), ("rain", 900))
    }
    model = omniscient.write(tmp_path / "o.py", texts)
    assert "100.0" in zeroshot_(model, made.csv).out
    assert set(table("similarities").columns) >= {"clip", "rain"}
    ran = zeroshot_(model, made.root, f"--labels={label},rain")
    assert ran.out.split()[:4] == ["clip", "best", label, "rain"]


def test_classes_are_those_of_the_whole_data_set(zeroshot_, new_clips, tmp_path, record):
    """A copy without its training side, or without a class, is asked the same question."""
    made = new_clips()
    texts = {}
    for side in ("train", "test"):
        for label, hertz in (("low", 300), ("high", 900), ("siren", 2000)):
            path = made.add(f"{side}/{label}.wav", label, side, hertz=hertz)
            texts[path] = "siren" if label == "low" else label
    model = omniscient.write(tmp_path / "o.py", texts, seconds=2.0)
    for label in ("low", "high", "siren"):
        (made.root / f"train/{label}.wav").unlink()
    (made.root / "test/siren.wav").unlink()
    whole = task.get("demo")
    rows = own_sounds.task_from_csv(made.csv).read(None)
    published = dataclasses.replace(
        whole, read=lambda _: rows, counts={"train": 3, "test": 3}, classes=3, marker="sounds.csv"
    )
    manifest = indexing.build(published, made.root)
    names = zeroshot.class_names(manifest)
    assert names == ["high", "low", "siren"]
    side = manifest.test_side()
    assert side.partial == "2 of 3 clips"
    loaded = models.load(model)
    found = zeroshot.evaluate(loaded, manifest, zeroshot.ZeroshotSettings(), (), Runtime())
    assert found.score.mean == 0.5, "low is heard as the siren that is not there"
    with pytest.raises(UserError, match="no readable clip in split 'train'"):
        targets.folds_of(manifest)


def test_clips_of_other_sides_do_not_count(zeroshot_, hears, clips, record):
    (clips.root / "train/low0.wav").write_bytes(b"no sound")
    (clips.root / "valid/low0.wav").unlink()
    ran = zeroshot_(hears, clips.csv)
    assert ran.code == 0, ran.err
    made = record()["clips"]
    assert (made["total"], made["partial"], made["skipped"]) == (8, "", [])


def test_a_single_class_is_refused(zeroshot_, new_clips, refused, tmp_path):
    made = new_clips()
    for i in range(2):
        made.add(f"{i}.wav", "low", "test")
    refused(zeroshot_(omniscient.write(tmp_path / "o.py", {}), made.csv), "a single class")


def test_a_folder_of_a_tasks_name_does_not_hide_the_task(zeroshot_, demo, tmp_path):
    (tmp_path / "demo").mkdir()
    assert "100.0" in zeroshot_(demo[0], "demo").out


def test_captions_with_newlines_are_told_apart(zeroshot_, hears, clips, tmp_path):
    """Their embeddings are kept by a hash of the list, whatever stands in it."""
    scores = []
    for low in (["low\nhigh", "siren"], ["low", "high\nsiren"]):
        path = tmp_path / "rule.yaml"
        path.write_text(json.dumps({"labels": {"low": low, "high": "high"}}))
        assert zeroshot_(hears, clips.csv, f"--captions={path}").code == 0
        (found,) = (
            p for p in tmp_path.glob("results/runs/*.similarities.csv.gz") if p not in scores
        )
        scores.append(found)
    first, second = (pd.read_csv(path) for path in scores)
    assert not first.low.equals(second.low)


def test_both_towers_are_asked_for(zeroshot_, clips, refused, tmp_path):
    half = tmp_path / "half.py"
    half.write_text(
        "import torch\nfrom evar import Adapter\n\n\nclass Half(Adapter):\n"
        "    sample_rate, embed_dim = 16000, 2\n\n"
        "    def embed(self, audio):\n        return audio[:, :2]\n\n"
        "    def embed_text(self, captions):\n        return torch.ones(len(captions), 2)\n"
    )
    refused(zeroshot_(f"{half}:Half", clips.csv), "embed_joint() and embed_text()")
    both = "\n    def embed_joint(self, audio):\n        return audio[:, :2]\n"
    half.write_text(half.read_text() + both)
    refused(zeroshot_(f"{half}:Half", clips.csv), "Half must set `joint_dim`")


def test_an_audio_only_model_is_refused_with_those_that_read(zeroshot_, simple, refused, clips):
    refused(zeroshot_("logmel", "demo"), "audio-only", "m2d_clap", "laion_clap", "clap_2023")
    refused(zeroshot_(simple, clips.csv), "audio-only", "wavcaps")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["esc50", "--template=x", "--captions=y"], "give one of them"),
        (["esc50", "--template=a sound"], "is not prepared"),
        (["demo", "--template=a sound"], "has no {label}"),
        (["demo", "--captions=absent.yaml"], "absent.yaml"),
        (["demo", "--precision=fp16"], "precision"),
        (["esc50", "--clips=long"], "unit"),
        (["demo", "--labels=a"], "two or more"),
        (["demo", "--labels=a,a"], "each once"),
        (["demo", "--labels=a,b"], "no such sound file or folder"),
        ([".", "--labels=a,b"], "no sound files there"),
        (["."], "need labels"),
        (["clotho"], "not prepared"),
    ],
)
def test_mistakes_are_named(words, says, zeroshot_, refused, tmp_path):
    model = omniscient.write(tmp_path / "o.py", {})
    if words[0] == ".":
        (tmp_path / "empty").mkdir()
        words = [str(tmp_path / "empty"), *words[1:]]
    refused(zeroshot_(model, *words), says)


def test_a_bad_clip_is_named_or_counted(zeroshot_, hears, clips, refused, record):
    good = {file: (clips.root / file).read_bytes() for file in ("test/low0.wav",)}
    (clips.root / "test/low0.wav").write_bytes(good["test/low0.wav"][:30])
    refused(zeroshot_(hears, clips.csv), "test/low0.wav", "--skip_bad")
    assert "1 bad clip skipped" in zeroshot_(hears, clips.csv, "--skip_bad").out
    assert record()["clips"]["skipped"][0]["clip"] == "test/low0.wav"


def test_similarity_of_a_batch_does_not_depend_on_its_neighbours(hears, clips, tmp_path):
    loaded = models.load(hears)
    made = own_sounds.task_from_csv(clips.csv)
    manifest = manifests.open_task(made, tmp_path / "data", source=clips.root)
    texts = [("low",), ("high",)]
    results = [
        zeroshot.classify(
            loaded, manifest, ["low", "high"], texts, Runtime(batch_size=size)
        ).similarity
        for size in (1, 3, 16)
    ]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


@pytest.mark.parametrize("name", [n for n in models.names() if models.reads_text(n)])
def test_every_audio_language_model_classifies_and_retrieves(name, new_clips, tmp_path):
    made = new_clips(columns=("file", "caption"))
    for i, seconds in enumerate((0.2, 0.7, 0.2)):
        made.add(f"{i}.wav", f"sound number {i}", "", hertz=300 * (i + 1), seconds=seconds)
        made.rows[-1] = made.rows[-1][:2]
    folder = tmp_path / "text"
    adapter = tiny(name, folder)
    texts = [("a dog", "the sound of a dog"), ("rain",)]
    own = own_sounds.task_from_sounds(made.root)
    model = models.load(adapter)
    manifest = indexing.build(own, made.root)
    result = zeroshot.classify(model, manifest, ["dog", "rain"], texts, Runtime())
    assert result.similarity.shape == (3, 2)
    assert np.abs(result.similarity).max() <= 1 + 1e-5
    assert len(np.unique(result.similarity)) == 6, "clips and captions are told apart"
    assert all(result.text.values()), "the text tower's identity"

    captioned = own_sounds.captions_from_csv(made.csv)
    found = retrieval.evaluate(
        model, indexing.build(captioned, made.root), retrieval.RetrievalSettings(), (), Runtime()
    )
    assert found.metrics["text_to_audio"]["R@5"] == 1.0
    assert len(found.predictions) == 6
