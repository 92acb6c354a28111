"""Audio-text retrieval end to end, with models whose right answers are known."""

import gzip
import io
import json

import numpy as np
import oracle
import pandas as pd
import pytest

from evar import ranking
from evar.protocols import retrieval

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
    made.model = oracle.write(tmp_path / "oracle.py", texts)
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
    assert made["bootstrap95"]["audio_to_text"]["R@1"] == [1.0, 1.0]
    (path,) = tmp_path.glob("results/runs/*.predictions.csv.gz")
    table = pd.read_csv(io.BytesIO(gzip.decompress(path.read_bytes())))
    assert table.direction.value_counts().to_dict() == {"text_to_audio": 12, "audio_to_text": 6}
    assert (table["rank"] == 1).all()
    assert set(table.caption.dropna()) == {row[1] for row in captioned.rows}


def test_a_clip_heard_as_another_is_missed_in_both_directions(captioned, retrieval_, tmp_path):
    texts = dict(captioned.texts)
    dog, rain = captioned.root / "dog.wav", captioned.root / "rain.wav"
    texts[dog], texts[rain] = "rain", "dog"
    retrieval_(oracle.write(tmp_path / "swapped.py", texts), captioned.csv)
    metrics = record_of(tmp_path)["metrics"]
    assert metrics["text_to_audio"]["R@1"] == pytest.approx(8 / 12)
    assert metrics["audio_to_text"]["R@1"] == pytest.approx(4 / 6)


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
    assert names == ["model", *expected, "average"]


def test_blocks_are_the_whole(monkeypatch):
    rng = np.random.default_rng(0)
    queries, gallery = rng.standard_normal((40, 8)), rng.standard_normal((23, 8))
    of_query, of_gallery = rng.integers(0, 23, 40), np.arange(23)
    whole = ranking.per_query(queries @ gallery.T, of_query, of_gallery)
    monkeypatch.setattr(retrieval, "_BLOCK", 23 * 6)
    parts = retrieval.rank_in_blocks(queries, gallery, of_query, of_gallery)
    for name, values in whole.items():
        assert np.array_equal(values, parts[name]), name


def test_mistakes_are_named(captioned, retrieval_, refused, clips, simple):
    refused(retrieval_("logmel", captioned.csv), "audio-only", "m2d_clap")
    refused(retrieval_(simple, captioned.csv), "audio-only")
    refused(retrieval_(captioned.model, "demo"), "has classes", "zeroshot.py")
    refused(retrieval_(captioned.model, "clotho"), "not prepared")
    refused(retrieval_(captioned.model, "absent.csv"), "no such file")
    refused(retrieval_(captioned.model, clips.csv), "unknown column", "label")
    captioned.rows[3][1] = ""
    refused(retrieval_(captioned.model, captioned.csv), "line 5 has no caption")
    captioned.rows[3] = ["absent.wav", "nothing"]
    refused(retrieval_(captioned.model, captioned.csv), "absent.wav", "--partial")


def test_a_column_that_is_missing_is_named(captioned, retrieval_, refused):
    captioned.columns[0] = "split"
    for row in captioned.rows:
        row[0] = "test"
    refused(retrieval_(captioned.model, captioned.csv), "needs the columns file and caption")
