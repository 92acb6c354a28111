"""Fine-tuning: an encoder and a head trained end to end, three seeds (docs/finetune.md).

M2D-CLAP (Niizumi et al., Interspeech 2024), Section 4.4. It writes the checkpoints from which it
resumes, below `runtime.training.folder`.
"""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from evar.errors import UserError
from evar.finetuning.settings import Settings, adapter_options, resolve
from evar.protocol import Protocol

if TYPE_CHECKING:
    from evar.data.manifest import Manifest
    from evar.models import Model
    from evar.runtime import Runtime
    from evar.scoring.evaluation import Evaluation

VERSION = 2


def evaluate(
    model: "Model",
    manifest: "Manifest",
    settings: Settings,
    seeds: tuple[int, ...],
    runtime: "Runtime",
) -> "Evaluation":
    """Fine-tunes copies of an adapter, one per seed and fold, and scores their test sets.

    Folds that have ended in `runtime.training.folder` are not trained again, and those that were
    interrupted resume, unless `runtime.training.resume` is False. Several processes may work on
    one folder: each fold is trained by one of them, or by all processes of one torchrun together.
    Raises UserError for what cannot be trained or scored honestly.
    """
    from evar.data import targets
    from evar.finetuning import jobs, loop
    from evar.finetuning.checkpoint import run_key
    from evar.finetuning.model import probabilities
    from evar.finetuning.watch import summary_writer, watching
    from evar.finetuning.waveforms import Waveforms
    from evar.parallel import process_group
    from evar.progress import SILENT
    from evar.runtime import Training
    from evar.scoring import summary

    training = runtime.training
    if training.folder is None:
        raise UserError("fine-tuning keeps checkpoints: name a folder (Training.folder)")
    if training.eval_only and not training.resume:
        raise UserError("--eval_only scores what --no_resume would forget: give one of them")
    if training.tensorboard:
        summary_writer()
    targets.folds_of(manifest)  # a set that cannot be trained on is refused before any work
    waveforms = Waveforms(manifest, model.adapter.sample_rate)
    with process_group(runtime.device) as (world, device):
        folder = Path(training.folder)
        manifest = jobs.decodable(manifest, waveforms, folder, runtime)
        names = targets.class_names(manifest)
        y = targets.encode_labels(manifest, names)
        folds = targets.folds_of(manifest)
        about = {
            "protocol": PROTOCOL.name,
            "version": VERSION,
            "model": dict(model.identity),
            "task": f"{manifest.task.name} {manifest.task.version}",
            "manifest": manifest.sha256,
            "seconds": manifest.task.seconds,
            "skipped": summary.count_clips(manifest)["skipped"],
            "settings": asdict(settings),
        }
        root = folder / run_key(about)
        every = jobs.make_jobs(manifest, folds, y, settings, seeds=seeds, root=root)
        if training.eval_only:
            outcomes = [
                loop.score_exported(
                    job, model.adapter, waveforms, y, settings, world=world, device=device
                )
                for job in every
            ]
        else:
            header = {"evar": json.dumps(about | {"classes": names})}
            progress, shown = runtime.progress, training
            if not world.first:
                progress, shown = SILENT, Training()
            found = {}
            forget = None if training.resume else time.time()
            with watching(progress, shown) as on_step:
                for job in jobs.in_turn(every, world, forget=forget):
                    if not world.broadcast_object(job.place.ended):
                        loop.train(
                            job,
                            model.adapter,
                            waveforms,
                            y,
                            settings,
                            about=header,
                            on_step=on_step,
                            world=world,
                            device=device,
                        )
                    found[job] = job.place.outcome()
            outcomes = [found[job] for job in every]
    runs = [outcomes[at : at + len(folds)] for at in range(0, len(outcomes), len(folds))]
    return summary.evaluation(
        manifest,
        folds,
        seeds,
        names,
        y,
        [[logits for logits, _ in run] for run in runs],
        settings=asdict(settings),
        probabilities=[
            [probabilities(logits, multi_label=manifest.task.multi_label) for logits, _ in run]
            for run in runs
        ],
        runs=tuple(
            {"seed": seed, "folds": [record for _, record in run]}
            for seed, run in zip(seeds, runs, strict=True)
        ),
        seconds={"train": round(sum(record.get("seconds", 0) for _, record in outcomes), 2)},
        extra={"select": settings.select},
    )


PROTOCOL = Protocol(
    name="finetune",
    version=VERSION,
    title="Train an encoder and a head end to end on a task, and score it.",
    settings=Settings,
    resolve=resolve,
    evaluate=evaluate,
    seeds=(43, 44, 45),
    needs=frozenset({"gradients"}),
    adapter_options=adapter_options,
    help="""
--select=auto  which epoch counts: valid, the best on the validation split; holdout, on a tenth
               of the training clips (whole groups); last; oracle, the best on the test set,
               which the score then says. auto is valid, without such a split holdout
--optimizer=NAME    sgd, lars, lars_m2d (as M2D's code ran LARS on AudioSet) or adamw
--lr=RATE           highest learning rate
--weight_decay=W    of weights
--decay_bias=True   or False: of biases and other one-dimensional parameters too
--layer_decay=S     factor of the learning rate from each layer to the one below it
--batch_size=N      clips per step, of all processes together
--epochs=N          passes over the training clips
--warmup=N          epochs in which the rate rises
--domain=waveform   or spectrogram: where clips are padded and mixed
--mixup=ALPHA       0: none
--rrc=True          or False: random resize crop of the spectrogram
--freq_mask=N       SpecAugment: widest mask in bins; 0: none
--time_mask=N       SpecAugment: widest mask in frames; 0: none
--patchout=SHARE    of the patches to leave out in training, in whole rows and columns
--patchout_form=plain    or m2d: which patches are left out (docs/finetune.md)
--freeze=WHAT       none, patch_embed, encoder, or N: the first layer and N blocks
--balanced=True     or False: draw clips of rare classes more often
--epoch_clips=N     clips per epoch, drawn without replacement
--valid_crop=first  or random, in each epoch another: unit of longer validation clips
--precision=fp32    or bf16: mixed precision in the encoder, behind its front end
--accumulate=N      split each batch into N parts, to save memory
--clip_grad=L       maximum gradient norm
--ema=DECAY         score a moving average of the weights
--early_stop=N      stop N epochs after the best one
--compile           compile the encoder's blocks (torch.compile)
               The task's defaults of these are in evar/finetuning/settings.yaml
""",
)
