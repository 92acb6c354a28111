"""Audio-text retrieval end to end, with models whose right answers are known."""

import dataclasses
import gzip
import hashlib
import io
import json

import numpy as np
import pandas as pd
import pytest

from evar import task
from evar.scoring import ranking
from helpers import omniscient

WORDS = ["dog", "rain", "siren", "piano", "laughter", "engine"]


@pytest.fixture
def retrieval_(command):
    return lambda model, of, *options: command("retrieval", model, of, "--quiet", *options)


@pytest.fixture
def captioned(new_clips, tmp_path):
    """Six clips with two captions each, and a model that hears the first word of the first."""
    made = new_clips(columns=("file", "caption"))
    texts = {}
    for i, word in enumerate(WORDS):
        path = made.add(f"{word}.wav", f"{word} in the distance", "", hertz=300 * (i + 1))
        made.rows[-1] = made.rows[-1][:2]
        made.rows.append([f"{word}.wav", f"{word} close by"])
        texts[path] = word
    made.model = omniscient.write(tmp_path / "oracle.py", texts)
    made.texts = texts
    return made


def record_of(tmp_path) -> dict:
    (path,) = tmp_path.glob("results/runs/*.json")
    return json.loads(path.read_text())


def test_a_model_that_knows_finds_everything(captioned, retrieval_, tmp_path):
    ran = retrieval_(captioned.model, captioned.csv)
    assert ran.code == 0, ran.err
    assert (
        "text to audio: R@1 100.0 %, R@5 100.0 %, R@10 100.0 %, mAP@10 100.0 %, medR 1" in ran.out
    )
    assert "audio to text: R@1 100.0 %" in ran.out
    made = record_of(tmp_path)
    assert made["clips"]["total"] == 6
    assert made["clips"]["captions"] == 12
    assert made["score"]["metric"] == "text-to-audio mAP@10"
    of_both = made["intervals"]["audio_to_text"] | made["intervals"]["text_to_audio"]
    assert set(of_both.values()) == {None}, "six clips are too few for an interval"
    (path,) = tmp_path.glob("results/runs/*.predictions.csv.gz")
    table = pd.read_csv(io.BytesIO(gzip.decompress(path.read_bytes())))
    assert table.direction.value_counts().to_dict() == {"text_to_audio": 12, "audio_to_text": 6}
    assert (table["rank"] == 1).all()
    assert set(table.caption.dropna()) == {row[1] for row in captioned.rows}


def test_a_clip_heard_as_another_is_missed_in_both_directions(captioned, retrieval_, tmp_path):
    texts = dict(captioned.texts)
    dog, rain = captioned.root / "dog.wav", captioned.root / "rain.wav"
    texts[dog], texts[rain] = "rain", "dog"
    retrieval_(omniscient.write(tmp_path / "swapped.py", texts), captioned.csv)
    metrics = record_of(tmp_path)["metrics"]
    assert metrics["text_to_audio"]["R@1"] == pytest.approx(8 / 12)
    assert metrics["audio_to_text"]["R@1"] == pytest.approx(4 / 6)
    (path,) = tmp_path.glob("results/runs/*.nearest.csv.gz")
    near = pd.read_csv(io.BytesIO(gzip.decompress(path.read_bytes())), keep_default_na=False)
    first = near[near.place == 1].set_index(["direction", "clip"])
    of_dog = first.loc["text_to_audio", "dog.wav"]
    assert set(of_dog.near_clip) == {"rain.wav"}
    assert set(of_dog.near_caption) == {"rain in the distance"}
    assert first.loc["audio_to_text", "dog.wav"].near_caption.startswith("rain")
    assert near.similarity.between(-1.001, 1.001).all()
    by_query = near.groupby(["direction", "clip", "caption"], sort=False)
    assert by_query.similarity.apply(lambda s: s.is_monotonic_decreasing).all()


def test_only_the_test_side_is_scored(captioned, retrieval_, tmp_path):
    captioned.columns.append("split")
    for row in captioned.rows:
        row.append("train" if row[0] in ("dog.wav", "rain.wav") else "test")
    retrieval_(captioned.model, captioned.csv)
    assert record_of(tmp_path)["clips"]["captions"] == 8


