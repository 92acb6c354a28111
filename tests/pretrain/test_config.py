"""Configurations: the published ones, and mistakes in one's own."""

from pathlib import Path

import pytest

import evar.pretrain
from evar.errors import UserError
from evar.pretrain import config
from evar.pretrain.config import Config

FOLDER = Path(evar.pretrain.__file__).parent / "configs"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_published_configuration_is_valid(path):
    assert config.read(path).objective in path.stem or path.stem.startswith("m2d_07")


def test_the_base_configuration_is_the_papers():
    base = config.read(FOLDER / "m2d_clap_base.yaml")
    assert (base.input_size, base.patch_size, base.patches) == ((80, 608), (16, 16), 190)
    assert (base.width, base.depth, base.heads) == (768, 12, 12)
    assert (base.predictor_width, base.predictor_depth, base.predictor_heads) == (512, 8, 16)
    assert (base.mask_ratio, base.masked_weight, base.clap_weight) == (0.7, 1.0, 0.01)
    assert (base.temperature, base.logit_scale_max) == (0.07, 100)
    assert (base.decay_start, base.decay_end) == (0.99995, 0.99999)
    assert (base.batch_size, base.base_lr, base.epochs, base.warmup_epochs) == (2048, 3e-4, 300, 20)
    assert (base.beta1, base.beta2, base.weight_decay, base.clip_grad) == (0.9, 0.95, 0.05, 3.0)
    mae = config.read(FOLDER / "msm_mae_base.yaml")
    assert (mae.predictor_width, mae.predictor_depth, mae.predictor_heads) == (384, 4, 6)
    assert mae.mask_ratio == 0.75
    ratios = [config.read(FOLDER / f"{n}.yaml").mask_ratio for n in ("m2d_base", "m2d_07_base")]
    assert ratios == [0.6, 0.7]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mask_ration: 0.7", "mask_ratio"),
        ("objective: m2dclap", "m2d_clap"),
        ("width: 770", "heads must divide"),
        ("input_size: [80, 600]", "do not fill"),
        ("input_size: 80", "two whole numbers"),
        ("input_size: [80.0, 608.0]", "two whole numbers"),
        ("norm_stats: [a, b]", "two numbers"),
        ("norm_stats: [0, 0]", "deviation"),
        ("micro_batch: -1", "micro_batch"),
        ("micro_batch: 2.5", "micro_batch"),
        ("save_steps: 0", "save_steps is a number of 1 or more"),
        ("heads: 0", "heads"),
        ("seed: -1", "seed"),
        ("beta1: 2", "beta1"),
        ("clip_grad: -1", "clip_grad"),
        ("weight_decay: -1", "weight_decay"),
        ("logit_scale_max: -1", "logit_scale_max"),
        ("epochs: .inf", "epochs is a number"),
        ("compile: 1", "compile"),
        ("mask_ratio: 1.5", "between 0 and 1"),
        ("mask_ratio: 0.999", "leaves 0 of 190"),
        ("base_lr: 3e-4", "is a number, not '3e-4'"),
        ("epochs: 10", "warmup_epochs"),
        ("depth: 2.5", "a whole number"),
        ("- a", "name: value"),
        ("a: [", "not a configuration"),
        ("!!python/object/apply:os.system ['true']", "not a configuration"),
    ],
)
def test_mistakes_are_named(text, words, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="mine.yaml") as caught:
        config.read(path)
    assert words in str(caught.value)


def test_options_replace_single_values():
    assert Config().changed({"epochs": 100}).epochs == 100
    with pytest.raises(UserError, match="did you mean epochs"):
        Config().changed({"epoch": 100})
