"""Shows how fine-tuning goes: a progress bar per seed and fold, curves for TensorBoard."""

import contextlib
from collections.abc import Callable, Iterator

from evar.errors import UserError
from evar.finetuning.loop import Report
from evar.progress import Progress
from evar.runtime import Training


@contextlib.contextmanager
def watching(progress: Progress, training: Training) -> Iterator[Callable[[Report], None]]:
    """Yields the function that training calls after every step and every epoch."""
    with contextlib.ExitStack() as stack:
        watchers = [_bars(progress, stack)]
        if training.tensorboard:
            watchers.append(_curves(stack))
        if training.on_step is not None:
            watchers.append(training.on_step)

        def on_step(report: Report) -> None:
            for watch in watchers:
                watch(report)

        yield on_step


def _bars(progress: Progress, stack: contextlib.ExitStack) -> Callable[[Report], None]:
    """Returns a function that shows a bar per seed and fold, with loss, rate and last score."""
    current: dict = {}

    def watch(report: Report) -> None:
        if current.get("job") is not report.job:
            if "bar" in current:
                current["bar"].__exit__(None, None, None)
            stage = f"seed {report.job.seed}, fold {report.job.fold.name}"
            bar = progress.bar(stage, "step", total=report.epochs * report.steps)
            current.update(job=report.job, bar=stack.enter_context(bar), shown={}, steps=0)
        current["shown"] |= {
            "epoch": f"{report.epoch}/{report.epochs}",
            "loss": f"{report.loss:.4g}",
            "lr": f"{report.lr:.2g}",
        }
        if report.valid is not None:
            current["shown"][selected_by(report)] = f"{100 * report.valid:.1f}"
        steps = (report.epoch - 1) * report.steps + report.step
        current["bar"].set_postfix(current["shown"], refresh=report.valid is not None)
        current["bar"].update(steps - current["steps"])
        current["steps"] = steps

    return watch


def selected_by(report: Report) -> str:
    """Returns what the score of an epoch is called: an oracle's is one on the test set."""
    return "oracle_test" if report.job.held_out == "test set" else "valid"


def summary_writer() -> type:
    """Returns TensorBoard's writer class; UserError where the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs its package: pip install tensorboard") from error
    return SummaryWriter


def _curves(stack: contextlib.ExitStack) -> Callable[[Report], None]:
    """Returns a function that writes loss, rate and score to TensorBoard, per seed and fold."""
    writers: dict = {}

    def watch(report: Report) -> None:
        at = (report.epoch - 1) * report.steps + report.step
        if report.job not in writers:
            folder = str(report.job.place.path / "tensorboard")
            writers[report.job] = stack.enter_context(summary_writer()(folder, purge_step=at))
        writer = writers[report.job]
        if report.valid is not None:
            writer.add_scalar(selected_by(report), report.valid, at)
            return
        writer.add_scalar("loss", report.loss, at)
        writer.add_scalar("lr", report.lr, at)

    return watch
