"""Embeddings: each clip once, the same whatever happens on the way."""

import multiprocessing
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from evar import files, models
from evar.data import audio, indexing, own_sounds
from evar.data.manifest import Manifest
from evar.embedding import embeddings, engine, store
from evar.embedding.encoder import Encoder, OnItsWay
from evar.errors import UserError
from evar.runtime import Runtime

COUNTING = """
import hashlib
import time

import torch
from evar import Adapter


class Counting(Adapter):
    "Writes down every clip that it embeds."

    sample_rate, embed_dim = 16000, 2

    def __init__(self, log: str = "", pause: float = 0.0):
        super().__init__()
        self.log, self.pause = log, pause

    def embed(self, audio):
        time.sleep(self.pause)
        if self.log and audio.shape[1] < 16000:  # no sound of the model's fingerprint
            with open(f"{self.log}/log", "a") as file:
                seen = [hashlib.md5(clip.numpy().tobytes()).hexdigest() for clip in audio]
                file.write("".join(f"{mark}\\n" for mark in seen))
        return torch.stack([audio.square().mean(dim=1), audio.abs().amax(dim=1)], dim=1)
"""
SHARD = 16  # clips in a shard, fewer than usual
SPOT = 3  # clips that a run with cached embeddings embeds once more, to compare
STEADY = 1  # clips that every run embeds once more, to see that they stay what they are


@pytest.fixture
def many(new_clips):
    """100 clips: seven shards, the last one not full."""
    made = new_clips()
    for i in range(100):
        made.add(f"{i:03d}.wav", "ab"[i % 2], ("train", "test")[i % 4 == 0], seconds=0.05)
    return made


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(engine, "_SHARD_CLIPS", SHARD)


@pytest.mark.parametrize(
    ("lengths", "starts"),
    [
        ([], [0]),
        ([100] * 33, [0, 16, 32, 33]),
        ([2**22] * 9, [0, 4, 8, 9]),
        ([10, 2**25, 2**25, 10], [0, 1, 2, 3, 4]),
        ([2**23, 2**23 + 1, 5], [0, 1, 3]),
    ],
)
def test_a_shard_holds_no_more_than_memory_is_meant_to(lengths, starts):
    """64 MB of float32 samples, or a single clip, or as many clips as there may be."""
    assert engine.shard_starts(lengths) == starts


def manifest_of(made, **more):
    return indexing.build(own_sounds.task_from_csv(made.csv, **more), made.root)


def embed(made, model, options=None, **more):
    """Embeddings of a folder of clips, with the cache in ./cache unless told otherwise."""
    loaded = models.load(model, **(options or {}))
    manifest = made if isinstance(made, Manifest) else manifest_of(made)
    seed = more.pop("crop_seed", 42)
    runtime = Runtime(**{"cache": files.cache_folder(), "batch_size": 4, **more})
    return embeddings.embed_task(loaded, manifest, runtime, crop_seed=seed)


def same(one, other):
    return one.values.tobytes() == other.values.tobytes()


# --- which parts of which clips


@pytest.fixture
def long_and_short(new_clips):
    made = new_clips()
    for side in ("train", "valid", "test"):
        made.add(f"{side}-short.wav", "a", side, seconds=0.1)
        made.add(f"{side}-unit.wav", "b", side, seconds=0.2)
        made.add(f"{side}-long.wav", "a", side, seconds=0.5, rate=44100)
        made.add(f"{side}-b.wav", "b", side, seconds=0.5, rate=8000)
    return made


def test_test_clips_give_their_first_unit_the_others_a_random_one(long_and_short):
    manifest = manifest_of(long_and_short, seconds=0.2)
    for view in embeddings.views(manifest, sample_rate=16000, crop_seed=42):
        row = manifest.table.loc[view.row]
        if row.split == "test" or row.file.endswith(("short.wav", "unit.wav")):
            assert view.start == 0
        else:
            assert view.start == audio.random_start(42, row.file)
    assert len({v.row for v in embeddings.views(manifest, sample_rate=16000, crop_seed=0)}) == 12


def test_with_folds_a_long_clip_has_both_parts(long_and_short, simple):
    long_and_short.columns[2] = "fold"
    manifest = manifest_of(long_and_short, seconds=0.2)
    plan = embeddings.views(manifest, sample_rate=16000, crop_seed=42)
    assert len(plan) == 12 + 6
    embedded = embed(manifest, simple)
    for row, file in manifest.table.file.items():
        whole = file.endswith(("short.wav", "unit.wav"))
        train, test = (f(embedded, [row])[0] for f in ROWS)
        assert bool(train == test) is whole
        if not whole:
            assert (embedded.values[train] != embedded.values[test]).any()


ROWS = (embeddings.training_rows, embeddings.test_rows)


