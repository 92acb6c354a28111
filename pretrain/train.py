"""The training loop: from a stream of clips to checkpoints."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from time import perf_counter

import torch
from torch import Tensor, nn

from evar.errors import UserError
from evar.model_adapters.m2d import log_mel, mel_spectrogram
from evar.parallel import SINGLE_PROCESS, World
from evar.precision import full_precision

from . import checkpoint, losses, schedule
from .config import Config
from .data import Batch, ClipStream
from .model import Pretrainer, shuffle
from .overlap import Overlap
from .step import Share, backward

_MEASURED = 1000  # clips from which mean and deviation of the log-mel are computed
_LOOK_EVERY = 10  # steps between reading losses on a GPU, which waits for it
_RANK_EVERY = 100  # on a GPU, between looks at the singular values of a batch, which take it long


@dataclass(frozen=True)
class Report:
    """What is reported of a step: its number, epoch and scalars."""

    step: int  # from 1
    steps: int
    epoch: float
    scalars: dict[str, float]


class Trainer:
    """A pre-training run: networks, optimizer and position in the data.

    All random numbers are a function of the seed and the step, so that an interrupted run resumes
    exactly, and does not depend on the number of processes except for the order of summation.
    """

    def __init__(
        self,
        config: Config,
        stream: ClipStream,
        out,
        *,
        text_encoder: str = "",
        world: World = SINGLE_PROCESS,
        device: str = "cpu",
    ):
        if config.batch_size % world.size:
            raise UserError(
                f"batch_size {config.batch_size} is not a multiple of {world.size} processes"
            )
        if config.objective == "m2d_clap" and not stream.caption_dim:
            raise UserError(
                "m2d_clap needs captions: compute them with `python -m pretrain.captions` and give "
                "--captions=FILE, or train with --objective=m2d"
            )
        self.config, self.stream, self.out = config, stream, Path(out)
        self.text_encoder, self.world, self.device = text_encoder, world, device
        self.per_epoch = len(stream) / config.batch_size
        # In whole numbers: 30 * (41 / 5) is a little less than 246.
        self.steps = max(1, int(Fraction(str(config.epochs)) * len(stream) / config.batch_size))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = Pretrainer(config, text_dim=stream.caption_dim).to(device)
        self.mel = mel_spectrogram(16000, config.input_size[0]).to(device)
        self.optimizer = optimizer(self.model, config)
        self.mixed = config.precision == "bf16" and device.startswith("cuda")
        self.forward = torch.compile(self.model) if config.compile else self.model
        # On a CPU one message after the backward pass, whose order of summation results have.
        overlaps = world.size > 1 and device.startswith("cuda")
        self.overlap = Overlap(list(self.model.parameters()), world) if overlaps else None
        self.step, self._looked = 0, 0.0

    def begin(self, init=None, *, init_partial: bool = False) -> None:
        """Resumes an interrupted run, or starts from `init` (a checkpoint) or from scratch."""
        self.about: dict[str, object] = {"on other shards or captions": self.stream.identity}
        if init is not None:
            self.about["from another --init"] = str(init)
        if self.config.gather == "without_grad":
            self.about["of another number of processes"] = self.world.size
        state = checkpoint.load_state(self.out, self.config, self.about)
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
            return
        known = self.config.norm_stats
        if init is not None:
            found = checkpoint.initialise(self.model, init, partial=init_partial)
            if known is None and found:
                mean, deviation = self.model.norm_stats.tolist()
                known = mean, deviation
        self.model.norm_stats.copy_(torch.tensor(known or self._measure()))

    def run(self, on_step: Callable[[Report], None] | None = None) -> Path | None:
        """Trains to the end; returns the last checkpoint (None on all but the first process).

        Raises UserError where a loss or gradient is not finite; the last state is kept.
        """
        batches = self.stream.batches(
            self.config.batch_size,
            steps=range(self.step, self.steps),
            rank=self.world.rank,
            world=self.world.size,
            workers=self.config.workers,
            pin=self.device.startswith("cuda"),
        )
        watched: list[tuple[int, dict[str, Tensor | float]]] = []
        self._looked = perf_counter()
        with full_precision(), contextlib.closing(batches):
            for batch in batches:
                values = self.train_step(batch)
                self.step += 1
                watched.append((self.step, values))
                keeps = self._state_due
                if self.device == "cpu" or self.step % _LOOK_EVERY == 0 or keeps:
                    self._read(watched, on_step)
                if keeps:
                    self._keep()
        path = checkpoint.folder(self.out, self.config) / f"checkpoint-{self._epoch}.pth"
        return path if self.world.first else None

    @property
    def _ended(self) -> bool:
        return self.step == self.steps

    @property
    def _epoch(self) -> int:
        """Number of completed epochs; at the end of the run a fraction counts as one."""
        return math.ceil(self.config.epochs) if self._ended else self._epoch_of(self.step)

    def _epoch_of(self, step: int) -> int:
        return step * self.config.batch_size // len(self.stream)

    def standardised(self, inputs: Tensor) -> Tensor:
        """Returns waveforms (b, S) or log-mel (b, F, T) as standardised (b, F, T) on the device."""
        inputs = inputs.to(self.device, non_blocking=True)
        features = log_mel(self.mel, inputs) if inputs.ndim == 2 else inputs.float()
        mean, deviation = self.model.norm_stats
        return (features - mean) / deviation

    def share(self, batch: Batch, step: int) -> Share:
        """Returns a batch on the device, with the visible patches drawn from seed and step."""
        noise = torch.rand(
            self.config.batch_size,
            self.config.patches,
            generator=torch.Generator().manual_seed(self.config.seed * 2**32 + step),
        )
        size = len(batch.clips)
        own = noise[self.world.rank * size : (self.world.rank + 1) * size]
        if self.device != "cpu":
            own = own.pin_memory()  # so that the copy does not wait for what the GPU is doing
        own = own.to(self.device, non_blocking=True)
        shuffled, kept = shuffle(own, self.config.mask_ratio)
        return Share(
            self.standardised(batch.inputs),
            shuffled,
            kept,
            batch.captions.to(self.device, non_blocking=True),
            batch.captioned.to(self.device, non_blocking=True),
        )

    def train_step(self, batch: Batch) -> dict[str, Tensor | float]:
        """Makes one step of the optimizer and the target network; returns scalars to report."""
        config = self.config
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        share = self.share(batch, self.step)
        found = backward(
            self.model,
            self.forward,
            share,
            config,
            self.world,
            mixed=self.mixed,
            overlap=self.overlap,
        )
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_grad)
        rate = schedule.learning_rate(
            self.step,
            peak=config.base_lr * config.batch_size / 256,
            steps=self.steps,
            warmup=config.warmup_epochs * self.per_epoch,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        values: dict[str, Tensor | float] = {
            "loss": found.total,
            "masked loss": found.masked,
            "gradient norm": norm,
            "learning rate": rate,
        }
        if not self._finite_on_cpu(found.total, norm):
            return values  # `_read` stops the run before the weights change
        self.optimizer.step()
        if config.objective != "msm_mae":
            decay = schedule.target_decay(
                self.step, start=config.decay_start, end=config.decay_end, steps=self.steps
            )
            self.model.update_target(decay)
            values["target decay"] = decay
        if config.objective == "m2d_clap":
            with torch.no_grad():
                limit = torch.tensor(config.logit_scale_max).log().item()
                self.model.logit_scale.clamp_(max=limit)
            values["contrastive loss"] = found.clap
            values["logit scale"] = self.model.logit_scale.detach().exp()
            looks = self.step % (_LOOK_EVERY if self.device == "cpu" else _RANK_EVERY) == 0
            if looks and found.features is not None and len(found.features) > 1:
                values["effective rank"] = losses.effective_rank(found.features)
        return values

    def _finite_on_cpu(self, *values: Tensor) -> bool:
        """Returns whether values are finite; on a GPU always True, since reading them waits."""
        return self.device != "cpu" or all(bool(torch.isfinite(v)) for v in values)

    def _read(self, watched: list, on_step) -> None:
        """Reads the scalars of steps, which waits for a GPU, and reports them.

        Raises UserError where a loss or gradient norm is not finite.
        """
        read = [(step, {k: float(v) for k, v in values.items()}) for step, values in watched]
        now = perf_counter()  # includes waiting for data, for the device and for writing states
        speed = len(read) * self.config.batch_size / max(now - self._looked, 1e-9)
        self._looked = now
        for step, plain in read:
            plain["clips per second"] = speed
            for name in ("loss", "gradient norm"):
                if not torch.isfinite(torch.tensor(plain[name])):
                    remedy = "give a smaller --base_lr or --precision=fp32"
                    kept = self.out / "last.pt"
                    if kept.exists():
                        remedy = (
                            f"{kept} is the last state; {remedy}, --init={kept} and another --out"
                        )
                    raise UserError(f"the {name} is not finite at step {step:,}; {remedy}")
            if on_step:
                on_step(Report(step, self.steps, step / self.per_epoch, plain))
        watched.clear()

    @property
    def _checkpoint_due(self) -> bool:
        """Whether the last step ended the run, or an epoch whose weights are kept."""
        every = self.config.save_epochs
        return self._ended or self._epoch // every > self._epoch_of(self.step - 1) // every

    @property
    def _state_due(self) -> bool:
        return self.step % self.config.save_steps == 0 or self._checkpoint_due

    def _keep(self) -> None:
        """Writes a state, and after some epochs a checkpoint."""
        if self.world.first and self._checkpoint_due:
            checkpoint.save(self.out, self.config, self.model, self._epoch, self.text_encoder)
        self._save_state()

    def _save_state(self) -> None:
        if self.world.first:
            checkpoint.save_state(
                self.out,
                {
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "step": self.step,
                    "config": asdict(self.config),
                    "about": self.about,
                },
            )
        self.world.barrier()

    def _measure(self) -> tuple[float, float]:
        """Returns mean and deviation of the log-mel over the first clips of the stream."""
        count = min(_MEASURED, len(self.stream))
        size = min(16, count)
        total, squares, seen = 0.0, 0.0, 0
        for batch in self.stream.batches(size, steps=range(count // size), rank=0, world=1):
            inputs = batch.inputs.to(self.device)
            x = (log_mel(self.mel, inputs) if inputs.ndim == 2 else inputs).double()
            total, squares = total + x.sum().item(), squares + x.square().sum().item()
            seen += x.numel()
        mean = total / seen
        return mean, max(squares / seen - mean**2, 1e-12) ** 0.5


def optimizer(model: Pretrainer, config: Config) -> torch.optim.AdamW:
    """Returns AdamW without weight decay on one-dimensional parameters (biases, norms)."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), fused=True)
