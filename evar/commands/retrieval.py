"""`retrieval MODEL TASK`: captions find clips, clips find captions. Heavy imports are inside."""

from fire.decorators import SetParseFns

from evar.commands._options import (
    cache_of,
    data_folder,
    device_of,
    open_task,
    precision_of,
    progress_bar,
    require_reads_text,
    whole,
    write_run,
)
from evar.errors import UserError


@SetParseFns(model=str, task=str, weights=str, data=str, cache=str, results=str)
@SetParseFns(device=str, precision=str)
def retrieval(
    model,
    task,
    *,
    weights=None,
    data=None,
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
    """Find clips by their captions, and captions by their clips.

    usage: retrieval MODEL TASK [options]

    MODEL          an audio-language model: a registered name (`evar list models`) or
                   path/to/file.py:ClassName
    TASK           audiocaps, clotho, or the path of a CSV with the columns file,caption and
                   optionally split (then only "test" is used); several captions of a file are
                   several rows

    --weights=PATH checkpoint; default: the published file in $EVAR_WEIGHTS or weights/
    --data=DIR     where data sets and manifests are; default: $EVAR_DATA or data/
    --device=auto  cpu, cuda, cuda:1, ...
    --precision=fp32  or bf16: mixed precision in the audio encoder, behind its front end
    --batch_size=N clips through the encoder at a time
    --results=DIR  where results are written; default: results/
    --cache=DIR    where embeddings are kept; default: $EVAR_CACHE or the user's cache folder
    --no_cache     keep no embeddings
    --partial      accept an incomplete data set; the score then says so
    --skip_bad     leave out clips that cannot be decoded; the score then says so
    --quiet        no progress bars
    --NAME=VALUE   an option of the model's adapter
    """
    from evar import models

    precision = precision_of(precision)
    batch_size = None if batch_size is None else whole("batch_size", batch_size)
    require_reads_text(model)
    # Captions are no part of the manifest: whether they are the published ones is seen anew.
    manifest = open_task(task, data_folder(data), None, quiet, captioned=True, anew=True)
    from evar import files
    from evar.protocols import retrieval as protocol

    if manifest.task.metric != "recall":
        raise UserError(
            f"{task} has classes, no captions: it is for `python zeroshot.py {model} {task}`"
        )
    manifest = manifest.test_side()
    manifest.require_usable(partial=partial, skip_bad=skip_bad)
    device = device_of(device)
    files.make_folder(results)
    adapter, config = models.load(model, weights=weights, **options)
    identity = models.identity(adapter, config, options)
    evaluation = protocol.evaluate(
        adapter,
        identity,
        manifest,
        cache=cache_of(cache, no_cache),
        device=device,
        precision=precision,
        batch_size=batch_size,
        skip_bad=skip_bad,
        clip_progress=progress_bar(f"{model} {task}: decode and embed", "clip", quiet),
        caption_progress=progress_bar(f"{model} {task}: captions", "caption", quiet),
    )
    for direction, metrics in evaluation.record["metrics"].items():
        shown = (
            f"{k} {v:g}" if k == "medR" else f"{k} {100 * v:.1f} %" for k, v in metrics.items()
        )
        print(f"{direction.replace('_', ' ')}: {', '.join(shown)}")
    write_run(evaluation, config, identity, manifest, device=device, results=results)
