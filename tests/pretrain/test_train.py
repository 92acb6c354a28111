"""Training on shards of real sounds: what it learns, keeps, and goes on from."""

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
import yaml

from evar import models, task
from evar.errors import UserError
from evar.parallel import World
from evar.pretrain import checkpoint
from evar.pretrain.__main__ import pretrain
from evar.pretrain.data import ClipStream
from evar.pretrain.train import Trainer
from evar.weights import load_checkpoint
from helpers.small import CONFIG, captioned, shards, stream

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def sounds(tmp_path):
    """Shards of 24 demo clips with captions."""
    demo = task.get("demo")
    table = demo.read(demo.bundled)
    rows = table[table.split == "train"].groupby("label").head(3).sort_values("file")
    path = tmp_path / "clips.csv"
    for file in rows.file:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        os.link(demo.bundled / file, tmp_path / file)
    rows[["file", "label"]].to_csv(path, index=False)
    return path


def trained(config, data, out, **options) -> tuple[Trainer, list[float]]:
    trainer, seen = Trainer(config, data, out, text_encoder="bert", **options), []
    trainer.begin()
    trainer.run(lambda report: seen.append(report.scalars["loss"]))
    return trainer, seen


def test_the_loss_falls_and_the_networks_move(sounds, tmp_path):
    config = dataclasses.replace(CONFIG, epochs=16, clap_weight=0.5)
    trainer, losses = trained(config, stream(tmp_path, sounds), tmp_path / "out")
    assert len(losses) == trainer.steps == int(16 * 27 / 8)
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])
    assert not torch.equal(trainer.model.target_norm.weight, trainer.model.norm.weight)


@pytest.mark.parametrize("objective", ["m2d", "msm_mae"])
def test_without_captions(objective, sounds, tmp_path):
    data = ClipStream(shards(tmp_path / "shards", sounds), frames=64)
    config = dataclasses.replace(CONFIG, objective=objective, epochs=8)
    _, losses = trained(config, data, tmp_path / "out")
    assert sum(losses[-4:]) < sum(losses[:4])
    with pytest.raises(UserError, match="needs captions"):
        Trainer(CONFIG, data, tmp_path / "other")


def test_the_log_mel_is_standardised_by_what_was_measured(sounds, tmp_path):
    data = stream(tmp_path, sounds)
    trainer = Trainer(CONFIG, data, tmp_path / "out")
    trainer.begin()
    batches = data.batches(9, steps=range(3), rank=0, world=1)
    features = torch.cat([trainer.standardised(batch.inputs) for batch in batches])
    assert features.shape == (27, 80, 64)
    assert abs(float(features.mean())) < 0.3
    assert 0.8 < float(features.std()) < 1.2


def test_a_steps_numbers_are_those_of_the_configuration(sounds, tmp_path):
    config = dataclasses.replace(
        CONFIG, base_lr=0.32, weight_decay=0.2, logit_scale_max=20.0, clip_grad=1e-3, epochs=6
    )
    trainer = Trainer(config, stream(tmp_path, sounds), tmp_path / "out")
    trainer.begin()
    decaying, others = trainer.optimizer.param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.2, 0.0)
    names = {p: name for name, p in trainer.model.named_parameters()}
    assert all("norm" not in names[p] and "bias" not in names[p] for p in decaying["params"])
    assert {"blocks.0.norm1.weight", "blocks.0.attn.qkv.bias", "logit_scale"} <= {
        names[p] for p in others["params"]
    }
    listed = len(decaying["params"]) + len(others["params"])
    assert listed == sum(p.requires_grad for p in trainer.model.parameters())

    seen = []

    def watch(report):
        gradients = [p.grad for p in trainer.model.parameters() if p.grad is not None]
        norm = torch.stack([g.norm() for g in gradients]).norm()
        seen.append((report.scalars, float(norm), decaying["lr"], trainer.model.logit_scale.item()))
        with torch.no_grad():
            trainer.model.logit_scale.fill_(9.0)

    trainer.run(watch)
    steps = trainer.steps
    assert steps == len(seen) == 20
    for step, (scalars, norm, rate, scale) in enumerate(seen):
        warmup = 27 / 8
        done = (step - warmup) / (steps - warmup)
        expected = 0.01 * (step / warmup if step < warmup else 0.5 + 0.5 * math.cos(math.pi * done))
        assert rate == scalars["learning rate"] == pytest.approx(expected)
        decay = 0.99995 + (0.99999 - 0.99995) * step / steps
        assert scalars["target decay"] == pytest.approx(decay, abs=1e-12)
        assert norm == pytest.approx(1e-3, rel=1e-3)
        assert scalars["gradient norm"] > 1e-2, "before it was clipped"
        assert scale <= math.log(20) + 1e-6


