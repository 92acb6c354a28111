"""`python -m pretrain`: train, resume, evaluate. Heavy imports are inside."""

import contextlib
from pathlib import Path

from fire.decorators import SetParseFns

from evar.errors import UserError, unknown


@SetParseFns(config=str, data=str, out=str, captions=str, init=str, evaluate=str, device=str)
def pretrain(
    *,
    config,
    data=None,
    out=None,
    captions=None,
    init=None,
    init_partial=False,
    evaluate=None,
    dry_run=False,
    device="auto",
    quiet=False,
    **settings,
):
    """Pre-train M2D-CLAP, M2D or MSM-MAE.

    usage: python -m pretrain --config=FILE.yaml --data=SHARDS --out=DIR [options]
           torchrun --nproc_per_node=4 -m pretrain --config=... --data=... --out=...

    --config=FILE  hyper-parameters; pretrain/configs/ holds the published ones
    --data=SHARDS  a folder that `python -m pretrain.prepare` made
    --out=DIR      folder for checkpoints, the state to resume from, and TensorBoard curves
    --captions=FILE  caption embeddings that `python -m pretrain.captions` wrote for these shards
    --init=PATH    start from a published checkpoint, or one of this program
    --init_partial initialise at random what --init lacks (predictor, target, projector)
    --evaluate=esc50,demo  tasks for linear and zero-shot evaluation of the last checkpoint
    --dry_run      print parameters, memory, steps and expected time; train nothing. Without --data
                   it is for as many clips as AudioSet had for the authors; --out is not needed
    --device=auto  cpu, cuda, cuda:1, ...
    --quiet        no progress line
    --NAME=VALUE   any setting of pretrain/config.py, e.g. --epochs=100

    Run the same command again to resume an interrupted run.
    """
    from evar.parallel import process_group
    from evar.runtime import usable_device

    from . import config as config_
    from .data import ClipStream, Unread
    from .train import Report, Trainer

    made = config_.read(config).changed(settings)
    if captions and made.objective != "m2d_clap":
        raise UserError(f"{made.objective} reads no captions: leave out --captions")
    if not dry_run:
        _require("--data=SHARDS", data)
        _require("--out=DIR", out)
    tasks = _tasks(evaluate)
    (bands, frames) = made.input_size
    stream: ClipStream
    if data is None:
        stream = Unread(made.objective)
    else:
        stream = ClipStream(data, frames=frames, bands=bands, seed=made.seed, captions=captions)
    text_encoder = stream.captions.text_encoder if stream.captions else ""
    with contextlib.ExitStack() as stack:
        world, own = stack.enter_context(process_group(usable_device(device)))
        folder = Path(out or ".")
        trainer = Trainer(made, stream, folder, text_encoder=text_encoder, world=world, device=own)
        if dry_run:
            from .estimate import estimate

            text = estimate(trainer)  # every process takes part
            if world.first:
                print(text)
            return
        if world.first:
            stack.enter_context(_alone(Path(out)))
        world.barrier()
        trainer.begin(init, init_partial=init_partial)
        watchers = []
        if world.first:
            watchers.append(_tensorboard(Path(out), trainer.step, stack))
            watchers += [] if quiet else [_bar(trainer, stack)]

        def on_step(report: Report) -> None:
            for watch in watchers:
                if watch:
                    watch(report)

        path = trainer.run(on_step)
    if path is None:
        return
    print(f"checkpoint: {path}")
    failed = []
    for task in tasks:
        try:
            _evaluate(task, made.objective, str(path), device)
        except UserError as error:  # the other tasks can still be scored
            failed.append(f"{task}: {error}")
    if failed:
        raise UserError("; ".join(failed))


def _require(option: str, value) -> None:
    if value is None:
        raise UserError(f"pretrain needs {option} (but for --dry_run); --help explains it")


@contextlib.contextmanager
def _alone(out: Path):
    """Locks the folder of a run and removes temporary files that a killed run left there."""
    import filelock

    from evar import files

    from . import checkpoint

    with files.writing(files.make_folder(out)):
        lock = filelock.FileLock(out / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise UserError(f"{out}: in use by another run; give another --out") from error
        checkpoint.tidy(out)
    try:
        yield
    finally:
        lock.release()


def _bar(trainer, stack):
    from evar.progress import bar_class

    bar = stack.enter_context(
        # Remaining time by the mean of all steps: those that write a state take longer.
        bar_class()(
            total=trainer.steps,
            initial=trainer.step,
            unit="step",
            desc=str(trainer.out),
            smoothing=0,
        )
    )

    def watch(report) -> None:
        shown = {"epoch": f"{report.epoch:.1f}", "loss": f"{report.scalars['loss']:.4f}"}
        bar.set_postfix(shown, refresh=False)
        bar.update(report.step - bar.n)

    return watch


def _tensorboard(out: Path, step: int, stack):
    """Returns a function that writes scalars; None where the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("no TensorBoard curves: pip install tensorboard")
        return None
    writer = stack.enter_context(SummaryWriter(str(out / "tensorboard"), purge_step=step + 1))

    def watch(report) -> None:
        for name, value in report.scalars.items():
            writer.add_scalar(name, value, report.step)

    return watch


def _tasks(names: str | None) -> list[str]:
    """Returns the tasks of --evaluate; UserError, before training, for one that is not usable."""
    from evar.data.opening import open_task

    found = [name.strip() for name in (names or "").split(",") if name.strip()]
    for name in found:
        open_task(name).require_usable()
    return found


def _evaluate(task: str, model: str, weights: str, device: str) -> None:
    import evar
    from evar.results import text

    for protocol in ("linear", "zeroshot") if model == "m2d_clap" else ("linear",):
        run = evar.evaluate(model, task, protocol, weights=weights, device=device)
        print(f"results: {run.save()}")
        print(text.summary_line(run.record))


def _check_settings(_, keys: list[str], options: list[str]) -> None:
    """Raises UserError for an option that is neither of the command nor a setting."""
    from dataclasses import fields

    from .config import Config

    known = [field.name for field in fields(Config)]
    for key in keys:
        if key.removeprefix("--").replace("-", "_") not in known:
            raise unknown("option", key, [f"--{name}" for name in [*options, *known]])


def main(arguments: list[str] | None = None) -> None:
    from evar import cli

    cli.call("pretrain", pretrain, arguments, check_more=_check_settings)


if __name__ == "__main__":
    main()
