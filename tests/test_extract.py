"""evar.embed, and filling the cache, as a notebook or another machine calls them."""

import doctest

import numpy as np

import evar
from evar import extract
from evar.data import audio


def test_the_example_of_the_docstring_runs():
    failed, tried = doctest.testmod(extract)
    assert tried >= 3
    assert not failed


def test_embeddings_of_a_folder_have_one_row_per_clip(clips, simple):
    table, embeddings = evar.embed(simple, str(clips.root), device="cpu", cache=None)
    assert len(table) == len(embeddings) == 24
    assert embeddings.dtype == np.float32
    assert set(table.file) == {row[0] for row in clips.rows}


def test_the_cache_can_be_filled_in_parts(clips, simple, tmp_path, monkeypatch):
    for part in ((0, 2), (1, 2)):
        extract.fill_cache(simple, clips.csv, part=part, device="cpu", cache=tmp_path / "kept")

    decoded, load_clip = [], audio.load_clip
    monkeypatch.setattr(
        audio, "load_clip", lambda file, **how: decoded.append(file) or load_clip(file, **how)
    )
    evar.evaluate(simple, clips.csv, seeds=1, device="cpu", cache=tmp_path / "kept")
    assert len(decoded) == 3  # a spot check: the class is a user's own