def test_the_same_seed_gives_the_same_weights(sounds, tmp_path):
    data = stream(tmp_path, sounds)
    (a, la), (b, lb) = (trained(CONFIG, data, tmp_path / name) for name in "ab")
    assert la == lb
    assert_same(a.model, b.model)
    other = dataclasses.replace(CONFIG, seed=1)
    _, lc = trained(other, stream(tmp_path / "c", sounds, seed=1), tmp_path / "c" / "out")
    assert la != lc


def assert_same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def test_a_checkpoint_is_a_model_to_evaluate(sounds, tmp_path, command):
    config = dataclasses.replace(CONFIG, input_size=(80, 208))
    data = stream(tmp_path, sounds, frames=208)
    trainer, _ = trained(config, data, tmp_path / "out")
    folder = tmp_path / "out" / "m2d_clap_vit-80x208p16x16"
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint-1.pth",
        "checkpoint-2.pth",
        "checkpoint-3.pth",
    ]
    encoder = tmp_path / "text_encoder"
    adapter = models.load("m2d_clap", weights=folder, text_encoder=str(encoder)).adapter
    audio = 0.1 * torch.randn(2, 33120)
    with torch.inference_mode():
        patches = trainer.model.patches(trainer.standardised(audio))
        every = torch.arange(patches.shape[1])[None].expand(2, -1)
        encoded = trainer.model.encode_visible(patches, every)
        expected = trainer.model.project(encoded)
        torch.testing.assert_close(adapter.embed_joint(audio), expected, rtol=1e-4, atol=1e-5)
        text = adapter.embed_text(["a dog", "rain"])
        assert text.shape == (2, 24), "through the text projector"
    ran = command(
        *("zeroshot", "m2d_clap", "demo", f"--weights={folder}", f"--text_encoder={encoder}"),
        "--quiet",
    )
    assert "zeroshot  accuracy" in ran.out, ran.err
    adapter = models.load("m2d", weights=folder).adapter
    assert adapter.embed_dim == 5 * 24


def run(out: Path, data: Path, captions: Path, config: Path) -> list[str]:
    command = [sys.executable, "-m", "pretrain", f"--config={config}", f"--data={data}"]
    return [*command, f"--captions={captions}", f"--out={out}", "--quiet", "--device=cpu"]


def test_a_run_killed_at_any_moment_goes_on_to_the_same_weights(sounds, tmp_path):
    data = shards(tmp_path / "shards", sounds)
    captions = captioned(tmp_path, data)
    settings = dataclasses.asdict(dataclasses.replace(CONFIG, epochs=14, save_epochs=100))
    settings = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    how = {"cwd": ROOT, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
    what = {"config": str(config), "data": str(data), "captions": str(captions)}
    pretrain(**what, out=str(tmp_path / "whole"), quiet=True, device="cpu")
    command = run(tmp_path / "cut", data, captions, config)
    state = tmp_path / "cut/last.pt"
    killed = 0
    for wait in (0.1,):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **how
        )
        before = state.stat().st_mtime_ns if state.exists() else 0
        while process.poll() is None and (not state.exists() or state.stat().st_mtime_ns == before):
            time.sleep(0.002)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed, "no run was cut short"
    ended = subprocess.run(command, check=True, capture_output=True, text=True, **how)
    assert "checkpoint-14.pth" in ended.stdout
    name = "m2d_clap_vit-80x64p16x16/checkpoint-14.pth"
    a, b = (load_checkpoint(tmp_path / out / name)["model"] for out in ("whole", "cut"))
    for key, value in a.items():
        assert torch.equal(value, b[key]), key


