"""Resampling on the encoder's device: torchaudio's, on the crops of the threads' resampler."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import torchaudio

import evar
from evar import models
from evar.commands.embed import embed
from evar.commands.evaluate import command_of
from evar.commands.predict import predict
from evar.data import audio, indexing, own_sounds
from evar.embedding import embeddings, engine, resampling
from evar.embedding.together import fill_together
from evar.errors import UserError
from evar.pages import embedding_map
from evar.protocols import linear
from evar.runtime import Runtime, usable
from evar.sweeping import plan

RATE = 16000
RATES = (44100, 48000, 22050, 8000, 11025, 96000)
ADAPTER = """
from evar import Adapter


class Samples(Adapter):
    sample_rate = 16000
    embed_dim = 800

    def embed(self, audio):
        return audio[:, 40:840]  # behind the step from nothing to sound


class Doubled(Samples):
    def embed(self, audio):
        return 2 * audio[:, 40:840]  # behind the step from nothing to sound
"""


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def sound(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    """Noise whose spectrum falls, as of music: (S,) float32."""
    noise = np.random.default_rng(seed).standard_normal(round(seconds * rate))
    steps = np.cumsum(noise)
    return (0.2 * (steps - steps.mean()) / np.abs(steps).max()).astype(np.float32)


@pytest.fixture
def write(tmp_path):
    def written(name: str, seconds: float, rate: int):
        soundfile.write(tmp_path / name, sound(seconds, rate), rate, "FLOAT")
        return tmp_path / name

    return written


@pytest.fixture
def on_device():
    return resampling.OnDevice(RATE, "cpu")


def by_torchaudio(mono: np.ndarray, rate: int) -> np.ndarray:
    """The whole clip, resampled by torchaudio alone."""
    made = torchaudio.transforms.Resample(
        rate,
        RATE,
        resampling_method="sinc_interp_kaiser",
        lowpass_filter_width=92,
        rolloff=0.95687,
        beta=12.86,
    )
    return made(torch.from_numpy(mono)).numpy()


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("start", [0, 1, 12_345_678_901, audio.random_start(42, "a.wav")])
def test_a_unit_is_that_of_the_whole_clip_resampled_by_torchaudio(write, on_device, rate, start):
    path = write("a.wav", 2.3, rate)
    clip = on_device.load(path, samples=8000, start=start)
    unit = on_device.batch([clip])[0].numpy()
    whole = by_torchaudio(sound(2.3, rate), rate)
    usual = audio.load_clip(path, sample_rate=RATE, samples=None)
    first = start % (len(usual) - 8000)
    np.testing.assert_allclose(unit, whole[first : first + 8000], atol=2e-7)
    assert clip.samples.nbytes < 0.6 * 4 * 2.3 * rate  # no more is sent than the unit needs


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("samples", [None, 4000, 16000, 40000])
def test_crops_and_padding_are_those_of_the_threads(write, on_device, rate, samples):
    path, start = write("a.wav", 1.01, rate), 10**15 + 7
    usual = audio.load_clip(path, sample_rate=RATE, samples=samples, start=start)
    clip = on_device.load(path, samples=samples, start=start)
    ours = on_device.batch([clip])[0].numpy()
    assert ours.shape == usual.shape
    end = min(len(usual), round(1.01 * RATE))
    assert not ours[end:].any()
    inside = slice(200, end - 200)  # soxr and zeros beyond the ends of a clip
    error = np.linalg.norm(ours[inside] - usual[inside]) / np.linalg.norm(usual[inside])
    assert error < 1e-3
    shifted = np.linalg.norm(ours[inside] - np.roll(usual, 1)[inside])
    assert shifted > 10 * error * np.linalg.norm(usual[inside])


def test_lengths_are_those_of_soxr():
    zeros = np.zeros(50_000, np.float32)
    for rate in (*RATES, 32000, 47_999, 12_000):
        ratio = resampling._Ratio.of(rate, RATE)
        for length in (2, 3, 10, 441, 12_345, 49_999):
            assert ratio.length(length) == len(audio.resampled(zeros[:length], rate, RATE))


@pytest.mark.parametrize("rate", RATES)
def test_the_filters_reach_is_torchaudios(on_device, rate):
    assert resampling._Ratio.of(rate, RATE).reach == on_device._filter(rate).width


def test_a_clip_at_the_models_rate_keeps_every_bit(write, on_device):
    path = write("a.wav", 1.5, RATE)
    for samples, start in ((None, 0), (8000, 0), (8000, 10**9 + 1), (40_000, 5)):
        usual = audio.load_clip(path, sample_rate=RATE, samples=samples, start=start)
        ours = on_device.batch([on_device.load(path, samples=samples, start=start)])
        np.testing.assert_array_equal(ours[0].numpy(), usual)


def test_neighbours_in_a_batch_change_nothing(write, on_device):
    paths = [write(f"{n}.wav", 0.4 + 0.3 * n, 44100) for n in range(5)]
    clips = [on_device.load(path, samples=8000, start=97 * n) for n, path in enumerate(paths)]
    assert len({on_device.alike(clip) for clip in clips}) == 1  # short ones among them
    together = on_device.batch(clips).numpy()
    alone = np.concatenate([on_device.batch([clip]).numpy() for clip in clips])
    np.testing.assert_allclose(together, alone, atol=2e-7)


def test_a_rate_that_needs_a_vast_filter_is_resampled_by_soxr(write, on_device):
    path = write("a.wav", 1.5, 22_254)
    usual = audio.load_clip(path, sample_rate=RATE, samples=8000, start=99)
    ours = on_device.batch([on_device.load(path, samples=8000, start=99)])
    np.testing.assert_array_equal(ours[0].numpy(), usual)


def test_silence_is_refused_and_a_span_is_read_alone(write, on_device, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(44100), 44100)
    with pytest.raises(UserError, match="silent"):
        on_device.load(tmp_path / "silent.wav", samples=None)
    path, span = write("a.wav", 3, 44100), (44100, 88200)
    unit = on_device.batch([on_device.load(path, samples=None, span=span)])[0].numpy()
    expected = by_torchaudio(sound(3, 44100)[slice(*span)], 44100)
    np.testing.assert_allclose(unit, expected, atol=2e-7)


# Through the engine


@pytest.fixture
def manifest(tmp_path, write):
    """Twelve clips of three rates and several lengths; the unit is half a second."""
    rates = (44100, 22050, RATE)
    names = [f"{n}.wav" for n in range(12)]
    for n, name in enumerate(names):
        write(name, 0.3 + 0.1 * n, rates[n % 3])
    sides = ["train", "train", "valid", "test"] * 3
    table = pd.DataFrame({"file": names, "label": ["a", "b"] * 6, "split": sides})
    table.to_csv(tmp_path / "mine.csv", index=False)
    task = own_sounds.task_from_csv(tmp_path / "mine.csv", seconds=0.5)
    return indexing.build(task, tmp_path)


@pytest.fixture
def loaded(tmp_path):
    path = tmp_path / "samples.py"
    path.write_text(ADAPTER)
    return lambda name="Samples": models.load(f"{path}:{name}")


def both(cache=None, **more):
    return (Runtime(cache=cache, resample=where, **more) for where in ("cpu", "gpu"))


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_embeddings_are_of_the_same_crops(manifest, loaded, batch_size):
    cpu, gpu = (
        embeddings.embed_task(loaded(), manifest, how) for how in both(batch_size=batch_size)
    )
    np.testing.assert_array_equal(cpu.first, gpu.first)
    np.testing.assert_array_equal(cpu.cropped, gpu.cropped)
    assert (gpu.cropped >= 0).any()
    assert 0 < np.abs(cpu.values - gpu.values).max() < 1e-4
    same_rate = gpu.first[(manifest.table.sample_rate == RATE).to_numpy()]
    same_rate = same_rate[same_rate >= 0]
    assert len(same_rate)
    np.testing.assert_array_equal(cpu.values[same_rate], gpu.values[same_rate])


def test_whole_clips_have_the_length_of_the_threads(manifest, loaded, tmp_path):
    seen: dict[str, list] = {}
    for how in both(batch_size=4):
        model = loaded()
        lengths = seen.setdefault(how.resample, [])

        def embed(batch, lengths=lengths):
            lengths.append(tuple(batch.shape))
            return batch[:, 40:840]

        vars(model.adapter)["embed"] = embed
        rows = manifest.good.index
        values, _, _ = embeddings.embed_whole(model, manifest, rows, how, joint=False)
        seen[f"{how.resample} values"] = values
    assert sorted(seen["cpu"]) == sorted(seen["gpu"])
    np.testing.assert_allclose(seen["cpu values"], seen["gpu values"], atol=1e-4)


def test_the_two_are_kept_apart_in_the_cache(manifest, loaded, tmp_path):
    for how in (*both(tmp_path / "cache"), *both(tmp_path / "cache")):
        embeddings.embed_task(loaded(), manifest, how)
    keys = [json.loads(p.read_text()) for p in (tmp_path / "cache").glob("*/key.json")]
    assert len(keys) == 2
    resamplers = sorted(key.pop("resampler") for key in keys)
    assert keys[0] == keys[1]
    assert resamplers[0].startswith("soxr HQ")
    assert resamplers[1].startswith("torchaudio 2.")
    assert "Kaiser 92 0.95687 12.86" in resamplers[1]


def test_a_cached_embedding_is_checked_by_its_own_resampler(manifest, loaded, tmp_path):
    how = Runtime(cache=tmp_path, resample="gpu")
    first = embeddings.embed_task(loaded(), manifest, how)
    again = embeddings.embed_task(loaded(), manifest, how)
    np.testing.assert_array_equal(first.values, again.values)


def test_several_encoders_share_one_decoding(manifest, loaded, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "_SHARD_CLIPS", 5)
    decoded, load = [], audio.sound
    monkeypatch.setattr(audio, "sound", lambda p, *a, **k: decoded.append(p) or load(p, *a, **k))
    how = Runtime(cache=tmp_path / "a", resample="gpu")
    names = ("Samples", "Doubled")
    contexts = [embeddings.engine_for_task(loaded(name), manifest, how) for name in names]
    with contexts[0] as one, contexts[1] as two:
        fill_together([one, two], failed=lambda number, error: pytest.fail(str(error)))
        views = len(one.plan)
    assert len(decoded) == views
    alone = replace(how, cache=tmp_path / "b")
    for name in names:
        kept, fresh = (
            embeddings.embed_task(loaded(name), manifest, where).values for where in (how, alone)
        )
        np.testing.assert_array_equal(kept, fresh)


def test_windows_are_resampled_on_the_device(tmp_path, write, loaded):
    write("a.wav", 3.1, 44100)
    table = pd.DataFrame({"file": ["a.wav"], "label": ["a"], "split": ["test"]})
    table.to_csv(tmp_path / "long.csv", index=False)
    task = own_sounds.task_from_csv(tmp_path / "long.csv", seconds=1)
    task = replace(task, windows=evar.task.Windows(1, 0.5))
    manifest = indexing.build(task, tmp_path)
    cpu, gpu = (embeddings.embed_task(loaded(), manifest, how) for how in both())
    assert cpu.values.shape == gpu.values.shape
    assert len(cpu.values) > 3
    assert 0 < np.abs(cpu.values - gpu.values).max() < 1e-4


# What a person sees


@pytest.fixture
def pretended(monkeypatch):
    """Runtimes that were asked for; the CPU passes for a GPU."""
    asked: list[Runtime] = []

    def usable_here(given: Runtime) -> Runtime:
        asked.append(given)
        return replace(given, device="cpu")

    monkeypatch.setattr("evar.run.usable", usable_here)
    monkeypatch.setattr("evar.extract.usable", usable_here)
    monkeypatch.setattr("evar.runtime.usable", usable_here)
    return asked


def test_a_cpu_is_refused_with_the_remedy():
    with pytest.raises(UserError, match=r"--resample=gpu: the device is cpu.*leave --resample out"):
        evar.evaluate("logmel", "demo", device="cpu", resample="gpu", seeds=1)
    with pytest.raises(UserError, match="gpu"):
        Runtime(resample="gp")
    with pytest.raises(UserError, match="finetune"):
        evar.evaluate("logmel", "demo", "finetune", device="cpu", resample="gpu")
    assert usable(Runtime()) == Runtime()


def test_runs_say_that_they_were_resampled_on_the_device(manifest, pretended, tmp_path):
    table, how = str(tmp_path / "mine.csv"), {"seeds": 1, "seconds": 0.5, "epochs": 1}
    requests = [
        evar.run.prepare("logmel", table, resample=where, cache=tmp_path / "cache", **how)
        for where in ("cpu", "gpu")
    ]
    cpu, gpu = (request.run().record for request in requests)
    assert cpu.request != gpu.request
    assert cpu.id != gpu.id
    assert "resample" not in {**cpu.settings, **cpu.variant}
    assert gpu.settings["resample"] == "gpu"
    assert gpu.variant["resample"] == "gpu"
    assert requests[0].key == evar.run.prepare("logmel", table, **how).key


def test_the_default_treatment_is_what_results_have_always_named():
    assert Runtime().treatment == {"precision": "fp32"}
    assert Runtime(resample="gpu").treatment == {"precision": "fp32", "resample": "gpu"}


def test_a_map_of_embeddings_takes_those_of_the_run(manifest, tmp_path, pretended):
    how = {"cache": tmp_path / "cache", "seeds": 1, "epochs": 1, "seconds": 0.5}
    runs = [
        evar.evaluate("logmel", str(tmp_path / "mine.csv"), resample=where, **how).record
        for where in ("cpu", "gpu")
    ]
    kept = [json.loads(p.read_text()) for p in (tmp_path / "cache").glob("*/key.json")]
    assert len(kept) == 2
    for run, begin in zip(runs, ("soxr", "torchaudio"), strict=True):
        found = [key["resampler"] for key in kept if embedding_map._is_of(run, key)]
        assert len(found) == 1
        assert found[0].startswith(begin)


def test_commands_hand_the_option_on(manifest, tmp_path, pretended, capsys):
    table, cache = str(tmp_path / "mine.csv"), str(tmp_path / "cache")
    embed("logmel", table, seconds=0.5, resample="gpu", cache=cache, quiet=True)
    command_of(linear.PROTOCOL)(
        *("logmel", table),
        **{"seconds": 0.5, "seeds": 1, "epochs": 1, "quiet": True, "resample": "gpu"},
        **{"cache": cache, "results": str(tmp_path / "results")},
    )
    where = {"results": str(tmp_path / "results"), "no_cache": True, "quiet": True}
    predict("logmel", table, str(tmp_path / "0.wav"), **where)
    assert [each.resample for each in pretended] == ["gpu"] * 3, "predict: that of the run"
    assert len(list((tmp_path / "cache").glob("*/key.json"))) == 1, "embedded once"


def test_jobs_of_a_sweep_that_fine_tune_do_without():
    made = plan.make_jobs("logmel", "demo", "linear,finetune", {"resample": "gpu"})
    assert [dict(job.options) for job in made] == [{"resample": "gpu"}, {}]


@pytest.mark.parametrize(("device", "pinned"), [("cuda:0", True), ("cpu", False)])
def test_batches_for_a_gpu_are_stacked_in_pinned_memory(monkeypatch, device, pinned):
    asked, empty = [], torch.empty

    def plain(*size, pin_memory):
        asked.append(pin_memory)
        return empty(*size)  # no GPU, no pinned memory

    monkeypatch.setattr(torch, "empty", plain)
    clips = [np.full(3, n, np.float32) for n in range(2)]
    batch = resampling.OnThreads(RATE, device).batch(clips)
    assert asked == [pinned]
    np.testing.assert_array_equal(batch.numpy(), np.stack(clips))
