"""A run's score in words."""

import pytest

from evar.results import text
from evar.results.record import from_json
from helpers.records import record


@pytest.mark.parametrize(
    ("seeds", "score", "expected"),
    [
        ([42, 43], {"mean": 0.7126, "ci95": 0.0081}, "71.3 ± 0.8"),
        ([42, 43], {"mean": 1.0, "ci95": 0.0}, "100.0 ± 0.0"),
        ([42], {"mean": 0.5, "ci95": None}, "50.0"),
        ([], {"mean": 0.5, "ci95": None, "bootstrap95": [0.4, 0.55]}, "50.0 [40.0, 55.0]"),
        ([], {"mean": 3.5, "ci95": None, "unit": "plain", "bootstrap95": [3, 4]}, "3.5 [3, 4]"),
    ],
)
def test_percent(seeds, score, expected):
    assert text.percent(from_json(record(seeds=seeds, score=score))) == expected


SKIPPED = {"clip": "a.wav", "why": "empty"}


@pytest.mark.parametrize(
    ("clips", "expected"),
    [
        ({"partial": "", "skipped": []}, []),
        ({"partial": "3 of 4 clips", "skipped": []}, ["partial: 3 of 4 clips"]),
        ({"partial": "", "skipped": [SKIPPED]}, ["1 bad clip skipped"]),
        ({"partial": "a", "skipped": [SKIPPED] * 2}, ["partial: a", "2 bad clips skipped"]),
    ],
)
def test_caveats(clips, expected):
    assert text.caveats(from_json(record(clips=clips))) == expected
    assert text.caveats(from_json(record(clips=clips, select="oracle"))) == ["oracle", *expected]
    assert text.caveats(from_json(record(clips=clips, select="last"))) == expected
