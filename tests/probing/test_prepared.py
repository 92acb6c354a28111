"""What probes start from: rows of each side, and how good scores are."""

import numpy as np
import pytest

from evar import models
from evar.data import opening
from evar.embedding import embeddings
from evar.errors import UserError
from evar.probing import prepared
from evar.runtime import Runtime
from helpers.probed import Blocks


@pytest.fixture
def task(clips):
    manifest = opening.open_task(clips.csv)
    model = models.load(Blocks)
    return prepared.prepare(manifest, lambda: embeddings.embed_task(model, manifest, Runtime()))


def test_every_side_has_its_rows_and_targets(task):
    (sides,) = task.sides
    assert [len(sides.train), len(sides.valid), len(sides.test)] == [12, 4, 8]
    (fold,) = task.folds
    np.testing.assert_array_equal(task.of_views[sides.test], task.y[fold.test])
    assert task.names == ["high", "low"]


def test_goodness_is_the_metric(task):
    scores = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert task.goodness(np.array([0, 0]), scores) == 0.5


def test_a_probes_error_names_the_task(task):
    with pytest.raises(UserError, match="sounds: no such thing"), task.probing():
        raise ValueError("no such thing")
