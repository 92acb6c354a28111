"""A set that is hashed as it is decoded: one pass, the same result, nothing left behind."""

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

import evar
import evar.run
from evar.data import audio, manifests, own_sounds
from evar.embedding import engine, provisional
from evar.embedding.store import Store
from evar.errors import BadAudio, UserError

SHARD = 4  # clips
SLOW = """
import time

import torch

from evar import Adapter


class Slow(Adapter):
    "Level and peak, in its own time."

    sample_rate = 16000
    embed_dim = 2
    lr = 0.05

    def embed(self, audio):
        time.sleep(0.02)
        return torch.stack([audio.square().mean(dim=1), audio.abs().amax(dim=1)], 1)
"""


@pytest.fixture
def uneven(new_clips):
    """Forty clips, each of a length of its own, longer than the unit of 0.1 s."""
    made = new_clips()
    for i in range(40):
        side = ("train", "train", "valid", "test")[i // 2 % 4]
        hertz = (300, 3000)[i % 2] + i
        made.add(f"{i}.wav", ("low", "high")[i % 2], side, hertz=hertz, seconds=0.11 + i / 1000)
    return made


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(engine, "_SHARD_CLIPS", SHARD)


@pytest.fixture
def read(monkeypatch):
    """What is done with which file, in order: ("hash", name) and ("decode", name)."""
    found, fingerprint, load = [], audio.fingerprint, audio.load_clip

    def hashing(path):
        found.append(("hash", Path(path).name))
        return fingerprint(path)

    def decoding(path, *given, **how):
        found.append(("decode", Path(path).name))
        return load(path, *given, **how)

    monkeypatch.setattr(audio, "fingerprint", hashing)
    monkeypatch.setattr(audio, "load_clip", decoding)
    return found


def evaluate(model, csv, *, below=0, **how):
    """Evaluates with files hashed as they are decoded, above so many bytes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evar.run, "hash_limit", lambda: below)
        how = {"seeds": 1, "device": "cpu", "seconds": 0.1, **how}
        if how.get("protocol", "linear") == "linear":
            how["epochs"] = 3
        return evar.evaluate(model, csv, **how)


def usual(model, csv, cache="usual", **how):
    """Evaluates with files hashed first, in another cache and with other manifests."""
    Path("others").mkdir(exist_ok=True)
    return evaluate(model, csv, below=None, cache=cache, data="others", **how)


def same(a, b):
    assert (a.record.id, a.record.manifest, a.record.request) == (
        b.record.id,
        b.record.manifest,
        b.record.request,
    )
    assert a.predictions.equals(b.predictions)
    return a.score == b.score


def folders(cache="cache"):
    return sorted(path.parent.name for path in Path(cache).glob("*/key.json"))


def shards(cache="cache"):
    return {path.name: path.read_bytes() for path in Path(cache).glob("*/*.safetensors")}


@pytest.mark.parametrize("protocol", ["linear", "fewshot"])
def test_the_result_is_that_of_files_that_were_hashed_first(uneven, simple, protocol):
    first = usual(simple, uneven.csv, protocol=protocol)
    assert same(evaluate(simple, uneven.csv, protocol=protocol), first)
    assert folders() == folders("usual")
    assert shards() == shards("usual")


def test_each_file_is_hashed_once_just_before_it_is_decoded(uneven, simple, read):
    evaluate(simple, uneven.csv)
    names = sorted(path.name for path in uneven.root.glob("*.wav"))
    assert sorted(name for what, name in read if what == "hash") == names
    for name in names:
        assert [what for what, other in read if other == name][:2] == ["hash", "decode"]
    last = max(i for i, (what, _) in enumerate(read) if what == "hash")
    assert sum(what == "decode" for what, _ in read[:last]) > 20, "one pass over the files"
    read.clear()
    assert evaluate(simple, uneven.csv, lr=0.01).score >= 0
    assert not [name for what, name in read if what == "hash"], "the manifest was kept"
    assert len(read) <= 3, "and so were the embeddings, but for the spot check"


def test_an_adapter_that_learns_from_clips_first(uneven, read):
    found = evaluate("logmel", uneven.csv)
    hashed = [name for what, name in read if what == "hash"]
    assert len(hashed) == len(set(hashed)) == 40
    assert same(found, usual("logmel", uneven.csv))


def test_windows_of_long_recordings(new_clips, simple, read):
    made = new_clips()
    for i in range(8):
        side = ("train", "test")[i // 4]
        made.add(f"{i}.wav", ("low", "high")[i % 2], side, seconds=1 + i / 100)
    how = {"seconds": None, "windows": 0.25}
    found = evaluate(simple, made.csv, **how)
    assert sum(what == "hash" for what, _ in read) == 8
    assert same(found, usual(simple, made.csv, **how))


def test_without_a_cache(uneven, simple):
    assert same(evaluate(simple, uneven.csv, cache=None), usual(simple, uneven.csv))


def test_a_bad_clip_is_named_or_left_out(uneven, simple):
    uneven.rows.remove(uneven.listed("8.wav"))
    uneven.add("8.wav", "low", "train", samples=[float("nan")] * 1800, subtype="FLOAT")
    with pytest.raises(BadAudio, match=r"8\.wav"):
        evaluate(simple, uneven.csv)
    found = evaluate(simple, uneven.csv, skip_bad=True)
    assert found.record.clips.skipped
    assert same(found, usual(simple, uneven.csv, skip_bad=True))


def test_a_file_that_changes_meanwhile_ends_the_run(uneven, simple):
    fingerprint = audio.fingerprint

    def edited(path):
        if Path(path).name == "30.wav":
            os.utime(path)
        return fingerprint(path)

    with pytest.MonkeyPatch.context() as patch:  # undoing the fixture's would leave its folder
        patch.setattr(audio, "fingerprint", edited)
        with pytest.raises(UserError, match=r"30\.wav: changed while the data set was being read"):
            evaluate(simple, uneven.csv)
    assert same(evaluate(simple, uneven.csv), usual(simple, uneven.csv))


def test_another_copy_of_the_set_finds_what_is_kept(uneven, simple, new_clips, read):
    """Hashing takes less time than embedding."""
    first = evaluate(simple, uneven.csv)
    other = new_clips("elsewhere")
    for row in uneven.rows:
        other.rows.append(row)
        (other.root / row[0]).parent.mkdir(exist_ok=True)
        (other.root / row[0]).write_bytes((uneven.root / row[0]).read_bytes())
    read.clear()
    Path("second").mkdir()
    found = evaluate(simple, other.csv, data="second")
    assert found.record.manifest == first.record.manifest
    assert sum(what == "hash" for what, _ in read) == 40
    assert sum(what == "decode" for what, _ in read) <= 3
    assert len(folders()) == 1


def test_protocols_that_embed_otherwise_hash_first(uneven, read):
    evaluate("logmel", uneven.csv, protocol="attentive", epochs=1)
    first = [what for what, _ in read].index("decode")
    assert [what for what, _ in read[:first]].count("hash") == 40


def test_a_request_that_was_only_prepared_has_the_usual_key(uneven, simple):
    how = {"seeds": 1, "epochs": 3, "device": "cpu", "seconds": 0.1}
    later = evar.run.prepare(simple, uneven.csv, hashed_below=0, **how)
    assert later.manifest.unhashed
    done = later.run()
    assert done.record.request == evar.run.prepare(simple, uneven.csv, **how).key


def _in_a_process(csv, model, cache):
    engine._SHARD_CLIPS = SHARD
    evar.run.hash_limit = lambda: 0
    how = {"seeds": 1, "epochs": 3, "device": "cpu", "seconds": 0.1, "cache": cache}
    found = evar.evaluate(model, csv, **how)
    Path(f"{multiprocessing.current_process().name}.json").write_text(found.record.id)


def _start(csv, model, name):
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_in_a_process, args=(csv, model, Path("cache")), name=name)
    process.start()
    return process


def test_a_run_that_is_killed_goes_on(uneven, new_adapter, read, tmp_path):
    model = new_adapter(SLOW, "Slow", "slow.py")
    process = _start(uneven.csv, model, "killed")
    deadline = time.time() + 60
    while len(shards()) < 4:
        assert time.time() < deadline
        time.sleep(0.005)
    process.kill()
    process.join()
    done = len(shards())
    assert manifests.read(own_sounds.manifest_name(uneven.csv), tmp_path / "data")
    read.clear()
    found = evaluate(model, uneven.csv)
    hashed = [name for what, name in read if what == "hash"]
    assert len(hashed) <= 40 - done * SHARD // 2, "clips of kept shards are not hashed again"
    assert same(found, usual(model, uneven.csv))
    assert len(folders()) == 1


@pytest.mark.parametrize("moved", [0, 3, 10])
def test_a_run_that_is_killed_as_embeddings_move_goes_on(uneven, simple, read, moved):
    link, done = os.link, []

    def killed(old, new):
        if len(done) == moved:
            raise KeyboardInterrupt
        done.append(link(old, new))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provisional.os, "link", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate(simple, uneven.csv)
    read.clear()
    found = evaluate(simple, uneven.csv)
    assert len(read) <= 3, "nothing is hashed or decoded again, but for the spot check"
    assert same(found, usual(simple, uneven.csv))
    assert len(folders()) == 1


@pytest.mark.parametrize("below", [None, 10**12])
def test_a_run_that_was_killed_goes_on_where_files_are_hashed_first(uneven, simple, read, below):
    """Another command hashed them meanwhile, or more memory is free."""
    calls, write = [], Store.write

    def killed(self, number, shard):
        if len(calls) == 6:
            raise KeyboardInterrupt
        calls.append(number)
        write(self, number, shard)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate(simple, uneven.csv)
    read.clear()
    found = evaluate(simple, uneven.csv, below=below)
    decoded = [name for what, name in read if what == "decode"]
    assert len(decoded) <= 40 - 6 * SHARD + 3, "but for the spot check, the kept shards have moved"
    assert same(found, usual(simple, uneven.csv))
    assert len(folders()) == 1


def test_a_clip_that_became_unreadable_meanwhile_is_not_left_out(uneven, simple):
    load = audio.load_clip

    def edited(path, **how):
        if Path(path).name == "30.wav":
            Path(path).write_bytes(b"RIFF, or so it says")
        return load(path, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audio, "load_clip", edited)
        with pytest.raises(UserError, match=r"30\.wav: changed while the data set was being read"):
            evaluate(simple, uneven.csv, skip_bad=True)


def test_two_processes_at_once(uneven, new_adapter, tmp_path):
    model = new_adapter(SLOW, "Slow", "slow.py")
    both = [_start(uneven.csv, model, name) for name in ("one", "other")]
    for process in both:
        process.join()
        assert process.exitcode == 0
    ids = {Path(f"{name}.json").read_text() for name in ("one", "other")}
    assert ids == {usual(model, uneven.csv).record.id}
    assert len(folders()) == 1, "the last one has removed what has moved"


def identity(manifest):
    return {"model": "x", "manifest": manifest}


def test_moving_leaves_what_is_there_alone_and_works_without_links(tmp_path, monkeypatch):
    old, there = Store(tmp_path, identity("~1")), Store(tmp_path, identity("2"))
    for store, text in ((old, "old"), (there, "there")):
        store.path(0).write_text(text)
    old.path(1).write_text("old too")
    old.keep("fit", {"mean": 1.0})
    old.keep("files-000000", {"a.wav": "0"})

    def refuse(*_):
        raise PermissionError("no links here")

    monkeypatch.setattr(provisional.os, "link", refuse)
    there.path(0).unlink()
    new = provisional._moved(old, "2")
    assert new.folder == there.folder
    assert (new.path(0).read_text(), new.path(1).read_text()) == ("old", "old too")
    assert new.kept("fit") == {"mean": 1.0}
    assert new.kept("files-000000") is None
    monkeypatch.undo()
    new.path(0).write_text("mine")
    provisional._moved(old, "2")
    assert new.path(0).read_text() == "mine"


def test_without_locks_nothing_is_removed(uneven, simple, monkeypatch):
    """Nobody knows then who else is at work."""
    monkeypatch.setenv("EVAR_LOCKS", "0")
    evaluate(simple, uneven.csv)
    assert len(folders()) == 2
    moved = [json.loads(path.read_text()) for path in Path("cache").glob("*/moved.json")]
    assert moved[0]["to"] in folders()
