"""The map finds the embeddings of each protocol in the cache, and says why where there are none."""

import numpy as np
import pytest

import evar
from evar import models
from evar.data import opening
from evar.embedding import embeddings
from evar.embedding.layers import Columns, every_layer
from evar.pages import clips as on_disk
from evar.pages import embedding_map
from evar.runtime import Runtime
from helpers.probed import Blocks


@pytest.fixture
def mapped(clips, tmp_path):
    """A function that evaluates by a protocol and returns the run's map."""

    def call(protocol, **options):
        how = {"cache": tmp_path / "cache", "device": "cpu", **options}
        run = evar.evaluate(Blocks, clips.csv, protocol, **how).record
        return run, embedding_map.of_run(run, on_disk.find(run).manifest, tmp_path / "cache")

    return call


def test_of_layers_the_chosen_one_is_drawn(mapped, clips):
    mapped("linear", seeds=1, epochs=1)  # whose embeddings are in the same cache
    run, found = mapped("layers", seeds=1, epochs=3)
    chosen = run.extra["chosen_layer"]
    assert found.layer == chosen
    manifest = opening.open_task(clips.csv)
    model = every_layer(models.load(Blocks), manifest.task.seconds)
    every = embeddings.embed_task(model, manifest, Runtime())
    test = every.first[manifest.table.split == "test"]
    values = Columns(every.values, model.adapter.layers)[chosen][test]
    alone = embedding_map.draw(found.clips, values)
    np.testing.assert_allclose(found.places["PCA"], alone.places["PCA"], atol=1e-5)


def test_of_linear_it_is_the_embedding_whatever_else_is_in_the_cache(mapped):
    mapped("layers", seeds=1, epochs=1)
    run, found = mapped("linear", seeds=1, epochs=1)
    assert found.layer is None
    assert len(found.clips) == run.clips.sides["test"]


def test_attentive_probes_have_none_of_their_own(mapped):
    _, found = mapped("attentive", seeds=1, epochs=1)
    assert "read frames" in found
    mapped("linear", seeds=1, epochs=1)
    _, found = mapped("attentive", seeds=1, epochs=1)
    assert found.clips
