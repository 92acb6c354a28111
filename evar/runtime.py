"""How an evaluation runs, as opposed to what it measures."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from evar.errors import UserError, unknown
from evar.progress import SILENT, Progress

if TYPE_CHECKING:
    from evar.finetuning.loop import Report

PRECISIONS = ("fp32", "bf16")
RESAMPLING = ("cpu", "gpu")


@dataclass(frozen=True, kw_only=True)
class Training:
    """How protocols that train the encoder run: where they keep checkpoints, what they reuse.

    folder: where checkpoints are kept; a protocol that needs one refuses None. resume: continue
    what was interrupted and reuse what has finished; otherwise start over. eval_only: score the
    weights of an earlier run without training. tensorboard: write curves for TensorBoard. on_step:
    called with a `evar.finetuning.loop.Report` after every step and every epoch.
    """

    folder: Path | None = None
    resume: bool = True
    eval_only: bool = False
    tensorboard: bool = False
    on_step: "Callable[[Report], None] | None" = None


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """How an evaluation runs. Of these, only `precision`, `resample` and `skip_bad` can
    change a score.

    device: "cpu", "cuda", "cuda:1", ... precision: "fp32", or "bf16" for mixed precision behind
    the encoder's front end. resample: "cpu", on the threads that decode, or "gpu": in batches on
    the device, by another filter (docs/benchmarks.md). batch_size: clips per forward pass (None:
    chosen by device). cache: the folder where embeddings are kept (None keeps nothing). skip_bad:
    leave out clips that cannot be decoded; the result names them. progress: where progress is
    shown.
    """

    device: str = "cpu"
    precision: str = "fp32"
    resample: str = "cpu"
    batch_size: int | None = None
    cache: Path | None = None
    skip_bad: bool = False
    progress: Progress = SILENT
    training: Training = field(default_factory=Training)

    def __post_init__(self):
        if self.precision not in PRECISIONS:
            raise unknown("precision", str(self.precision), PRECISIONS)
        if self.resample not in RESAMPLING:
            raise unknown("resample", str(self.resample), RESAMPLING)
        if not isinstance(self.device, str):
            raise UserError(f"--device must be a name such as cpu or cuda:1, not {self.device!r}")
        if not isinstance(self.progress, Progress):
            raise UserError(
                f"progress must be True, False or an evar.progress.Progress, not {self.progress!r}"
            )
        if not isinstance(self.skip_bad, bool):
            raise UserError(f"skip_bad must be True or False, not {self.skip_bad!r}")
        if not isinstance(self.training, Training):
            raise UserError(f"training must be an evar.runtime.Training, not {self.training!r}")
        size = self.batch_size
        if size is not None and (type(size) is not int or size < 1):
            raise UserError(f"--batch_size must be a whole number of 1 or more, not {size!r}")

    @property
    def treatment(self) -> dict[str, str]:
        """Returns how clips are embedded as results name it: `resample` where it is "gpu"."""
        more = {} if self.resample == "cpu" else {"resample": self.resample}
        return {"precision": self.precision, **more}


def usable(runtime: Runtime) -> Runtime:
    """Returns a runtime whose device works on this machine (`usable_device`).

    Raises UserError where there is none, or where it is the CPU and clips are to be resampled on a
    GPU.
    """
    device = usable_device(runtime.device)
    if runtime.resample == "gpu" and device.startswith("cpu"):
        raise UserError(
            f"--resample=gpu: the device is {device}; leave --resample out, or name a GPU"
        )
    return replace(runtime, device=device)


def usable_device(name: str) -> str:
    """Returns the device that a name stands for: "auto" is CUDA where there is one, else the CPU.

    Raises UserError for a device that does not work on this machine.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--device={name}: not usable here ({reason}); usual ones are cpu, cuda and cuda:1"
        ) from error
    return name
