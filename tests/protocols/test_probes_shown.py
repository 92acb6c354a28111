"""Every probe ends with both intervals, predictions per clip, a leaderboard and a page."""

import json
from pathlib import Path

import pandas as pd
import pytest

import helpers.probed

MODEL = f"{Path(helpers.probed.__file__)}:Blocks"
PROBES = {  # options that make it fast; how many seeds are in its interval over runs, if any
    "linear": (("--epochs=5",), 3),
    "knn": ((), 0),
    "fewshot": (("--shots=1,2",), 10),
    "fewshot mteb": (("--preset=mteb",), 10),
    "layers": (("--epochs=3",), 3),
    "layers weighted": (("--layers=weighted", "--epochs=3"), 3),
    "attentive": (("--epochs=3",), 3),
    "hear": (("--grid_points=1", "--epochs=3"), 0),
    "xares": (("--epochs=2",), 0),
}


@pytest.fixture
def many(clips):
    """The two tones with forty more test clips, enough for an interval over clips."""
    for i in range(20):
        for label, hertz in (("low", 300), ("high", 3000)):
            clips.add(f"test/more_{label}{i}.wav", label, "test", hertz=hertz + 10 * i)
    clips.rows[0][1] = "high"  # training labels that are wrong make the task less than trivial
    return clips


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_is_complete(name, command, many, tmp_path):
    protocol = name.split()[0]
    options, runs = PROBES[name]
    ran = command(protocol, MODEL, many.csv, "--quiet", "--results=results", *options)
    assert ran.code == 0, ran.err
    (path,) = (tmp_path / "results/runs").glob("*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    score = record["score"]

    assert record["protocol"] == protocol
    low, high = score["test95"]
    assert 0 <= low <= score["mean"] <= high <= 1
    assert (score["ci95"] is not None) == (runs > 0)
    assert ("no_ci95" in record) == (runs == 0)
    assert score["runs"] == max(runs, 1)

    table = pd.read_csv(tmp_path / f"results/runs/{record['id']}.predictions.csv.gz")
    assert len(table) == 48 * score["runs"]
    assert table["clip"].nunique() == 48

    ran = command("leaderboard", "--results=results")
    assert ran.code == 0, ran.err
    for file in ("scores.csv", "leaderboard.csv", "leaderboard.md", "leaderboard.html"):
        text = (tmp_path / "results" / file).read_text(encoding="utf-8")
        assert "Blocks" in text, file
        assert protocol in text, file

    ran = command("report", record["id"], "--results=results", "--audio=none")
    assert ran.code == 0, ran.err
    page = Path(ran.out.splitlines()[-1]).read_text(encoding="utf-8")
    assert protocol in page
    assert f"{100 * score['mean']:.1f}" in page
