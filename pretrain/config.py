"""The configuration of pre-training: defaults, YAML files, and options that override them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from evar.errors import UserError, unknown
from evar.yaml_files import read_yaml

OBJECTIVES = ("m2d_clap", "m2d", "msm_mae")
GATHER = ("paper", "with_grad", "without_grad")
PAPER_PROCESSES = 4  # GPUs of the paper's run


_RANGES = (
    (("width", "depth", "heads", "save_steps", "save_epochs"), 1, math.inf),
    (("predictor_width", "predictor_depth", "predictor_heads"), 1, math.inf),
    (("masked_weight", "clap_weight", "weight_decay", "warmup_epochs", "workers"), 0, math.inf),
    (("temperature", "clip_grad", "base_lr", "epochs"), 1e-9, 1e9),
    (("logit_scale_max",), 1, 1e9),
    (("decay_start", "decay_end"), 0, 1),
    (("beta1", "beta2"), 0, 1 - 1e-9),
    (("batch_size",), 2, math.inf),
    (("seed",), 0, 2**32 - 1),
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyper-parameters; the defaults are M2D-CLAP base (Interspeech 2024, Section 4.1)."""

    objective: str = "m2d_clap"  # m2d: without captions; msm_mae: reconstructs patches
    # networks
    input_size: tuple[int, int] = (80, 608)  # mel bands, frames of 10 ms
    patch_size: tuple[int, int] = (16, 16)
    width: int = 768
    depth: int = 12
    heads: int = 12
    predictor_width: int = 512
    predictor_depth: int = 8
    predictor_heads: int = 16
    # objective
    mask_ratio: float = 0.7  # share of the patches that the online encoder does not see
    masked_weight: float = 1.0
    clap_weight: float = 0.01
    temperature: float = 0.07  # of the contrastive loss at the start; it is learned
    logit_scale_max: float = 100.0
    gather: str = "paper"  # gradient of the contrastive loss over processes: docs/pretrain.md
    decay_start: float = 0.99995  # of the target network's moving average, first step
    decay_end: float = 0.99999  # last step
    norm_stats: tuple[float, float] | None = None  # mean, deviation of the log-mel; None: measured
    # optimizer
    batch_size: int = 2048  # clips per step, of all processes together
    micro_batch: int | None = None  # clips that a process computes at once; None: all of its part
    base_lr: float = 3e-4  # times batch_size / 256
    weight_decay: float = 0.05  # not on biases and norms
    beta1: float = 0.9
    beta2: float = 0.95
    clip_grad: float = 3.0  # maximum gradient norm
    epochs: float = 300
    warmup_epochs: float = 20
    seed: int = 0
    # machine
    precision: str = "bf16"  # or fp32: under autocast on a GPU; a CPU computes in fp32
    compile: bool = False
    workers: int = 4  # threads that read ahead
    save_steps: int = 1000  # between states to resume from
    save_epochs: int = 50  # between checkpoints that are kept

    def __post_init__(self):
        def require(condition, reason):
            if not condition:
                raise UserError(f"pre-training: {reason}")

        for name, known in (
            ("objective", OBJECTIVES),
            ("gather", GATHER),
            ("precision", ("bf16", "fp32")),
        ):
            if getattr(self, name) not in known:
                raise unknown(name, str(getattr(self, name)), known)
        for name, kind in (("input_size", int), ("patch_size", int), ("norm_stats", float)):
            value = getattr(self, name)
            if value is not None:
                pair = isinstance(value, (list, tuple)) and len(value) == 2
                numbers = "two numbers" if kind is float else "two whole numbers"
                right = pair and all(_is(kind, v) for v in value)
                require(right, f"{name} is {numbers}, not {value!r}")
                object.__setattr__(self, name, tuple(kind(v) for v in value))
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type in (int, float):
                what = "a whole number" if field.type is int else "a number"
                require(_is(field.type, value), f"{field.name} is {what}, not {value!r}")
        for names, low, high in _RANGES:
            for name in names:
                value = getattr(self, name)
                limit = f"of {low:g} or more" if high == math.inf else f"from {low:g} to {high:g}"
                require(low <= value <= high, f"{name} is a number {limit}, not {value!r}")
        micro = self.micro_batch
        require(
            micro is None or (_is(int, micro) and micro > 0),
            f"micro_batch is a whole number of 1 or more, not {micro!r}",
        )
        require(isinstance(self.compile, bool), f"compile is true or false, not {self.compile!r}")
        require(self.norm_stats is None or self.norm_stats[1] > 0, "norm_stats' deviation is 0")
        (bands, frames), (high, wide) = self.input_size, self.patch_size
        require(
            high > 0 and wide > 0 and bands % high == 0 and frames % wide == 0 and frames > 0,
            f"patches of {high} x {wide} do not fill an input of {bands} x {frames}",
        )
        require(self.width % self.heads == 0 and self.width % 4 == 0, "heads must divide width")
        require(
            self.predictor_width % self.predictor_heads == 0 and self.predictor_width % 4 == 0,
            "predictor_heads must divide predictor_width",
        )
        require(0 < self.mask_ratio < 1, f"mask_ratio lies between 0 and 1, not {self.mask_ratio}")
        visible = int(self.patches * (1 - self.mask_ratio))
        require(0 < visible < self.patches, f"mask_ratio leaves {visible} of {self.patches}")
        require(self.warmup_epochs < self.epochs, "warmup_epochs is less than epochs")
        require(self.decay_start <= self.decay_end, "decay_end is not below decay_start")

    @property
    def patches(self) -> int:
        """Number of patches L of one input."""
        (bands, frames), (high, wide) = self.input_size, self.patch_size
        return (bands // high) * (frames // wide)

    def changed(self, options: Mapping[str, Any]) -> "Config":
        """Returns a copy with some values replaced; UserError for an unknown name."""
        known = [field.name for field in fields(self)]
        for name in options:
            if name not in known:
                raise unknown("setting", str(name), known)
        return replace(self, **options)


def _is(kind: type, value) -> bool:
    """Returns whether a value is a whole number, or for `float` any finite number."""
    number = isinstance(value, (int, kind)) and not isinstance(value, bool)
    return number and math.isfinite(value)


def read(path) -> Config:
    """Reads a YAML file of values that override the defaults. Raises UserError for a bad file."""
    content = read_yaml(path, what="a configuration")
    if not isinstance(content, dict):
        raise UserError(f"{path}: a configuration consists of lines `name: value`")
    try:
        return Config().changed(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
