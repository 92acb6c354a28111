"""Retrieval metrics against cases worked by hand and against all orders of tied items."""

import itertools

import numpy as np
import pytest

from evar.scoring import ranking


def test_a_matrix_worked_by_hand():
    similarity = np.array(
        [
            [0.9, 0.1, 0.2, 0.3],  # its item is first
            [0.5, 0.4, 0.1, 0.6],  # third
            [0.4, 0.3, 0.1, 0.2],  # last of four
        ]
    )
    found = ranking.per_query(similarity, [0, 1, 2], [0, 1, 2, 3])
    assert found["rank"].tolist() == [1, 3, 4]
    assert found["R@1"].tolist() == [1, 0, 0]
    assert found["R@5"].tolist() == [1, 1, 1]
    assert found["mAP@10"] == pytest.approx([1, 1 / 3, 1 / 4])
    assert ranking.summary(found) == pytest.approx(
        {"R@1": 1 / 3, "R@5": 1, "R@10": 1, "mAP@10": 19 / 36, "medR": 3}
    )


def test_of_several_captions_the_best_counts_and_all_enter_the_precision():
    similarity = np.array([[0.1, 0.9, 0.5, 0.7, 0.3]])
    found = ranking.per_query(similarity, [7], [7, 8, 7, 7, 8])  # relevant: places 2, 3 and 5
    assert found["rank"].tolist() == [2]
    assert found["mAP@10"] == pytest.approx([(1 / 2 + 2 / 3 + 3 / 5) / 3])


def test_average_precision_stops_at_ten_and_divides_by_at_most_ten():
    similarity = -np.arange(30.0)[None]  # item i has place i + 1
    relevant = np.where(np.isin(np.arange(30), [0, 9, 10, 29]), 1, 0)
    found = ranking.per_query(similarity, [1], relevant)
    assert found["mAP@10"] == pytest.approx([(1 / 1 + 2 / 10) / 4])
    many = ranking.per_query(similarity, [1], np.ones(30, int))
    assert many["mAP@10"] == pytest.approx([1.0])


def brute_force(similarity, relevant):
    """The means of all metrics over every order of the items that keeps larger ones first."""
    orders = [
        order
        for order in itertools.permutations(range(len(similarity)))
        if all(similarity[a] >= similarity[b] for a, b in itertools.pairwise(order))
    ]
    rows = []
    for order in orders:
        hits = relevant[list(order)]
        rank = int(hits.argmax()) + 1
        top = hits[:10]
        precision = (np.cumsum(top) / np.arange(1, len(top) + 1) * top).sum()
        row = [rank <= 1, rank <= 5, rank <= 10, rank, precision / min(hits.sum(), 10)]
        rows.append(row)
    return np.mean(rows, axis=0)


@pytest.mark.parametrize("seed", range(12))
def test_ties_count_as_the_mean_over_all_their_orders(seed):
    rng = np.random.default_rng(seed)
    similarity = rng.integers(0, 1 + seed % 4, size=7).astype(float)
    relevant = np.zeros(7, int)
    relevant[rng.permutation(7)[: 1 + seed % 3]] = 1
    found = ranking.per_query(similarity[None], [1], relevant)
    values = [found[name][0] for name in ("R@1", "R@5", "R@10", "rank", "mAP@10")]
    assert values == pytest.approx(brute_force(similarity, relevant), abs=1e-12)


def test_a_model_that_gives_everything_the_same_score_is_at_chance():
    found = ranking.summary(ranking.per_query(np.zeros((50, 50)), np.arange(50), np.arange(50)))
    assert found["R@1"] == pytest.approx(1 / 50)
    assert found["R@10"] == pytest.approx(10 / 50)
    assert found["medR"] == 25.5
    assert found["mAP@10"] == pytest.approx(sum(1 / k for k in range(1, 11)) / 50)


def test_blocks_give_what_the_whole_matrix_gives():
    rng = np.random.default_rng(0)
    similarity = rng.standard_normal((30, 90)).round(1)  # with ties
    queries, gallery = np.arange(30), np.repeat(np.arange(30), 3)
    whole = ranking.per_query(similarity, queries, gallery)
    for at in range(0, 30, 7):
        part = ranking.per_query(similarity[at : at + 7], queries[at : at + 7], gallery)
        for name, values in part.items():
            assert np.array_equal(values, whole[name][at : at + 7])


def test_weights_are_queries_taken_several_times():
    rng = np.random.default_rng(1)
    found = ranking.per_query(rng.standard_normal((6, 20)), np.arange(6), np.arange(20))
    weights = np.array([2, 0, 1, 3, 0, 1])
    repeated = {name: np.repeat(values, weights) for name, values in found.items()}
    assert ranking.summary(found, weights) == pytest.approx(ranking.summary(repeated))


@pytest.mark.parametrize(
    ("similarity", "queries", "gallery", "what"),
    [
        (np.zeros((2, 3)), [0, 1], [0, 1], "not"),
        (np.zeros((0, 0)), [], [], "one query"),
        (np.full((1, 1), np.nan), [0], [0], "finite"),
        (np.zeros((2, 2)), [0, 5], [0, 1], "query 1 has no relevant item"),
    ],
)
def test_what_has_no_ranks_is_refused(similarity, queries, gallery, what):
    with pytest.raises(ValueError, match=what):
        ranking.per_query(similarity, queries, gallery)