def test_the_leaderboard_has_a_column_a_direction_and_metric(captioned, retrieval_, tmp_path):
    retrieval_(captioned.model, captioned.csv)
    text = (tmp_path / "results/leaderboard.md").read_text()
    assert "## retrieval" in text
    (head,) = [line for line in text.splitlines() if "t→a R@1" in line]
    names = [cell.strip() for cell in head.strip("|").split("|")]
    metrics = ["R@1", "R@5", "R@10", "mAP@10", "medR"]
    expected = [f"sounds {way} {metric}" for way in ("t→a", "a→t") for metric in metrics]
    assert names == ["model", *expected]


def test_blocks_are_the_whole(monkeypatch):
    rng = np.random.default_rng(0)
    queries, gallery = rng.standard_normal((40, 8)), rng.standard_normal((23, 8))
    of_query, of_gallery = rng.integers(0, 23, 40), np.arange(23)
    whole = ranking.per_query(queries @ gallery.T, of_query, of_gallery)
    monkeypatch.setattr(ranking, "_BLOCK", 23 * 6)
    parts = ranking.rank_in_blocks(queries, gallery, of_query, of_gallery)
    for name, values in whole.items():
        assert np.array_equal(values, parts[name]), name


@pytest.mark.parametrize(("clips", "size"), [(50, 512), (40, 64), (23, 7)])
def test_a_constant_model_is_at_chance(clips, size):
    """A matrix product may round equal vectors differently by where they stand."""
    rng = np.random.default_rng(0)
    constant = ranking.normalised(np.tile(rng.standard_normal(size), (clips, 1)))
    text = ranking.normalised(rng.standard_normal((3 * clips, size)))
    constant, text = constant.astype(np.float32), text.astype(np.float32)
    of_text, of_clip = np.arange(3 * clips) // 3, np.arange(clips)
    found = ranking.rank_in_blocks(text, constant, of_text, of_clip)
    for k in (1, 5, 10):
        assert found[f"R@{k}"] == pytest.approx(np.full(3 * clips, k / clips))
    assert found["rank"] == pytest.approx(np.full(3 * clips, (clips + 1) / 2))


def test_clips_that_share_a_caption_share_its_place():
    rng = np.random.default_rng(1)
    audio, texts = rng.standard_normal((30, 300)), rng.standard_normal((10, 300))
    audio, texts = (ranking.normalised(x).astype(np.float32) for x in (audio, texts))
    found = ranking.rank_in_blocks(audio, np.tile(texts, (3, 1)), np.arange(30), np.arange(30))
    assert set(found["rank"] % 3) == {2.0}, "the middle of three"


def test_other_captions_are_another_run(captioned, retrieval_, tmp_path):
    retrieval_(captioned.model, captioned.csv)
    captioned.rows[1][1] = "dog very close by"
    assert retrieval_(captioned.model, captioned.csv).code == 0
    captioned.rows.reverse()
    assert retrieval_(captioned.model, captioned.csv).code == 0
    assert len(list(tmp_path.glob("results/runs/*.json"))) == 2, "their order is none of its own"


def test_a_bad_clip_of_another_side_does_not_count(captioned, retrieval_, tmp_path):
    captioned.columns.append("split")
    for row in captioned.rows:
        row.append("train" if row[0] in ("dog.wav", "rain.wav") else "test")
    (captioned.root / "dog.wav").write_bytes(b"no sound")
    (captioned.root / "rain.wav").unlink()
    ran = retrieval_(captioned.model, captioned.csv)
    assert ran.code == 0, ran.err
    assert record_of(tmp_path)["clips"]["partial"] == ""


def test_a_name_may_be_written_in_several_ways(captioned, retrieval_, tmp_path):
    captioned.rows[0][0] = "./dog.wav"
    assert "R@1 100.0 %" in retrieval_(captioned.model, captioned.csv).out
    assert record_of(tmp_path)["clips"]["captions"] == 12


