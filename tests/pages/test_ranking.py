"""Which models of a column share a rank: by paired tests, or by intervals."""

import gzip

import numpy as np
import pandas as pd
import pytest

from evar.pages import outcomes, ranking
from evar.pages.outcomes import PerClip
from evar.results.record import from_json
from evar.results.table import Cell
from helpers import made_results as made


def clips(values, *, names=None, groups=None) -> PerClip:
    values = np.asarray(values, float)
    names = np.arange(len(values)).astype(str) if names is None else np.array(names)
    return PerClip(names, np.full(len(values), "test"), values, groups)


def test_a_paired_test_separates_what_intervals_do_not():
    """Two runs whose intervals overlap, one of them right wherever the other is, and more."""
    base = np.random.default_rng(0).integers(0, 2, 200)
    better = base.copy()
    better[np.flatnonzero(base == 0)[:12]] = 1
    cells = [
        Cell(better.mean(), interval=(better.mean() - 0.07, better.mean() + 0.07), run="a"),
        Cell(base.mean(), interval=(base.mean() - 0.07, base.mean() + 0.07), run="b"),
    ]
    assert ranking.rank(cells, {}).ranks == [1, 1]
    found = ranking.rank(cells, {"a": clips(better), "b": clips(base)})
    assert (found.ranks, found.beaten_by, found.paired) == ([1, 2], [[], [0]], 1)


def test_runs_of_other_clips_are_not_paired():
    cells = [Cell(0.9, interval=(0.8, 1.0), run="a"), Cell(0.85, interval=(0.7, 0.95), run="b")]
    a, b = clips([1, 1, 1, 0]), clips([0, 0, 0, 0], names=["5", "6", "7", "8"])
    assert ranking.rank(cells, {"a": a, "b": b}).paired == 0


def test_published_figures_are_compared_by_their_widest_interval():
    cells = [
        Cell(0.90, ci95=0.01),
        Cell(0.88, ci95=0.02),
        Cell(0.80, ci95=0.01, interval=(0.70, 0.89)),
        Cell(0.60),
    ]
    assert ranking.interval(cells[2]) == (0.70, 0.89)
    assert ranking.rank(cells, {}).ranks == [1, 1, 1, 4]  # 0.89 is in both


def test_lower_is_better_where_the_metric_says_so():
    cells = [Cell(5.0, unit="plain", higher_is_better=False), Cell(2.0, higher_is_better=False)]
    assert ranking.rank(cells, {}).ranks == [2, 1]
    assert ranking.rank([], {}).ranks == []


def test_values_per_clip_are_means_over_seeds_in_the_order_of_folds_and_clips():
    table = pd.DataFrame(
        {
            "clip": ["b", "a", "c", "b", "a", "c"],
            "fold": ["1", "1", "0", "1", "1", "0"],
            "seed": [1, 1, 1, 2, 2, 2],
            "true": ["x"] * 6,
            "predicted": ["x", "x", "y", "y", "x", "y"],
            "group": ["g", "", "g", "g", "", "g"],
        }
    )
    found = outcomes.per_clip(table, from_json(made.record()))
    assert found.clips.tolist() == ["c", "a", "b"]
    assert found.folds.tolist() == ["0", "1", "1"]
    assert found.values.tolist() == [0, 1, 0.5]
    assert found.groups.tolist() == ["g", "alone: a", "g"]


def test_labels_that_look_like_missing_values_stay_labels(tmp_path):
    table = made.predicted(0.5, labels=("NA", "null", "1", "02"))
    made.save(tmp_path, made.record(), predictions=table)
    run = from_json(made.record())
    read = outcomes.predictions(tmp_path, run)
    assert set(read.true) == {"NA", "null", "1", "02"}
    assert read["clip"].tolist() == table["clip"].tolist()


def test_queries_of_retrieval_are_grouped_by_their_clip():
    table = pd.DataFrame(
        {
            "direction": ["text_to_audio"] * 3 + ["audio_to_text"],
            "clip": ["b", "a", "a", "a"],
            "caption": ["third", "second", "first", ""],
            "mAP@10": [0.5, 1.0, 0.0, 1.0],
        }
    )
    run = from_json(made.record(score={"metric": "text-to-audio mAP@10"}))
    found = outcomes.per_clip(table, run)
    assert found.clips.tolist() == ["a: first", "a: second", "b: third"]
    assert found.values.tolist() == [0, 1, 0.5]
    assert found.groups.tolist() == ["a", "a", "b"]
    assert found.values.mean() == pytest.approx(0.5)


def test_a_damaged_table_is_named(tmp_path):
    from evar.errors import UserError

    run = made.record()
    made.save(tmp_path, run, predictions=made.predicted(0.5))
    path = tmp_path / f"runs/{run['id']}.predictions.csv.gz"
    path.write_bytes(path.read_bytes()[:50])
    for read in (outcomes.predictions, outcomes.values_of):
        with pytest.raises(UserError, match="damaged"):
            read(tmp_path, from_json(run))
    whole = bytearray(gzip.compress(b"clip,fold\n" * 100))
    whole[20:24] = b"\xff\xff\xff\xff"
    path.write_bytes(whole)
    with pytest.raises(UserError, match="damaged|cannot be read"):
        outcomes.predictions(tmp_path, from_json(run))


@pytest.mark.parametrize("grouped", [True, False])
def test_values_for_the_board_are_those_of_the_whole_table_bit_for_bit(grouped, tmp_path):
    rng, seeds, count = np.random.default_rng(0), 3, 50
    names = [f"Ω/{i}, .wav" for i in rng.permutation(count)]
    table = pd.DataFrame(
        {
            "clip": names * seeds,
            "fold": [str(i % 11) for i in range(count)] * seeds,  # "10" sorts before "2"
            "seed": np.repeat([42, 43, 44], count),
            "true": "01",  # a label that must stay text
            "predicted": rng.choice(["01", "1", "NA"], count * seeds),
            "score": rng.random(count * seeds),
            "group": [f"g{i % 7}" if i % 5 else "" for i in range(count)] * seeds,
        }
    )
    table = table if grouped else table.drop(columns="group")
    run = made.record()
    made.save(tmp_path, run, predictions=table)
    run = from_json(run)
    found = outcomes.values_of(tmp_path, run)
    expected = outcomes.per_clip(outcomes.predictions(tmp_path, run), run)
    for name in ("clips", "folds", "values", "groups"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one is other is None or (one.dtype, one.tobytes()) == (other.dtype, other.tobytes())
    assert (found.groups is not None) == grouped
    of_clip = table.assign(right=table.true == table.predicted).groupby(["fold", "clip"]).right
    assert [*zip(found.folds, found.clips, strict=True)] == [*of_clip.groups]
    np.testing.assert_allclose(found.values, of_clip.mean(), rtol=1e-15)
