"""Where the manifests of a user's own recordings are kept: not beside the recordings."""

import os

import pytest

import evar
from evar.data import opening
from evar.pages import clips as on_pages


@pytest.fixture
def at_home(clips, tmp_path, monkeypatch):
    """The user stands in the folder of the recordings and has set nothing."""
    monkeypatch.delenv("EVAR_DATA")
    monkeypatch.chdir(clips.root)
    return clips


def test_no_folder_appears_beside_the_recordings(at_home, tmp_path, simple):
    csv = at_home.csv
    before = sorted(os.listdir())  # noqa: PTH208
    run = evar.evaluate(simple, csv, seeds=1, device="cpu")
    assert sorted(os.listdir()) == before  # noqa: PTH208
    kept = tmp_path / "cache" / "manifests"
    assert len(list(kept.glob("csv-sounds-*.json"))) == 1
    assert on_pages.find(run.record).manifest is not None


def test_a_folder_that_is_asked_for_is_used(at_home, tmp_path, monkeypatch):
    opening.open_task(at_home.csv, data=tmp_path / "asked")
    assert list((tmp_path / "asked" / "manifests").glob("csv-*.json"))
    monkeypatch.setenv("EVAR_DATA", str(tmp_path / "set"))
    opening.open_task(at_home.csv)
    assert list((tmp_path / "set" / "manifests").glob("csv-*.json"))
