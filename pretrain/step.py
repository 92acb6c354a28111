"""One step of training: the gradient of the whole batch, in however many parts it is computed.

The masked losses are means over the batch of all processes; the contrastive loss compares all its
clips. Parts of a batch (`micro_batch`) change nothing: the features of all parts are computed
first, then the contrastive gradient with respect to them, and a second pass through each part
propagates it to the weights (gradient caching; Gao et al., "Scaling deep contrastive learning batch
size", RepL4NLP 2021).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from evar.parallel import World

from . import losses
from .config import PAPER_PROCESSES, Config
from .model import Pretrainer
from .overlap import Overlap


@dataclass(frozen=True)
class Share:
    """The part of a step that one process computes: b of the batch's B clips, on the device."""

    spectrogram: Tensor  # (b, F, T), standardised
    shuffled: Tensor  # (b, L) order of the patches
    kept: int  # K, visible ones
    captions: Tensor  # (b, E)
    captioned: Tensor  # (b,) bool


@dataclass(frozen=True)
class Losses:
    """Losses of the whole batch before the step; 0-d tensors."""

    total: Tensor
    masked: Tensor
    clap: Tensor
    features: Tensor | None  # (b, D) of this process' clips, without gradient


def backward(
    model: Pretrainer,
    forward,
    share: Share,
    config: Config,
    world: World,
    *,
    mixed: bool,
    overlap: Overlap | None = None,
) -> Losses:
    """Adds the gradient of the whole batch, summed over processes, to the parameters.

    forward: the model's, possibly compiled. mixed: compute under bfloat16 autocast. overlap: sums
    gradients during the backward pass; None: afterwards, in one message. Returns the losses.
    """
    device = share.spectrogram.device.type
    size = config.micro_batch or len(share.spectrogram)
    parts = [slice(at, at + size) for at in range(0, len(share.spectrogram), size)]
    contrastive = config.objective == "m2d_clap"

    def run(part: slice) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Returns the part's masked loss, and features of its clips and captions, (m, D) each."""
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            predicted, target, encoded = forward(
                share.spectrogram[part], share.shuffled[part], share.kept
            )
            audio = model.project(encoded).float() if contrastive else None
            text = model.project_text(share.captions[part]).float() if contrastive else None
        loss = losses.reconstruction if config.objective == "msm_mae" else losses.masked_prediction
        return loss(predicted, target), audio, text

    clap = torch.zeros((), device=share.spectrogram.device)
    ready: list[tuple[Tensor, Tensor | None, Tensor | None]] = []
    features: Tensor | None = None
    of_features: tuple[Tensor, Tensor] | None = None  # gradients by audio and text features
    if contrastive:
        with torch.set_grad_enabled(len(parts) == 1):
            ready = [run(part) for part in parts]
        features = torch.cat([a for _, a, _ in ready if a is not None]).detach()
        captions = torch.cat([t for _, _, t in ready if t is not None]).detach()
        clap, of_features = _contrastive(
            model.logit_scale, features, captions, share, config, world
        )
    total = torch.zeros((), device=share.spectrogram.device)
    for part in parts:
        masked, audio, text = ready[0] if contrastive and len(parts) == 1 else run(part)
        masked = masked * (len(share.spectrogram[part]) / (len(share.spectrogram) * world.size))
        total += masked.detach()
        objective = config.masked_weight * masked
        if of_features is not None and audio is not None and text is not None:
            objective = objective + (audio * of_features[0][part]).sum()
            if text.requires_grad:
                objective = objective + (text * of_features[1][part]).sum()
        if overlap is not None and part is parts[-1]:
            with overlap.armed():
                objective.backward()
        else:
            objective.backward()
    if overlap is not None:
        overlap.finish()
        world.all_reduce([total])
    else:
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        world.all_reduce([*gradients, total])
    return Losses(config.masked_weight * total + config.clap_weight * clap, total, clap, features)


def _contrastive(
    logit_scale: Tensor, audio: Tensor, text: Tensor, share: Share, config: Config, world: World
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Returns the contrastive loss over all processes, and its weighted gradients.

    The gradients are with respect to this process' features of clips and captions, (b, D) each; the
    gradient of `logit_scale` is set in place. `config.gather` scales them: "with_grad" is the true
    gradient. Where features are gathered without gradient and gradients are averaged over
    processes, an encoder gets the true gradient divided by their number ("without_grad"); "paper"
    divides by the paper's number of processes, on any number.
    """
    everything = [world.all_gather(x) for x in (audio, text, share.captioned)]
    every_audio, every_text = (x.detach().requires_grad_() for x in everything[:2])
    scale = logit_scale.detach().requires_grad_()
    with torch.enable_grad():
        loss = losses.nt_xent(every_audio, every_text, everything[2], scale)
    by_audio, by_text, by_scale = torch.autograd.grad(loss, (every_audio, every_text, scale))
    own = slice(world.rank * len(audio), (world.rank + 1) * len(audio))
    divisor = {"paper": PAPER_PROCESSES, "with_grad": 1, "without_grad": world.size}[config.gather]
    weight = config.clap_weight / divisor
    # Every process computes the same gradient, and all_reduce adds them up.
    logit_scale.grad = by_scale * (config.clap_weight / world.size)
    return loss.detach(), (by_audio[own] * weight, by_text[own] * weight)
