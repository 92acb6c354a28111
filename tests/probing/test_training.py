"""What training does otherwise on a GPU, done on a CPU."""

import numpy as np
import pytest

from evar.probing import probe, training
from evar.probing.probe import Job, ProbeSettings


@pytest.mark.parametrize("together", [0, 2**28])
@pytest.mark.parametrize("multi_label", [False, True])
def test_the_way_of_a_gpu_gives_what_that_of_a_cpu_gives(monkeypatch, together, multi_label):
    """One lane for all rates, orders drawn ahead, held-out rows in large chunks or in one."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 300)
    x = rng.standard_normal((4, 12))[y] + 2 * rng.standard_normal((300, 12))
    if multi_label:
        y = np.eye(4, dtype=np.int8)[y]
    parts = np.split(np.arange(300), [180, 250])
    jobs = [Job(*parts, seed, lr=lr) for lr in (1e-3, 1e-2) for seed in (1, 2, 3)]
    settings = ProbeSettings(epochs=20, patience=3, batch_size=50)
    monkeypatch.setattr(training, "CHUNK", 16)
    monkeypatch.setattr(training, "_TOGETHER", 0)
    usual = probe.fit(x.astype(np.float32), y, jobs, settings)

    monkeypatch.setattr(training, "_TOGETHER_ON_GPU", together)
    no = property(lambda _: False, lambda *_: None)
    monkeypatch.setattr(training.Training, "on_cpu", no, raising=False)
    monkeypatch.setattr(probe, "_groups", lambda jobs, *_: [[list(range(len(jobs)))]])
    ours = probe.fit(x.astype(np.float32), y, jobs, settings)
    assert len({fitted.epochs for fitted in usual}) > 1
    for a, b in zip(usual, ours, strict=True):
        np.testing.assert_allclose(a.logits, b.logits, atol=2e-5)
        assert (a.epochs, a.best_epoch) == (b.epochs, b.best_epoch)
