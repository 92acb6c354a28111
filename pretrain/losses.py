"""The losses of pre-training, as pure functions.

M2D-CLAP (Niizumi et al., Interspeech 2024), equations 1 to 4. B clips, M masked patches, D width.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def masked_prediction(predicted: Tensor, target: Tensor) -> Tensor:
    """Computes 2 - 2 cos between predictions and standardised targets, (B, M, D) each.

    Targets are standardised per embedding (unbiased variance); returns the mean over all masked
    patches.
    """
    target = target.float()
    mean, variance = target.mean(dim=2, keepdim=True), target.var(dim=2, keepdim=True)
    target = (target - mean) / (variance + 1e-6).sqrt()
    cosine = (normalize(predicted.float(), dim=2) * normalize(target, dim=2)).sum(dim=2)
    return (2 - 2 * cosine).mean()


def reconstruction(predicted: Tensor, pixels: Tensor) -> Tensor:
    """Computes the mean squared error of masked patches' values (B, M, N) (MAE, MSM-MAE)."""
    return (predicted.float() - pixels).square().mean()


def nt_xent(audio: Tensor, text: Tensor, captioned: Tensor, logit_scale: Tensor) -> Tensor:
    """Computes the symmetric cross entropy of scaled cosines, clip i against caption i.

    audio, text: (B, D). captioned: (B,), which clips have a caption; others are neither rows nor
    negatives. With fewer than two captioned clips there are no negatives: the loss is 0.
    """
    if audio.device.type == "cuda":
        return _nt_xent_masked(audio, text, captioned, logit_scale)
    if int(captioned.sum()) < 2:
        return 0.0 * (audio.sum() + text.sum() + logit_scale)
    audio = normalize(audio[captioned].float(), dim=1)
    text = normalize(text[captioned].float(), dim=1)
    logits = logit_scale.exp() * audio @ text.T
    own = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def _nt_xent_masked(audio: Tensor, text: Tensor, captioned: Tensor, logit_scale: Tensor) -> Tensor:
    """Computes `nt_xent` without asking how many clips have a caption, for which a GPU would wait.

    Pairs without a caption get no probability. The row of a clip without one is certain of itself:
    its loss is 0, and so is its gradient.
    """
    audio, text = normalize(audio.float(), dim=1), normalize(text.float(), dim=1)
    logits = logit_scale.exp() * audio @ text.T
    own = torch.arange(len(logits), device=logits.device)
    alone = torch.diag(~captioned)
    logits = logits.masked_fill(~(captioned[:, None] & captioned), -torch.inf)
    logits = logits.masked_fill(alone, 0.0)
    total = sum(cross_entropy(x, own, reduction="sum") for x in (logits, logits.T))
    return total / 2 / captioned.sum().clamp_min(1)


def effective_rank(embeddings: Tensor) -> float:
    """Computes the effective rank of (B, D) embeddings, between 1 and D.

    The exponential of the entropy of the normalised singular values after centring: a measure of
    collapse that needs no labels (Roy and Vetterli 2007).
    """
    values = torch.linalg.svdvals((embeddings - embeddings.mean(dim=0)).float())
    share = values / values.sum().clamp_min(1e-12)
    return float(torch.exp(-(share * share.clamp_min(1e-12).log()).sum()))