def _process(rank: int, folder: str, config) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    data = ClipStream(f"{folder}/shards", frames=64, captions=f"{folder}/captions.safetensors")
    _, losses = trained(config, data, Path(folder) / "two", world=World(rank, 2))
    torch.save(losses, f"{folder}/losses-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_two_processes_have_the_losses_of_one(micro_batch, sounds, tmp_path):
    """Some clips have no caption, so that the processes have unequal numbers of them."""
    config = dataclasses.replace(CONFIG, clap_weight=1.0, epochs=4, micro_batch=micro_batch)
    lines = sounds.read_text().splitlines()
    bare = [line.rsplit(",", 1)[0] + "," if i % 3 == 1 else line for i, line in enumerate(lines)]
    sounds.write_text("\n".join(bare) + "\n")
    data = stream(tmp_path, sounds)
    assert sum(data.captions.draw(i, np.random.default_rng(0)) is None for i in range(27)) == 9
    mp.start_processes(_process, (str(tmp_path), config), nprocs=2, start_method="fork")
    two = [torch.load(tmp_path / f"losses-{rank}.pt") for rank in (0, 1)]
    _, one = trained(config, data, tmp_path / "one")
    assert two[0] == two[1]
    assert two[0] == pytest.approx(one, rel=1e-4)
    assert len(one) == 13


def test_another_configuration_or_other_data_are_not_mixed_in(sounds, tmp_path):
    data = stream(tmp_path, sounds)
    trained(CONFIG, data, tmp_path / "out")
    faster = dataclasses.replace(CONFIG, base_lr=0.1, workers=3)
    with pytest.raises(UserError, match=r"base_lr was 0.03, is 0.1\)"):
        Trainer(faster, data, tmp_path / "out").begin()
    machine = dataclasses.replace(CONFIG, workers=2, save_steps=7)
    Trainer(machine, data, tmp_path / "out").begin()
    other = stream(tmp_path / "other", sounds, seconds=0.5)
    with pytest.raises(UserError, match="other shards"):
        Trainer(CONFIG, other, tmp_path / "out").begin()


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_state(sounds, tmp_path):
    data = stream(tmp_path, sounds)
    trainer = Trainer(CONFIG, data, tmp_path / "out")
    trainer.begin()

    def break_it(report):
        if report.step == 6:
            with torch.no_grad():
                trainer.model.norm.weight.fill_(float("nan"))

    with pytest.raises(UserError, match="not finite at step 7"):
        trainer.run(break_it)
    state = load_checkpoint(tmp_path / "out/last.pt")
    assert state["step"] == 4
    assert all(torch.isfinite(t).all() for t in state["model"].values() if t.is_floating_point())


def test_a_published_checkpoint_can_be_trained_further(sounds, tmp_path):
    data = stream(tmp_path, sounds)
    first, _ = trained(CONFIG, data, tmp_path / "out")
    path = tmp_path / "out/m2d_clap_vit-80x64p16x16"
    again = Trainer(CONFIG, data, tmp_path / "more")
    again.begin(init=path)
    assert torch.equal(again.model.blocks[0].attn.qkv.weight, first.model.blocks[0].attn.qkv.weight)
    assert torch.equal(
        again.model.target_blocks[0].attn.qkv.weight, first.model.target_blocks[0].attn.qkv.weight
    )
    content = load_checkpoint(path / "checkpoint-3.pth")
    keep = ("cls_token", "patch_embed", "blocks", "norm.", "pos_embed")
    encoder = {k: v for k, v in content["model"].items() if k.startswith(keep)}
    torch.save({"model": encoder}, tmp_path / "enconly.pth")
    with pytest.raises(UserError, match="--init_partial"):
        checkpoint.initialise(again.model, tmp_path / "enconly.pth", partial=False)
    checkpoint.initialise(again.model, tmp_path / "enconly.pth", partial=True)
    for target, online in again.model.target_pairs():
        assert torch.equal(target, online), "the target starts as the encoder"
    torch.save({"model": {k: v[..., :1] for k, v in encoder.items()}}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match="another shape"):
        checkpoint.initialise(again.model, tmp_path / "odd.pth", partial=True)


def test_a_folders_last_epoch_is_trained_further(sounds, tmp_path):
    data = stream(tmp_path, sounds)
    config = dataclasses.replace(CONFIG, epochs=11)
    first, _ = trained(config, data, tmp_path / "out")
    folder = tmp_path / "out/m2d_clap_vit-80x64p16x16"
    assert [(folder / f"checkpoint-{n}.pth").exists() for n in (9, 10, 11)] == [True] * 3
    again = Trainer(CONFIG, data, tmp_path / "more")
    again.begin(init=folder)
    assert_same(again.model, first.model)
    given = Trainer(dataclasses.replace(CONFIG, norm_stats=(-7, 4)), data, tmp_path / "given")
    given.begin(init=folder)
    assert given.model.norm_stats.tolist() == [-7.0, 4.0]
    torch.save({"model": ["no", "tensors"]}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match="not a checkpoint"):
        Trainer(CONFIG, data, tmp_path / "none").begin(init=tmp_path / "odd.pth")


@pytest.mark.parametrize(
    ("epochs", "save_epochs", "steps", "names"),
    [(2.4, 1, 8, [1, 2, 3]), (0.3, 1, 1, [1]), (30, 12, 101, [12, 24, 30]), (6, 4, 20, [4, 6])],
)
def test_checkpoints_are_named_by_the_epoch_they_end(
    epochs, save_epochs, steps, names, sounds, tmp_path
):
    warmup = min(1, epochs / 2)
    config = dataclasses.replace(
        CONFIG, epochs=epochs, save_epochs=save_epochs, warmup_epochs=warmup
    )
    trainer, _ = trained(config, stream(tmp_path, sounds), tmp_path / "out")
    assert trainer.steps == steps
    found = (tmp_path / "out").glob("*/checkpoint-*.pth")
    assert sorted(int(path.stem.rsplit("-", 1)[1]) for path in found) == names


def test_one_run_at_a_time_and_nothing_of_a_killed_one(tmp_path):
    import filelock

    from evar.pretrain.__main__ import _alone

    (tmp_path / "m2d").mkdir()
    left = [tmp_path / ".last.pt.abcd", tmp_path / "m2d/.checkpoint-3.pth.abcd"]
    for path in left:
        path.touch()
    with _alone(tmp_path):
        assert not any(path.exists() for path in left)
    with (
        filelock.FileLock(tmp_path / ".lock"),
        pytest.raises(UserError, match="another run"),
        _alone(tmp_path),
    ):
        pass


def test_a_dry_run_trains_nothing(sounds, tmp_path, capsys):
    from evar.pretrain.__main__ import pretrain

    data = shards(tmp_path / "shards", sounds)
    captions = captioned(tmp_path, data)
    config = tmp_path / "tiny.yaml"
    config.write_text("input_size: [80, 64]\nwidth: 24\ndepth: 1\nheads: 2\nbatch_size: 8\n")
    where = {"data": str(data), "captions": str(captions), "out": str(tmp_path / "out")}
    pretrain(config=str(config), dry_run=True, device="cpu", predictor_depth=1, **where)
    out = capsys.readouterr().out
    assert "parameters:" in out
    assert "steps: 1,012 of 8 clips, 300 epochs" in out
    assert not (tmp_path / "out").exists()
    pretrain(
        config=str(config),
        dry_run=True,
        device="cpu",
        predictor_depth=1,
        **where | {"out": str(tmp_path / "large")},
        batch_size=4096,
    )
    assert "extrapolated from 8 clips" in capsys.readouterr().out
    # Neither data nor a folder: as many clips as the authors' AudioSet.
    pretrain(config=str(config), dry_run=True, device="cpu", predictor_depth=1)
    assert "data: 2,005,132 clips, captions of 768 numbers" in capsys.readouterr().out
    with pytest.raises(UserError, match="needs --data=SHARDS"):
        pretrain(config=str(config), device="cpu")
    with pytest.raises(UserError, match="unknown task 'demoo'"):
        pretrain(config=str(config), evaluate="demoo", **where)
    with pytest.raises(UserError, match="esc50 is not prepared"):
        pretrain(config=str(config), evaluate="demo,esc50", **where)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="m2d reads no captions"):
        pretrain(config=str(config), objective="m2d", **where)
