"""`embed MODEL TASK`: fills the embedding cache without scoring anything."""

from fire.decorators import SetParseFns

from evar import options as values


@SetParseFns(model=str, task=str, weights=str, data=str, cache=str, device=str, precision=str)
@SetParseFns(part=str, resample=str)
def embed(
    model,
    task,
    *,
    part=None,
    weights=None,
    data=None,
    seconds=None,
    device="auto",
    precision=None,
    resample=None,
    batch_size=None,
    cache=None,
    partial=False,
    skip_bad=False,
    quiet=False,
    **options,
):
    """Embed a task's clips and keep the embeddings, for a later run on a machine without a GPU.

    usage: embed MODEL TASK [options]

    MODEL          a registered name (`evar list models`), path/to/file.py:ClassName, hf:ORG/NAME
                   or hear:MODULE
    TASK           a registered name or the path of a CSV

    --part=I/N     only the I-th of N parts of the work, counted from 0; parts run on different
                   machines without any coordination, and together are the whole
    --weights=PATH checkpoint; default: the published file in $EVAR_WEIGHTS or weights/
    --data=DIR     where data sets and manifests are; default: $EVAR_DATA or data/
    --seconds=S    unit length of a CSV task; default: its longest clip, at most 10
    --device=auto  cpu, cuda, cuda:1, mps, ...
    --precision=fp32  or bf16: mixed precision in the encoder, behind its front end
    --resample=cpu or gpu: resample in batches on the device (docs/benchmarks.md)
    --batch_size=N clips per forward pass
    --cache=DIR    where embeddings are kept; default: $EVAR_CACHE or the user's cache folder
    --partial      accept an incomplete data set
    --skip_bad     leave out clips that cannot be decoded
    --quiet        no progress bars
    --NAME=VALUE   an option of the model's adapter (`evar list models MODEL`)
    """
    from evar import extract

    how = {"device": device, "precision": precision, "resample": resample}
    how |= {"batch_size": batch_size, "cache": cache}
    how = {k: v for k, v in how.items() if v is not None}
    done = extract.fill_cache(
        model,
        task,
        part=values.part(part),
        weights=weights,
        data=data,
        seconds=seconds,
        partial=partial,
        skip_bad=skip_bad,
        progress=not quiet,
        **how,
        **options,
    )
    print(done)
