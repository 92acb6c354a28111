"""`zeroshot MODEL TASK`: classes as captions, no training. Heavy imports are inside."""

from pathlib import Path

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
@SetParseFns(device=str, precision=str, template=str, captions=str, labels=str)
def zeroshot(
    model,
    task,
    *,
    template=None,
    captions=None,
    labels=None,
    explain=False,
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
    """Classify clips by captions of the classes, without any training.

    usage: zeroshot MODEL TASK [options]
           zeroshot MODEL path/to/clips --labels="dog bark,siren,rain"

    MODEL          an audio-language model: a registered name (`evar list models`) or
                   path/to/file.py:ClassName
    TASK           a registered name (`evar list tasks`), the path of a CSV with the columns
                   file,label,split (or fold), or, with --labels, a sound file or a folder of them

    --template="a recording of {label}"  caption of every class, instead of the task's rule;
                   several, with "|" between them, are averaged
    --captions=FILE.yaml  captions as `templates` and `labels` (docs/zeroshot.md)
    --labels=LIST  labels with "," between them: prints a table of clip, best label and scores
    --explain      print the five nearest captions of some clips
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
    from evar.data import prompts

    if template is not None and captions is not None:
        raise UserError("--template and --captions: give one of them")
    names = None if labels is None else _labels(labels)
    precision = precision_of(precision)
    batch_size = None if batch_size is None else whole("batch_size", batch_size)
    require_reads_text(model)
    manifest = _manifest(task, names, data, quiet)
    from evar import files
    from evar.protocols import zeroshot as protocol

    if manifest.task.metric == "recall":
        raise UserError(
            f"{task} has captions, no classes: it is for `python retrieval.py {model} {task}`"
        )
    names = names or protocol.class_names(manifest)
    manifest = manifest.test_side()
    manifest.require_usable(partial=partial, skip_bad=skip_bad)
    rule = prompts.of_task(manifest.task)
    if template is not None:
        rule = prompts.from_template(template)
    elif captions is not None:
        rule = prompts.from_yaml(captions, names, protocol.titles_of(manifest))
    of_classes = protocol.captions_of(rule, manifest, names)
    device = device_of(device)
    if labels is None:
        files.make_folder(results)
    adapter, config = models.load(model, weights=weights, **options)
    identity = models.identity(adapter, config, options)
    classified = protocol.classify(
        adapter,
        identity,
        manifest,
        names,
        of_classes,
        cache=cache_of(cache, no_cache),
        device=device,
        precision=precision,
        batch_size=batch_size,
        skip_bad=skip_bad,
        clip_progress=progress_bar(f"{model} {task}: decode and embed", "clip", quiet),
        caption_progress=progress_bar(f"{model} {task}: captions", "caption", quiet),
    )
    if explain:
        print("\n".join(protocol.explain(classified)))
    if labels is not None:
        print(protocol.answer(classified))
        for file in classified.manifest.bad.file:
            print(f"skipped, cannot be decoded: {file}")
        return
    evaluation = protocol.evaluate(classified, rule, precision=precision)
    write_run(evaluation, config, identity, classified.manifest, device=device, results=results)


def _labels(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if len(names) < 2 or not all(names) or len(set(names)) < len(names):
        raise UserError(
            f'--labels={text!r}: two or more labels with "," between them, each once, none empty'
        )
    return names


def _manifest(task: str, names: list[str] | None, data, quiet: bool):
    from evar import task as tasks
    from evar.data import indexing, own_sounds

    if names is None:
        if Path(task).exists() and not own_sounds.is_csv(task) and task not in tasks.names():
            raise UserError(f'{task}: sounds of your own need labels: --labels="dog bark,rain"')
        return open_task(task, data_folder(data), None, quiet)
    if not Path(task).exists():
        raise UserError(f"{task}: no such sound file or folder (--labels is for sounds of yours)")
    bar = progress_bar(f"index {task}", "file", quiet)
    own = own_sounds.task_from_sounds(task)
    return indexing.build(own, own.bundled, progress=bar)
