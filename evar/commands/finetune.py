"""`finetune MODEL TASK`: an encoder trained end to end. Heavy imports are inside."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fire.decorators import SetParseFns

from evar.commands._options import (
    data_folder,
    device_of,
    number,
    open_task,
    progress_bar,
    seeds_of,
    write_run,
)
from evar.errors import UserError


@SetParseFns(model=str, task=str, weights=str, data=str, results=str)
@SetParseFns(device=str, precision=str, optimizer=str, select=str, freeze=str)
def finetune(
    model,
    task,
    *,
    select="auto",
    seeds=3,
    optimizer=None,
    lr=None,
    weight_decay=None,
    layer_decay=None,
    batch_size=None,
    epochs=None,
    warmup=None,
    mixup=None,
    rrc=None,
    freq_mask=None,
    time_mask=None,
    patchout=None,
    freeze=None,
    balanced=None,
    epoch_clips=None,
    precision=None,
    accumulate=None,
    clip_grad=None,
    ema=None,
    early_stop=None,
    compile=False,
    no_resume=False,
    eval_only=False,
    tensorboard=False,
    weights=None,
    data=None,
    seconds=None,
    device="auto",
    results="results",
    partial=False,
    skip_bad=False,
    quiet=False,
    **options,
):
    """Train an encoder and a head end to end on a task, and score it.

    usage: finetune MODEL TASK [options]
           torchrun --nproc_per_node=2 finetune.py MODEL TASK [options]

    MODEL          a registered name (`evar list models`) or path/to/file.py:ClassName
    TASK           a registered name (`evar list tasks`) or the path of a CSV with the columns
                   file,label,split (or fold) and optionally group

    --select=auto  which epoch counts: valid, the best on the validation split; holdout, on a tenth
                   of the training clips (whole groups); last; oracle, the best on the test set,
                   which the score then says. auto is valid, without such a split holdout
    --seeds=3      runs, with seeds 43, 44, ...; or the seeds themselves: --seeds=43,44
    --optimizer=NAME    sgd, lars or adamw
    --lr=RATE           highest learning rate
    --weight_decay=W    of weights; never of biases
    --layer_decay=S     each layer below the head learns at S times the next one's rate
    --batch_size=N      clips a step, of all processes together
    --epochs=N          passes over the training clips
    --warmup=N          epochs in which the rate rises
    --mixup=ALPHA       0: none
    --rrc=True          or False: random resize crop of the spectrogram
    --freq_mask=N       SpecAugment: widest mask in bins; 0: none
    --time_mask=N       SpecAugment: widest mask in frames; 0: none
    --patchout=SHARE    of the patches to leave out in training, in whole rows and columns
    --freeze=WHAT       none, patch_embed, encoder, or N: the patch embedding and N blocks
    --balanced=True     or False: draw clips of rare classes more often
    --epoch_clips=N     clips an epoch, drawn without replacement
    --precision=fp32    or bf16: mixed precision in the encoder, behind its front end
    --accumulate=N      take each batch in N parts, to save memory
    --clip_grad=L       longest gradient
    --ema=DECAY         score a moving average of the weights
    --early_stop=N      stop N epochs after the best one
    --compile           compile the encoder's blocks (torch.compile)
                   What is left out of these is the task's in evar/finetuning/settings.yaml
    --no_resume    start anew, although the same run was interrupted, or has ended
    --eval_only    score the weights that an earlier run left, without training
    --tensorboard  write loss, rate and validation score for TensorBoard
    --weights=PATH checkpoint; default: the published file in $EVAR_WEIGHTS or weights/;
                   "random" trains from scratch
    --data=DIR     where data sets and manifests are; default: $EVAR_DATA or data/
    --seconds=S    unit length of a CSV task; default: its longest clip, at most 10
    --device=auto  cpu, cuda, cuda:1, ...
    --results=DIR  where results are written, checkpoints below finetune/; default: results/
    --partial      accept an incomplete data set; the score then says so
    --skip_bad     leave out clips that cannot be decoded; the score then says so
    --quiet        no progress bars
    --NAME=VALUE   an option of the model's adapter
    """
    given = {
        "optimizer": optimizer,
        "lr": lr,
        "weight_decay": weight_decay,
        "layer_decay": layer_decay,
        "batch_size": batch_size,
        "epochs": epochs,
        "warmup": warmup,
        "mixup": mixup,
        "rrc": rrc,
        "freq_mask": freq_mask,
        "time_mask": time_mask,
        "patchout": patchout,
        "freeze": int(freeze) if freeze and freeze.isdecimal() else freeze,
        "balanced": balanced,
        "epoch_clips": epoch_clips,
        "precision": precision,
        "accumulate": accumulate,
        "clip_grad": clip_grad,
        "ema": ema,
        "early_stop": early_stop,
        "compile": compile or None,
    }
    seeds = seeds_of(seeds) if isinstance(seeds, (tuple, list)) else _first_seeds(seeds)
    seconds = number("seconds", seconds, above=0.001, optional=True)
    if eval_only and no_resume:
        raise UserError("--eval_only scores what --no_resume would forget: give one of them")
    if tensorboard:
        _tensorboard()
    manifest = open_task(task, data_folder(data), seconds, quiet)
    from evar import files, models, parallel
    from evar.finetuning import settings as settings_
    from evar.protocols import finetune as protocol

    if manifest.task.metric == "recall":
        raise UserError(
            f"{task} has captions, no classes: it is for `python retrieval.py {model} {task}`"
        )
    manifest.require_usable(partial=partial, skip_bad=skip_bad)
    device = device_of(device)
    files.make_folder(results)
    known = models.option_names(models.config(model))
    of_task = settings_.model_options(manifest.task.name, {**options, **given}, known)
    adapter, config = models.load(model, weights=weights, **of_task | options)
    identity = models.identity(adapter, config, of_task | options)
    config = replace(config, options={**config.options, **of_task})  # usual for this task
    settings, overrides = settings_.resolve(manifest, adapter, given, select=select)
    with contextlib.ExitStack() as open_things:
        world, device = open_things.enter_context(parallel.process_group(device))
        silent = quiet or not world.first
        watchers = [] if silent else [_bar(f"{config.name} {manifest.task.name}", open_things)]
        if tensorboard and world.first:
            watchers.append(_scalars(open_things))
        evaluation = protocol.evaluate(
            adapter,
            identity,
            manifest,
            settings,
            folder=Path(results) / "finetune",
            seeds=seeds,
            overrides=overrides,
            world=world,
            device=device,
            resume=not no_resume,
            eval_only=eval_only,
            skip_bad=skip_bad,
            decode_progress=progress_bar(f"{model} {task}: decode", "clip", silent),
            on_step=lambda report: [watch(report) for watch in watchers],
        )
    if world.first:
        write_run(evaluation, config, identity, manifest, device=device, results=results)


def _first_seeds(count) -> tuple[int, ...]:
    return tuple(seed + 1 for seed in seeds_of(count))  # fine-tuning's begin at 43


def _bar(title: str, open_things: contextlib.ExitStack) -> Callable:
    """A bar a seed and fold that counts steps and tells loss, rate and the last score."""
    from tqdm import tqdm

    bars: dict = {}

    def watch(report) -> None:
        if report.job not in bars:
            for earlier, _ in bars.values():
                earlier.close()
            what = f"{title}: seed {report.job.seed}, fold {report.job.fold.name}"
            total = report.epochs * report.steps
            bar = tqdm(desc=what, total=total, unit="step", leave=False)
            bars[report.job] = [open_things.enter_context(bar), {}]
        bar, shown = bars[report.job]
        shown |= {
            "epoch": f"{report.epoch}/{report.epochs}",
            "loss": f"{report.loss:.4g}",
            "lr": f"{report.lr:.2g}",
        }
        if report.valid is not None:
            shown[_selected_by(report)] = f"{100 * report.valid:.1f}"
        bar.set_postfix(shown, refresh=report.valid is not None)
        bar.update((report.epoch - 1) * report.steps + report.step - bar.n)

    return watch


def _selected_by(report) -> str:
    """What the score of an epoch is called: an oracle's is one on the test set."""
    return "oracle_test" if report.job.held_out == "test set" else "valid"


def _tensorboard():
    """TensorBoard's writer; UserError where the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs its package: pip install tensorboard") from error
    return SummaryWriter


def _scalars(open_things: contextlib.ExitStack) -> Callable:
    """Loss, rate and validation score as TensorBoard shows them, beside each fold's checkpoints."""
    writers: dict = {}

    def watch(report) -> None:
        at = (report.epoch - 1) * report.steps + report.step
        if report.job not in writers:
            folder = str(report.job.place.path / "tensorboard")
            writer = _tensorboard()(folder, purge_step=at)
            writers[report.job] = open_things.enter_context(writer)
        writer = writers[report.job]
        if report.valid is not None:
            writer.add_scalar(_selected_by(report), report.valid, at)
            return
        writer.add_scalar("loss", report.loss, at)
        writer.add_scalar("lr", report.lr, at)

    return watch
