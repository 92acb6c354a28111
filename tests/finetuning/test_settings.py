"""Settings of fine-tuning: the paper's table, defaults, and what replaces them one by one."""

from types import SimpleNamespace

import pytest

from evar import models, task
from evar.adapter import Adapter
from evar.data import manifests, own_sounds
from evar.errors import UserError
from evar.finetuning import settings
from evar.protocols import finetune
from helpers.finetune_net import Net

PAPER = {  # Table of M2D's settings
    "as": ("lars_m2d", 2.0, 0.0, 64, 70, 15, 0.5, False, 30, 192, 0.5, "none", 1001, True),
    "as20k": ("sgd", 0.5, 0.0, 64, 200, 5, 0.3, True, 30, 192, 0.5, "none", 1001, True),
    "esc50": ("sgd", 0.5, 0.0, 128, 200, 5, 0.0, True, 15, 48, 0.5, "patch_embed", 501, True),
    "spcv2": ("sgd", 0.5, 0.0, 128, 200, 5, 0.3, True, 30, 48, 0.5, "none", None, True),
    "vc1": ("adamw", 0.0005, 1e-4, 64, 50, 5, 0.0, False, 30, 48, 0.0, "none", 821, False),
}


@pytest.fixture
def manifest(clips, tmp_path):
    """The tones of `clips`: 12 training, 4 validation, 8 test clips."""
    return manifests.open_task(
        own_sounds.task_from_csv(clips.csv), tmp_path / "data", source=clips.root
    )


def resolve(manifest, given=None, *, adapter=None):
    """The settings of a run, as the protocol makes them."""
    return finetune.PROTOCOL.settings_for(
        given or {}, SimpleNamespace(adapter=adapter or Net()), manifest
    )


def adapter_options(name, given, known):
    return settings.adapter_options(SimpleNamespace(name=name), given, known)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_tasks_have_the_papers_settings(name):
    own = settings.usual(name)
    options = adapter_options(name, {}, models.option_names("m2d"))
    keys = ["optimizer", "lr", "weight_decay", "batch_size", "epochs", "warmup", "mixup", "rrc"]
    keys += ["freq_mask", "time_mask", "patchout", "freeze"]
    found = [own[key] for key in keys]
    assert (*found, options.get("chunk_frames"), options["flat"]) == PAPER[name]
    assert own["layer_decay"] == 1
    assert (own["balanced"], own["epoch_clips"]) == (
        name == "as",
        200_000 if name == "as" else None,
    )


def test_every_task_and_key_of_the_file_exists():
    content = settings._content()
    assert set(content["tasks"]) <= set(task.names())
    assert set(content["defaults"]) == set(settings.NAMES) - {"select"}
    for own in content["tasks"].values():
        assert set(own) <= {*settings.NAMES, "model"}


def test_what_is_given_overrides_one_setting(manifest):
    before = resolve(manifest)
    after = resolve(manifest, {"lr": 0.1, "mixup": None, "freq_mask": before.freq_mask})
    assert {n for n in settings.NAMES if getattr(before, n) != getattr(after, n)} == {"lr"}


def test_an_unknown_key_names_close_ones(manifest):
    with pytest.raises(UserError, match="did you mean weight_decay"):
        resolve(manifest, {"weigth_decay": 1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", 0),
        ("lr", "fast"),
        ("lr", float("nan")),
        ("batch_size", 1),
        ("epochs", 0),
        ("epochs", 2.5),
        ("mixup", -1),
        ("rrc", 1),
        ("patchout", 1.0),
        ("layer_decay", 1.5),
        ("freeze", 0),
        ("freeze", "some"),
        ("freeze", True),
        ("precision", "fp16"),
        ("optimizer", "adam"),
        ("accumulate", 0),
        ("ema", 1.0),
        ("early_stop", 0),
        ("warmup", 200),
    ],
)
def test_values_out_of_range_are_refused_by_name(manifest, key, value):
    with pytest.raises(UserError, match=key):
        resolve(manifest, {key: value})


@pytest.mark.parametrize(
    ("clips", "batch", "epochs"), [(171, 32, 167), (12, 32, 200), (640, 32, 50), (100_000, 32, 50)]
)
def test_small_sets_get_more_epochs(clips, batch, epochs):
    assert settings._epochs(clips, batch) == epochs


def test_a_short_run_warms_up_for_half_of_it(manifest):
    assert resolve(manifest, {"epochs": 4}).warmup == 2
    assert resolve(manifest, {"epochs": 40}).warmup == 5
    with pytest.raises(UserError, match="warmup"):
        resolve(manifest, {"epochs": 4, "warmup": 4})


def test_the_best_epoch_is_chosen_on_the_validation_split_where_there_is_one(manifest):
    assert resolve(manifest).select == "valid"
    for select in ("holdout", "last", "oracle"):
        assert resolve(manifest, {"select": select}).select == select
    with pytest.raises(UserError, match="select"):
        resolve(manifest, {"select": "best"})


def test_without_a_validation_split_clips_are_held_out(clips, tmp_path):
    clips.rows = [row for row in clips.rows if row[2] != "valid"]
    made = manifests.open_task(
        own_sounds.task_from_csv(clips.csv), tmp_path / "data", source=clips.root
    )
    assert resolve(made).select == "holdout"
    with pytest.raises(UserError, match="no validation split"):
        resolve(made, {"select": "valid"})


def test_the_last_epoch_has_nothing_to_stop_early_by(manifest):
    with pytest.raises(UserError, match="early_stop"):
        resolve(manifest, {"early_stop": 3, "select": "last"})


class Waves(Adapter):
    """An encoder that reads waveforms."""

    sample_rate, embed_dim = 16000, 1

    def frames(self, audio):
        return audio[..., None]


def test_what_needs_a_spectrogram_is_off_without_one(manifest):
    own = resolve(manifest, adapter=Waves())
    assert (own.rrc, own.freq_mask, own.time_mask, own.patchout) == (False, 0, 0, 0)
    with pytest.raises(UserError, match="--freq_mask.*no spectrogram"):
        resolve(manifest, {"freq_mask": 8}, adapter=Waves())


def test_patches_are_left_out_only_where_there_are_patches(manifest):
    with pytest.raises(UserError, match="--patchout.*no patches"):
        resolve(manifest, {"patchout": 0.5})
    tiny = models.adapter_class("m2d:M2D").TINY
    known = models.option_names("m2d")
    options = adapter_options("sounds", {"patchout": 0.5}, known)
    assert options == {"flat": True}
    m2d = models.load("m2d", weights="random", **tiny, **options).adapter
    assert resolve(manifest, {"patchout": 0.5}, adapter=m2d).patchout == 0.5


def test_options_go_to_adapters_that_have_them_unless_given():
    assert adapter_options("esc50", {}, ["chunk_frames"]) == {"chunk_frames": 501}
    assert adapter_options("esc50", {"flat": False}, ["flat"]) == {}
    assert adapter_options("esc50", {}, ["layers"]) == {}
