"""Embeddings from the cache are compared with what the model computes now."""

import json
from dataclasses import dataclass, field

import numpy as np
import pytest

import evar
from evar import models
from evar.embedding import spot_check
from evar.embedding.store import Shard, Store
from evar.progress import Progress

HOW = {"seeds": 1, "device": "cpu"}


def disturbed(cache, by: float) -> None:
    """Multiplies all kept embeddings, as if another model had made them."""
    (key,) = cache.glob("*/key.json")
    store = Store(cache, json.loads(key.read_text()))
    for path in store.folder.glob("*.safetensors"):
        number = int(path.stem)
        shard = store.read(number)
        store.write(number, Shard(shard.rows * np.float32(by), shard.bad))


@pytest.mark.parametrize("by", [0.9, 1.02])
def test_other_embeddings_under_this_models_key_are_refused(by, clips, simple, tmp_path):
    evar.evaluate(simple, clips.csv, **HOW)
    disturbed(tmp_path / "cache", by)
    with pytest.raises(evar.UserError) as error:
        evar.evaluate(simple, clips.csv, **HOW)
    for words in ("Simple", ".wav", "relative difference", "evar cache rm", "--no_cache"):
        assert words in str(error.value)
    assert str(error.value).count("\n") == 0
    evar.evaluate(simple, clips.csv, cache=None, **HOW)


def test_rounding_is_no_difference(clips, simple, tmp_path):
    evar.evaluate(simple, clips.csv, **HOW)
    disturbed(tmp_path / "cache", 1.001)
    evar.evaluate(simple, clips.csv, **HOW)


def test_the_remedy_of_the_message_works(clips, simple, tmp_path, command):
    evar.evaluate(simple, clips.csv, **HOW)
    disturbed(tmp_path / "cache", 2)
    with pytest.raises(evar.UserError) as error:
        evar.evaluate(simple, clips.csv, **HOW)
    _, _, rest = str(error.value).partition("`evar cache ")
    ran = command("cache", *rest.partition("`")[0].split())
    assert ran.code == 0
    assert evar.evaluate(simple, clips.csv, **HOW).record.clips_per_second is not None


def test_whole_clips_are_checked_too(clips, simple, tmp_path):
    evar.embed(simple, str(clips.root), device="cpu")
    disturbed(tmp_path / "cache", 2)
    with pytest.raises(evar.UserError, match="relative difference 0.5"):
        evar.embed(simple, str(clips.root), device="cpu")


def test_the_clips_of_the_check_are_the_shortest(new_clips, simple, monkeypatch):
    clips = new_clips()
    for i, seconds in enumerate((0.5, 0.2, 0.4, 0.3, 0.1, 0.6)):
        side = "test" if i % 3 == 2 else "train"
        clips.add(f"{i}.wav", ("low", "high")[i % 2], side, seconds=seconds, hertz=300 + 100 * i)
    evar.embed(simple, str(clips.root), device="cpu")
    seen = []
    difference = spot_check._difference

    def counted(encoder, clip, *more):
        seen.append(len(clip) / 16000)
        return difference(encoder, clip, *more)

    monkeypatch.setattr(spot_check, "_difference", counted)
    evar.embed(simple, str(clips.root), device="cpu")
    assert seen == [0.1, 0.2, 0.3]


def test_a_verified_model_is_not_checked(clips, tmp_path, monkeypatch):
    """What decides its embeddings is known to be in its key; a rerun takes no decoding."""
    assert models.config("logmel").is_verified
    evar.evaluate("logmel", clips.csv, **HOW)
    monkeypatch.delattr("evar.data.audio.load_clip")
    evar.evaluate("logmel", clips.csv, **HOW)


@dataclass(frozen=True)
class Notes(Progress):
    """Keeps what is reported."""

    lines: list = field(default_factory=list)

    def note(self, text):
        self.lines.append(text)


def test_what_has_changed_is_said(clips, new_adapter, tmp_path):
    model = new_adapter(
        "import json\nfrom evar import Adapter\n\n\nclass Mine(Adapter):\n"
        "    sample_rate, embed_dim = 16000, 1\n\n    def embed(self, audio):\n"
        f"        scale = json.load(open({str(tmp_path / 'scale.json')!r}))\n"
        "        return scale * audio.abs().mean(1, keepdim=True)\n",
        "Mine",
    )
    notes = Notes()
    for scale in ("1", "1", "2"):
        (tmp_path / "scale.json").write_text(scale)
        evar.evaluate(model, clips.csv, progress=notes, **HOW)
    (line,) = (line for line in notes.lines if "embedded again" in line)
    assert line.startswith("Mine: embedded again")
    assert "opened, embeds changed" in line