@pytest.fixture
def clotho(tmp_path, monkeypatch, sound):
    """Three clips as Clotho is published; this is the published copy, and the folder of it."""
    root = tmp_path / "clotho"
    names = [f"clotho_captions_{side}.csv" for side in ("development", "validation", "evaluation")]
    sources = []
    for name in names:
        side = name.removesuffix(".csv").rpartition("_")[2]
        rows = [["file_name", *(f"caption_{i}" for i in range(1, 6))]]
        for i in range(3):
            file = f"None {side} {i}.wav"
            sound(root / side / file, hertz=300 * (i + 1))
            rows.append([file, *(f"{WORDS[i]} number {j}" for j in range(4)), "None"])
        (root / name).write_text("".join(",".join(row) + "\n" for row in rows))
        md5 = hashlib.md5((root / name).read_bytes()).hexdigest()
        sources.append(task.Source(path=name, md5=md5))
    counts = {"train": 3, "valid": 3, "test": 3}
    small = dataclasses.replace(task.get("clotho"), sources=tuple(sources), counts=counts)
    get = task.get
    monkeypatch.setattr(task, "get", lambda name: small if name == "clotho" else get(name))
    return root


def test_captions_altered_after_preparing_are_said(clotho, command, retrieval_, tmp_path, refused):
    files = [clotho / "evaluation" / f"None evaluation {i}.wav" for i in range(3)]
    model = omniscient.write(tmp_path / "o.py", dict(zip(files, WORDS, strict=False)))
    assert "complete" in command("prepare", "clotho", f"--source={clotho}").out
    ran = retrieval_(model, "clotho", f"--results={tmp_path}/first/results")
    assert ran.code == 0, ran.err
    assert record_of(tmp_path / "first")["clips"]["partial"] == ""
    path = clotho / "clotho_captions_evaluation.csv"
    path.write_text(path.read_text().replace("number 0", "no 0"))
    refused(retrieval_(model, "clotho"), "clotho_captions_evaluation.csv altered", "--partial")
    path.unlink()
    refused(retrieval_(model, "clotho"), "clotho_captions_evaluation.csv")
    path.write_text("")
    (clotho / "clotho_captions_validation.csv").unlink()
    refused(retrieval_(model, "clotho"), "clotho_captions_validation.csv is missing")


def test_one_long_caption_does_not_widen_all(captioned, retrieval_):
    captioned.rows[0][1] = "dog " + 2000 * "barks "
    assert "R@1" in retrieval_(captioned.model, captioned.csv).out


def test_a_single_clip_is_refused(captioned, retrieval_, refused):
    captioned.rows = captioned.rows[:2]
    refused(retrieval_(captioned.model, captioned.csv), "a single test clip")


def test_the_same_caption_twice_is_refused(captioned, retrieval_, refused):
    captioned.rows.append(captioned.rows[0])
    refused(retrieval_(captioned.model, captioned.csv), "dog.wav has the caption", "twice")


def test_mistakes_are_named(captioned, retrieval_, refused, clips, simple):
    refused(retrieval_("logmel", captioned.csv), "audio-only", "m2d_clap")
    refused(retrieval_(simple, captioned.csv), "audio-only")
    refused(retrieval_(captioned.model, "demo"), "has classes", "evar zeroshot")
    refused(retrieval_(captioned.model, "clotho"), "not prepared")
    refused(retrieval_(captioned.model, "absent.csv"), "no such file")
    refused(retrieval_(captioned.model, clips.csv), "needs the columns file and caption")
    captioned.rows[3][1] = ""
    refused(retrieval_(captioned.model, captioned.csv), "line 5 has no caption")
    captioned.rows[3] = ["absent.wav", "nothing"]
    refused(retrieval_(captioned.model, captioned.csv), "absent.wav", "--partial")


def test_a_column_that_is_missing_is_named(captioned, retrieval_, refused):
    captioned.columns[0] = "split"
    for row in captioned.rows:
        row[0] = "test"
    refused(retrieval_(captioned.model, captioned.csv), "needs the columns file and caption")