def test_values_are_those_of_the_right_part(long_and_short, simple):
    """Row for row what the adapter gives for that part of that clip alone."""
    manifest = manifest_of(long_and_short, seconds=0.2)
    adapter = models.load(simple).adapter
    embedded = embed(manifest, simple)
    for row, (file, side) in enumerate(zip(manifest.table.file, manifest.table.split, strict=True)):
        start = 0 if side == "test" else audio.random_start(42, file)
        clip = audio.load_clip(manifest.root / file, sample_rate=16000, samples=3200, start=start)
        alone = Encoder(adapter)(clip[None])[0]
        at = ROWS[side == "test"](embedded, [row])[0]
        np.testing.assert_allclose(embedded.values[at], alone, rtol=1e-5)


def test_the_crop_seed_changes_long_clips_only(long_and_short, simple):
    manifest = manifest_of(long_and_short, seconds=0.2)
    one, other = (embed(manifest, simple, crop_seed=seed) for seed in (1, 2))
    differs = (one.values != other.values).any(axis=1)
    assert differs.sum() == 4  # long training and validation clips


# --- the cache


def test_a_second_run_embeds_a_few_clips_to_compare(many, new_adapter, tmp_path):
    log = tmp_path / "log"
    model, options = new_adapter(COUNTING, "Counting"), {"log": str(log.parent)}
    first = embed(many, model, options)
    assert len(log.read_text().split()) == 100 + STEADY
    assert same(embed(many, model, options), first)
    assert len(log.read_text().split()) == 100 + STEADY + SPOT


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_batch_size_and_the_cache_change_nothing(batch_size, many, simple):
    first = embed(many, simple, cache=None, batch_size=16)
    other = embed(many, simple, cache=None, batch_size=batch_size)
    np.testing.assert_allclose(first.values, other.values, rtol=1e-6)


WEIGHTED = """
import numpy as np
import torch
from evar import Adapter


class {name}(Adapter):
    sample_rate, embed_dim = {rate}, 1

    def __init__(self, weights=None, power: int = 1):
        super().__init__(weights)
        self.power = power
        {load}

    def embed(self, audio):
        return self.gain * audio.abs().mean(dim=1, keepdim=True) ** self.power
"""
PARAMETER = "self.gain = torch.nn.Parameter(torch.from_numpy(np.load(weights)))"
PLAIN = "self.gain = torch.from_numpy(np.load(weights))"


