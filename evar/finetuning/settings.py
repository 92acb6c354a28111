"""The settings of fine-tuning: defaults in settings.yaml, overridden one by one."""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evar.errors import UserError, unknown

if TYPE_CHECKING:
    from evar.adapter import Adapter
    from evar.data.manifest import Manifest
    from evar.models import Model
    from evar.task import Task

SELECT = ("valid", "holdout", "last", "oracle")
OPTIMIZERS = ("sgd", "lars", "lars_m2d", "adamw")
PATCHOUT_FORMS = ("plain", "m2d")
DOMAINS = ("waveform", "spectrogram")
VALID_CROPS = ("first", "random")
FREEZE = ("none", "patch_embed", "encoder")
_FEW_STEPS, _EPOCHS, _MOST_EPOCHS = 1000, 50, 200
_OFF = {  # settings that need a spectrogram, as they are without one
    "rrc": False,
    "freq_mask": 0,
    "time_mask": 0,
    "patchout": 0.0,
    "domain": "waveform",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model is fine-tuned, but for the seeds; settings.yaml explains each field.

    Raises UserError for values out of range.
    """

    select: str  # which epoch's weights are scored: "valid", "holdout", "last" or "oracle"
    optimizer: str
    lr: float
    weight_decay: float
    layer_decay: float
    decay_bias: bool
    batch_size: int
    epochs: int
    warmup: float
    domain: str
    mixup: float
    rrc: bool
    freq_mask: int
    time_mask: int
    patchout: float
    patchout_form: str
    freeze: str | int
    balanced: bool
    epoch_clips: int | None
    valid_crop: str
    precision: str
    accumulate: int
    clip_grad: float | None
    ema: float | None
    early_stop: int | None
    compile: bool = False

    def __post_init__(self):
        for name, words in _WORDS.items():
            if getattr(self, name) not in words and not _is_block(name, getattr(self, name)):
                raise unknown(name, str(getattr(self, name)), words)
        for name, (kind, low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            number = isinstance(value, kind) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                what = "a whole number" if kind is int else "a number"
                limit = f"of {low:g} or more" if high == math.inf else f"from {low:g} to {high:g}"
                raise UserError(f"--{name} must be {what} {limit}, not {value!r}")
        for name in ("rrc", "balanced", "decay_bias", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"--{name} is True or False, not {getattr(self, name)!r}")
        if self.warmup >= self.epochs:
            raise UserError(
                f"--warmup={self.warmup:g} fills all of the {self.epochs} epochs; give fewer"
            )
        if self.early_stop and self.select == "last":
            raise UserError(
                "--early_stop needs a validation score, which --select=last has none of"
            )


_WORDS = {
    "select": SELECT,
    "optimizer": OPTIMIZERS,
    "patchout_form": PATCHOUT_FORMS,
    "domain": DOMAINS,
    "valid_crop": VALID_CROPS,
    "precision": ("fp32", "bf16"),
    "freeze": FREEZE,
}
_REAL = (int, float)
_RANGES: dict[str, tuple[Any, float, float]] = {  # kind, lowest, highest
    "lr": (_REAL, 1e-12, 1e6),
    "weight_decay": (_REAL, 0, 1e6),
    "layer_decay": (_REAL, 0.01, 1),
    "batch_size": (int, 2, math.inf),  # the head normalises over the batch
    "epochs": (int, 1, math.inf),
    "warmup": (_REAL, 0, math.inf),
    "mixup": (_REAL, 0, 1e6),
    "freq_mask": (int, 0, math.inf),
    "time_mask": (int, 0, math.inf),
    "patchout": (_REAL, 0, 0.95),
    "epoch_clips": (int, 2, math.inf),
    "accumulate": (int, 1, math.inf),
    "clip_grad": (_REAL, 1e-12, 1e12),
    "ema": (_REAL, 0, 1 - 1e-9),
    "early_stop": (int, 1, math.inf),
}
_OPTIONAL = ("epoch_clips", "clip_grad", "ema", "early_stop")


def _is_block(name: str, value) -> bool:
    return name == "freeze" and isinstance(value, int) and not isinstance(value, bool) and value > 0


NAMES = tuple(field.name for field in fields(Settings))


@functools.cache
def _content() -> dict:
    import yaml

    return yaml.safe_load((Path(__file__).parent / "settings.yaml").read_text(encoding="utf-8"))


def usual(task: str) -> dict:
    """Returns the settings of a task before any override; `epochs` may be None."""
    own = _content()["tasks"].get(task, {})
    return _content()["defaults"] | {k: v for k, v in own.items() if k != "model"}


def adapter_options(task: "Task", given: Mapping[str, object], known: Sequence[str]) -> dict:
    """Returns options of the model's adapter that a task wants, and that this adapter has.

    given: settings and adapter options that the user gave; they come first. known: the options
    that the adapter has. Patchout breaks the patches of one time step apart, so that it goes with
    `flat` only.
    """
    wanted = dict(_content()["tasks"].get(task.name, {}).get("model", {}))
    if given.get("patchout"):
        wanted["flat"] = True
    return {k: v for k, v in wanted.items() if k in known and k not in given}


def resolve(given: Mapping[str, object], model: "Model", manifest: "Manifest") -> Settings:
    """Returns the settings of a run: those of the task, overridden by those that were given.

    Where the adapter has no spectrogram (or no patches), what would change it is off. Raises
    UserError for values out of range, and where what is off was asked for.
    """
    from evar.data import targets

    given = dict(given)
    select = given.pop("select", "auto")
    freeze = given.get("freeze")
    if isinstance(freeze, str) and freeze.isdecimal():
        given["freeze"] = int(freeze)
    adapter = model.adapter
    folds = targets.folds_of(manifest)
    values = usual(manifest.task.name) | given
    for name in impossible(adapter, manifest.task.unit_samples(adapter.sample_rate)):
        if given.get(name, _OFF[name]) != _OFF[name]:
            missing = "patches to leave out, with these options" if name == "patchout" else None
            raise UserError(
                f"--{name}: {type(adapter).__name__} has no {missing or 'spectrogram'}; leave "
                "the option out"
            )
        values[name] = _OFF[name]
    if values["epochs"] is None:
        values["epochs"] = _epochs(min(len(fold.train) for fold in folds), values["batch_size"])
    if "warmup" not in given and isinstance(values["epochs"], int):
        values["warmup"] = min(values["warmup"], values["epochs"] / 2)
    return Settings(select=_selection(select, folds[0].valid is not None, manifest), **values)


def _selection(select: object, has_valid: bool, manifest: "Manifest") -> str:
    """Returns how the epoch is selected: "auto" is the validation split, else a hold-out."""
    if select not in ("auto", *SELECT):
        raise unknown("select", str(select), ["auto", *SELECT])
    if select == "auto":
        return "valid" if has_valid else "holdout"
    if select == "valid" and not has_valid:
        raise UserError(
            f"--select=valid: {manifest.task.name} has no validation split; holdout takes a share "
            "of the training clips for it, last needs none"
        )
    return str(select)


def impossible(adapter: "Adapter", samples: int) -> list[str]:
    """Returns the settings that have no effect on this adapter's input."""
    import torch

    from evar.adapter import Adapter

    if not adapter.has_features:
        return list(_OFF)
    if type(adapter).patch_grid is not Adapter.patch_grid:
        with torch.no_grad():
            features = adapter.features(torch.zeros(1, samples))
        if adapter.patch_grid(features) is not None:
            return []
    return ["patchout"]


def _epochs(clips: int, batch_size: int) -> int:
    """Returns 50 epochs, or as many as make 1,000 steps, but no more than 200."""
    possible = isinstance(batch_size, int) and batch_size > 0
    steps = max(1, math.ceil(clips / batch_size)) if possible else 1
    return min(_MOST_EPOCHS, max(_EPOCHS, math.ceil(_FEW_STEPS / steps)))
