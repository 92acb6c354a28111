"""`lineareval MODEL TASK`: a frozen encoder under linear probes. Heavy imports are inside."""

import contextlib
from collections.abc import Callable
from dataclasses import replace

from fire.decorators import SetParseFns

from evar.commands._options import (
    cache_of,
    data_folder,
    device_of,
    number,
    open_task,
    precision_of,
    progress_bar,
    seeds_of,
    whole,
    widths,
    write_run,
)
from evar.errors import UserError


@SetParseFns(model=str, task=str, weights=str, data=str, cache=str, results=str)
@SetParseFns(device=str, precision=str)
def lineareval(
    model,
    task,
    *,
    seeds=3,
    lr=None,
    hidden=(),
    epochs=200,
    weights=None,
    data=None,
    seconds=None,
    device="auto",
    precision="fp32",
    batch_size=None,
    results="results",
    cache=None,
    no_cache=False,
    partial=False,
    skip_bad=False,
    quiet=False,
    **options,
):
    """Score a frozen encoder on a task with linear probes.

    usage: lineareval MODEL TASK [options]

    MODEL          a registered name (`evar list models`) or path/to/file.py:ClassName
    TASK           a registered name (`evar list tasks`) or the path of a CSV with the columns
                   file,label,split (or fold) and optionally group

    --seeds=3      runs, with seeds 42, 43, ...; or the seeds themselves: --seeds=42,43
    --lr=RATE      learning rate of the probe; default: the model's
    --hidden=()    widths of hidden layers, e.g. --hidden=(512,); none is the linear probe
    --epochs=200   at most so many; the probe stops 20 epochs after its best
    --weights=PATH checkpoint; default: the published file in $EVAR_WEIGHTS or weights/;
                   "random" evaluates the untrained network
    --data=DIR     where data sets and manifests are; default: $EVAR_DATA or data/
    --seconds=S    unit length of a CSV task; default: its longest clip, at most 10
    --device=auto  cpu, cuda, cuda:1, ...
    --precision=fp32  or bf16: mixed precision in the encoder, behind its front end
    --batch_size=N clips through the encoder at a time (no effect on the protocol)
    --results=DIR  where results are written; default: results/
    --cache=DIR    where embeddings are kept; default: $EVAR_CACHE or the user's cache folder
    --no_cache     keep no embeddings
    --partial      accept an incomplete data set; the score then says so
    --skip_bad     leave out clips that cannot be decoded; the score then says so
    --quiet        no progress bars
    --NAME=VALUE   an option of the model's adapter
    """
    from evar import models

    seeds, hidden, epochs = seeds_of(seeds), widths(hidden), whole("epochs", epochs)
    lr = number("lr", lr, above=1e-12, optional=True)
    precision = precision_of(precision)
    batch_size = None if batch_size is None else whole("batch_size", batch_size)
    seconds = number("seconds", seconds, above=0.001, optional=True)
    manifest = open_task(task, data_folder(data), seconds, quiet)
    from evar import files
    from evar.probing.probe import ProbeSettings
    from evar.protocols import linear

    if manifest.task.metric == "recall":
        raise UserError(
            f"{task} has captions, no classes: it is for `python retrieval.py {model} {task}`"
        )
    manifest.require_usable(partial=partial, skip_bad=skip_bad)
    device = device_of(device)
    files.make_folder(results)
    adapter, config = models.load(model, weights=weights, **options)
    identity = models.identity(adapter, config, options)
    config = replace(config, lr=linear.learning_rate(config, manifest.task), lr_by_task={})
    probe = ProbeSettings(lr=lr or config.lr, hidden=hidden, epochs=epochs)
    with contextlib.ExitStack() as shown:
        evaluation = linear.evaluate(
            adapter,
            identity,
            manifest,
            linear.LinearSettings(probe, seeds),
            cache=cache_of(cache, no_cache),
            device=device,
            precision=precision,
            batch_size=batch_size,
            skip_bad=skip_bad,
            embed_progress=progress_bar(f"{model} {task}: decode and embed", "clip", quiet),
            probe_progress=None if quiet else _probing(f"{model} {task}: probe", epochs, shown),
        )
    write_run(evaluation, config, identity, manifest, device=device, results=results)


def _probing(title: str, epochs: int, shown: contextlib.ExitStack) -> Callable[[int, int], None]:
    """A bar that moves by epoch, made when the first one has ended."""
    bars = []

    def on_epoch(_, running: int) -> None:
        if not bars:
            bars.append(shown.enter_context(progress_bar(title, "epoch")(total=epochs)))
        bars[0].set_postfix(probes=running, refresh=False)
        bars[0].update()

    return on_epoch