@pytest.fixture
def embed_with(new_adapter, new_clips, tmp_path):
    """A function that embeds under one key, told what differs from the usual."""
    made = new_clips()
    for i in range(8):
        made.add(f"{i}.wav", "ab"[i % 2], ("train", "test")[i // 4], seconds=0.1)

    def of(*, gain=1.0, load=PARAMETER, rate=16000, edit="", options=None, seconds=None, **more):
        np.save(tmp_path / "gain.npy", np.float32([gain]))
        source = WEIGHTED.format(name="Weighted", load=load, rate=rate) + edit
        model = new_adapter(source, "Weighted", file=more.pop("file", "mine.py"))
        made.rows[0][1] = more.pop("label", "a")
        loaded = models.load(model, weights=tmp_path / "gain.npy", **(options or {}))
        seed = more.pop("crop_seed", 42)
        runtime = Runtime(cache=tmp_path / "cache", **more)
        manifest = manifest_of(made, seconds=seconds)
        embeddings.embed_task(loaded, manifest, runtime, crop_seed=seed)

    return of


def keys(tmp_path):
    return {entry.key for entry in store.entries(tmp_path / "cache")}


CHANGES = {
    "weights": {"gain": 2.0},
    "source": {"edit": "\nused = 1\n"},
    "options": {"options": {"power": 2}},
    "sample rate": {"rate": 8000},
    "manifest": {"label": "b"},
    "unit": {"seconds": 0.05},
    "crop seed": {"crop_seed": 1},
    "precision": {"precision": "bf16"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_embeddings_changes_their_key(change, embed_with, tmp_path):
    embed_with()
    embed_with()
    assert len(keys(tmp_path)) == 1
    embed_with(**CHANGES[change])
    assert len(keys(tmp_path)) == 2


def test_weights_that_are_no_parameters_change_the_key_too(embed_with, tmp_path):
    embed_with(load=PLAIN)
    embed_with(load=PLAIN, gain=2.0)
    assert len(keys(tmp_path)) == 2


def test_the_same_adapter_in_another_folder_has_the_same_key(embed_with, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    embed_with()
    embed_with(file="elsewhere/other.py")
    assert len(keys(tmp_path)) == 1


UNSTEADY = """
import torch
from evar import Adapter


class Unsteady(Adapter):
    sample_rate, embed_dim = 16000, 2

    def __init__(self, how: str):
        super().__init__()
        self.how = how

    def embed(self, audio):
        values = torch.stack([audio.square().mean(dim=1), audio.abs().amax(dim=1)], dim=1)
        if self.how == "chance":
            return values + 0.1 * torch.randn(values.shape)
        return values - values.mean(dim=0) if self.how == "batch" else values
"""


@pytest.mark.parametrize("how", ["chance", "batch"])
def test_an_encoder_that_is_not_steady_is_refused(how, many, new_adapter, tmp_path):
    model = new_adapter(UNSTEADY, "Unsteady")
    with pytest.raises(UserError, match=r"another embedding .* evar.check"):
        embed(many, model, {"how": how})
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    embed(many, model, {"how": "steady"})


def test_without_a_cache_nothing_is_left(many, simple, tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    kept, gone = embed(many, simple), embed(many, simple, cache=None)
    assert same(kept, gone)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert len(keys(tmp_path)) == 1


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_shard_is_embedded_again_and_no_other(damage, many, new_adapter, tmp_path):
    log = tmp_path / "log"
    model, options = new_adapter(COUNTING, "Counting"), {"log": str(log.parent)}
    first = embed(many, model, options)
    path = sorted((tmp_path / "cache").glob("*/*.safetensors"))[2]
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x10
    path.write_bytes(content if damage == "flip" else content[:-8])
    if damage == "gone":
        path.unlink()
    log.unlink()
    assert same(embed(many, model, options), first)
    assert len(log.read_text().split()) == SHARD + STEADY + SPOT


def test_one_and_the_same_clip_gives_the_same_bytes_in_every_process(many, simple, workers):
    first = embed(many, simple)
    done = [run(workers, many.csv, simple, cache=name) for name in ("one", "two")]
    for process in done:
        process.join()
    values = [np.load(f"{name}.npy") for name in ("one", "two")]
    assert values[0].tobytes() == values[1].tobytes() == first.values.tobytes()


# --- several processes, killed ones


@pytest.fixture(scope="module")
def workers():
    """Processes that start within milliseconds, from a server that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torchaudio", "pandas"])
    return context


def in_a_process(csv, model, cache, options, start_at):
    """What a worker does: wait for the common start, embed, leave the values in <cache>.npy."""
    engine._SHARD_CLIPS = SHARD
    task = own_sounds.task_from_csv(csv)
    manifest = indexing.build(task, Path(csv).parent)
    time.sleep(max(0, start_at - time.time()))
    Path(f"{cache}.started").touch()
    values = embed(manifest, model, options, cache=Path(cache)).values
    np.save(f"{cache}-{multiprocessing.current_process().name}.npy", values)
    np.save(f"{cache}.npy", values)


def run(context, csv, model, *, cache, options=None, start_at=0.0, name=None):
    arguments = (csv, model, cache, options or {}, start_at)
    process = context.Process(target=in_a_process, args=arguments, name=name)
    process.start()
    return process


def wait_for(path):
    deadline = time.time() + 20
    while not path.exists():
        assert time.time() < deadline, f"{path} never came"
        time.sleep(0.005)


def test_a_run_killed_at_any_moment_continues(many, new_adapter, workers, tmp_path):
    log, kills = tmp_path / "log", 5
    model, options = new_adapter(COUNTING, "Counting"), {"log": str(log.parent), "pause": 0.01}
    rng = np.random.default_rng()
    for _ in range(kills):  # alone it takes 25 batches of 10 ms
        (tmp_path / "cache.started").unlink(missing_ok=True)
        process = run(workers, many.csv, model, cache="cache", options=options)
        wait_for(tmp_path / "cache.started")
        time.sleep(rng.uniform(0.02, 0.12))
        process.kill()
        process.join()
    resumed = embed(many, model, options)
    counted = Counter(log.read_text().split())
    assert len(counted) == 100
    assert sum(counted.values()) <= 100 + kills * SHARD + (kills + 1) * STEADY + SPOT, (
        "only the shard at hand was lost"
    )
    assert same(resumed, embed(many, model, options, cache=None))
    assert not list((tmp_path / "cache").rglob(".*safetensors*")), "parts of shards left behind"


def test_two_processes_share_the_work(many, new_adapter, workers, tmp_path):
    log = tmp_path / "log"
    model, options = new_adapter(COUNTING, "Counting"), {"log": str(log.parent), "pause": 0.01}
    start_at = time.time() + 0.5
    both = [
        run(workers, many.csv, model, cache="cache", options=options, start_at=start_at, name=name)
        for name in ("one", "two")
    ]
    for process in both:
        process.join()
        assert process.exitcode == 0
    one, two = (np.load(f"cache-{name}.npy") for name in ("one", "two"))
    assert one.tobytes() == two.tobytes()
    counted = Counter(log.read_text().split())
    assert len(counted) == 100
    assert sum(counted.values()) <= 100 + 2 * (STEADY + SPOT)
    log.unlink()
    assert embed(many, model, options).values.tobytes() == one.tobytes()
    assert len(log.read_text().split()) == SPOT
    assert embed(many, model, options, cache=None).values.tobytes() == one.tobytes()


# --- what an adapter gives


def test_every_clip_has_one_embedding(many, simple):
    embedded = embed(many, simple)
    assert embedded.values.shape == (100, 3)
    assert sorted(embedded.first) == list(range(100))
    assert (embedded.cropped == -1).all()
    assert embedded.bad == {}


def test_a_fit_sees_training_clips_only(new_clips, new_adapter, tmp_path):
    made = new_clips()
    for i in range(20):
        loud = 0.5 if i % 2 else 0.1
        side = "test" if i % 2 else "train"
        made.add(f"{i}.wav", "abba"[i % 4], side, samples=np.full(800, loud))
    source = (
        "import torch\nfrom evar import Adapter\n\n\nclass Fits(Adapter):\n"
        "    sample_rate, embed_dim, fit_clips = 16000, 1, 7\n    level = None\n\n"
        "    def fit(self, batches):\n        clips = torch.cat(list(batches))\n"
        "        return {'level': clips.mean().item(), 'clips': len(clips)}\n\n"
        "    def fitted(self, statistics):\n        assert statistics['clips'] == 7\n"
        "        self.level = statistics['level']\n\n"
        "    def embed(self, audio):\n        return audio.mean(1, keepdim=True) / self.level\n"
    )
    values = embed(made, new_adapter(source, "Fits")).values
    assert sorted(set(values.ravel().round(2).tolist())) == [1, pytest.approx(5, abs=0.01)]


def test_a_fit_is_made_once(many, command, tmp_path):
    first = embed(many, "logmel")
    fit = next((tmp_path / "cache").glob("*/fit.json"))
    before = fit.stat().st_mtime_ns
    assert same(embed(many, "logmel"), first)
    assert fit.stat().st_mtime_ns == before


@pytest.mark.parametrize("room", [2**26, 30 * 4 * 800, 0])
def test_clips_of_a_fit_are_not_decoded_again(room, many, monkeypatch):
    """logmel is fitted to all 75 training clips: as many as there is room for are kept."""
    expected = embed(manifest_of(many, seconds=0.05), "logmel", cache=None)
    decoded, load_clip = Counter(), audio.load_clip

    def counting(path, **how):
        decoded[path] += 1
        return load_clip(path, **how)

    monkeypatch.setattr(audio, "load_clip", counting)
    monkeypatch.setattr(engine, "_SHARD_BYTES", room)
    assert same(embed(manifest_of(many, seconds=0.05), "logmel", cache=None), expected)
    kept = min(75, room // (4 * 800))
    assert sorted(Counter(decoded.values()).items()) == [
        item for item in ((1, 25 + kept), (2, 75 - kept)) if item[1]
    ]


def test_a_refused_adapter_leaves_no_shard(many, new_adapter, tmp_path):
    source = (
        "import torch\nfrom evar import Adapter\n\n\nclass Late(Adapter):\n"
        "    sample_rate, embed_dim, seen = 16000, 1, 0\n\n"
        "    def embed(self, audio):\n        self.seen += len(audio)\n"
        "        return torch.full((len(audio), 1), 1.0 if self.seen < 10 else torch.nan)\n"
    )
    with pytest.raises(UserError, match="not finite"):
        embed(many, new_adapter(source, "Late"))
    assert not list((tmp_path / "cache").rglob("*.safetensors*"))


def test_batches_in_flight_from_shard_to_shard_change_nothing(many, tmp_path, monkeypatch):
    """As on a GPU, which may be at work on a shard's last batches when the next one begins."""
    found = []
    for in_flight in (0, 2, 5):
        folder = tmp_path / str(in_flight)
        model = models.load("logmel")
        runtime = Runtime(cache=folder, batch_size=5)
        with embeddings.engine_for_task(model, manifest_of(many), runtime) as made:
            made.in_flight = in_flight
            values, _ = made.run()
            assert made.computed == 100
            assert not made.started
        found.append((values.tobytes(), [p.read_bytes() for p in sorted(folder.rglob("0*.safe*"))]))
    assert found[0] == found[1] == found[2]


def test_what_is_on_its_way_is_checked_when_it_has_arrived():
    class Event:
        arrived = False

        def synchronize(self):
            self.arrived = True

    encoder = Encoder(models.load("logmel").adapter)
    values, event = torch.ones(2, 64), Event()
    sent = OnItsWay(values, torch.tensor(True), event)
    assert (encoder.finish(sent, 2) == 1).all()
    assert event.arrived
    with pytest.raises(UserError, match="not finite"):
        encoder.finish(OnItsWay(values, torch.tensor(False), event), 2)
    with pytest.raises(UserError, match="shape"):
        encoder.finish(sent, 3)
