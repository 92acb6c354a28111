"""How the jobs of a sweep are run: the choice of an engine and its options."""

from collections.abc import Sequence
from dataclasses import dataclass

from evar.errors import UserError, unknown
from evar.sweeping.display import Display
from evar.sweeping.job import Job
from evar.sweeping.state import Board

_LEAST = {"workers": 1, "gpus_per_job": 1, "split": 1, "retries": 0}


@dataclass(frozen=True)
class Engine:
    """Options of the engine, as the command line has them.

    engine: "local" or "ray". workers: processes of the local engine; None is one per GPU, else one.
    gpus_per_job: of a job that trains the encoder. retries: of a job that fails. split: clips of a
    part that Ray embeds. address: of a Ray cluster; None starts one. Raises UserError for values
    that make no sense.
    """

    engine: str = "local"
    workers: int | None = None
    gpus_per_job: int = 1
    retries: int = 1
    split: int = 20_000
    address: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in ("local", "ray"):
            raise unknown("engine", self.engine, ("local", "ray"))
        for name, low in _LEAST.items():
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < low):
                raise UserError(f"--{name} must be a whole number of {low} or more, not {value!r}")

    def run(self, board: Board, jobs: Sequence[Job], display: Display, device: str | None) -> None:
        """Returns when every job is done or has failed for good."""
        if self.engine == "ray":
            from evar.sweeping import ray_engine

            ray_engine.run(
                board,
                jobs,
                display,
                address=self.address,
                retries=self.retries,
                split=self.split,
                gpus=self.gpus_per_job,
            )
            return
        from evar.sweeping.local import Supervisor, layout

        plan = layout(device, workers=self.workers, gpus_per_job=self.gpus_per_job)
        how = {"plan": plan, "retries": self.retries, "device": device}
        Supervisor(board, jobs, display, **how).run()
