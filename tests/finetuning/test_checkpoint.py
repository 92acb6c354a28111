"""What a run leaves on disk: whole files, plain content, nothing of a killed writer."""

import math
import os

import numpy as np
import pytest
import torch

from evar.errors import UserError
from evar.finetuning.checkpoint import Place, run_key


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "seed-43-fold-1")


def state(best_epoch, **more):
    return {"best_epoch": best_epoch, "best": -math.inf, "model": {"w": torch.arange(3.0)}, **more}


def test_a_state_comes_back_without_unpickling(place):
    assert place.state() is None
    place.save_state(state(0, curve=[{"loss": 0.5, "valid": None}], ema=None))
    kept = place.state()
    assert kept["model"]["w"].equal(torch.arange(3.0))
    assert (kept["best"], kept["curve"]) == (-math.inf, [{"loss": 0.5, "valid": None}])
    assert torch.load(place.path / "state.pt", weights_only=True)


def test_only_the_best_epochs_weights_are_kept(place):
    for epoch in (1, 2, 3):
        place.save_weights(epoch, {"w": torch.full((2,), float(epoch))}, {"fit": "{}"})
    place.save_state(state(2))
    assert [p.name for p in place.path.glob("best*")] == ["best-0002.safetensors"]
    tensors, about = place.weights(2)
    assert tensors["w"].tolist() == [2, 2]
    assert about["fit"] == "{}"
    with pytest.raises(UserError, match="no weights"):
        place.weights(3)


def test_weights_that_share_memory_are_written_whole(place):
    w = torch.arange(6.0)
    place.save_weights(1, {"a": w.clone(), "b": w[:3].clone()}, {})
    assert place.weights(1)[0]["b"].tolist() == [0, 1, 2]


def test_a_stale_end_does_not_stand_for_an_epoch(place):
    place.save_weights(1, {"w": torch.zeros(1)}, {})
    place.finish(1, np.zeros((2, 2)), {})
    (place.path / "done.json").unlink()  # killed while an earlier run was forgotten
    place.save_weights(2, {"w": torch.ones(1)}, {})
    assert place.weights(2)[0]["w"] == 1


def test_a_state_that_outlived_its_run_is_removed(place):
    place.save_weights(1, {"w": torch.zeros(1)}, {})
    place.finish(1, np.zeros((2, 2)), {})
    (place.path / "state.pt").write_bytes(b"left by a killed run")
    place.tidy()
    assert not (place.path / "state.pt").exists()


def test_an_ended_run_has_its_outcome_and_nothing_to_go_on_from(place):
    place.save_weights(4, {"w": torch.ones(1)}, {})
    place.save_state(state(4))
    assert not place.ended
    scores = np.linspace(0, 1, 6, dtype=np.float32).reshape(3, 2)
    place.finish(4, scores, {"score": 0.5})
    assert place.ended
    assert place.state() is None
    found, record = place.outcome()
    np.testing.assert_array_equal(found, scores)
    assert record == {"score": 0.5}
    assert place.weights()[0]["w"].tolist() == [1]
    place.finish(4, scores, {"score": 0.5})  # killed in between, and done once more
    place.clear()
    assert not place.ended
    assert not list(place.path.iterdir())


def test_what_is_older_is_told_from_what_another_process_has_done_since(place):
    """With --no_resume, the first is forgotten and the second is not."""
    place.save_state(state(0))
    os.utime(place.path / "state.pt", (1000, 1000))
    assert place.older_than(2000)
    assert not place.older_than(1000)
    place.finish(1, np.zeros((2, 2)), {})
    assert not place.older_than(2000)


def test_what_a_killed_writer_left_is_removed(place):
    place.save_state(state(0))
    (place.path / ".state.pt.abc123").write_bytes(b"half")
    place.tidy()
    assert [p.name for p in place.path.iterdir()] == ["state.pt"]


def test_a_damaged_state_is_told_from_a_missing_one(place):
    place.save_state(state(0))
    path = place.path / "state.pt"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"state.pt: damaged.*--no_resume"):
        place.state()
    torch.save({"something": "else"}, path)
    with pytest.raises(UserError, match=r"state.pt: damaged.*--no_resume"):
        place.state()


def test_a_state_without_its_best_weights_is_damaged(place):
    place.save_weights(1, {"w": torch.zeros(1)}, {})
    place.save_state(state(1))
    (place.path / "best-0001.safetensors").unlink()
    with pytest.raises(UserError, match=r"state.pt: .*files that belong to it.*--no_resume"):
        place.state()


@pytest.mark.parametrize(("file", "content"), [("done.json", b"{"), ("logits.npy", b"\x93NUMPY")])
def test_a_damaged_outcome_is_named(file, content, place):
    place.finish(1, np.zeros((2, 2)), {})
    (place.path / file).write_bytes(content)
    with pytest.raises(UserError, match=r"done.json: damaged.*--no_resume"):
        place.outcome()


def test_the_key_of_a_run_is_that_of_its_content():
    assert run_key({"a": 1, "b": [2]}) == run_key({"b": [2], "a": 1})
    assert run_key({"a": 1}) != run_key({"a": 2})
