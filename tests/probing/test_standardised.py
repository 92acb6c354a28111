"""Standardisation by several threads gives the bits of one thread that goes from row to row."""

import numpy as np
import pytest

from evar.probing import probe


def one_after_the_other(x, rows):
    """Mean and scale as they were computed before threads shared the columns."""
    offset = x[rows[0]].astype(np.float64)
    total, squares = np.zeros_like(offset), np.zeros_like(offset)
    for at in range(0, len(rows), 4096):
        part = x[rows[at : at + 4096]].astype(np.float64) - offset
        total += part.sum(axis=0)
        squares += np.square(part).sum(axis=0)
    shift = total / len(rows)
    variance = np.maximum(squares / len(rows) - shift**2, 0.0)
    return offset + shift, probe.deviation(offset + shift, variance, len(rows))


@pytest.mark.parametrize(
    ("count", "width"), [(9001, 7), (4096, 1), (301, 1500), (1, 3), (5000, 65), (5000, 1025)]
)
@pytest.mark.parametrize("cores", [1, 2, 3, 16])
def test_threads_change_no_bit(count, width, cores, monkeypatch):
    monkeypatch.setattr(probe, "_CORES", cores)
    rng = np.random.default_rng(count)
    x = (rng.standard_normal((count, width)) * 5 + 100).astype(np.float32)
    rows = np.sort(rng.permutation(count)[: max(1, int(0.8 * count))])
    mean, scale = probe.scaler(x, rows)
    expected = one_after_the_other(x, rows)
    assert mean.tobytes() == expected[0].tobytes()
    assert scale.tobytes() == expected[1].tobytes()
    expected_x = ((x - mean) / scale).astype(np.float32)
    assert probe.standardised(x, (mean, scale)).numpy().tobytes() == expected_x.tobytes()
    inside = probe.standardised(x, (mean, scale), overwrite=True).numpy()
    assert inside.tobytes() == expected_x.tobytes()
    assert np.shares_memory(inside, x)
