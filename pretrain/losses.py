"""The losses of pre-training, and what crosses processes for them. Pure functions.

M2D-CLAP (Niizumi et al., Interspeech 2024), equations 1 to 4. B clips, M masked patches, D width.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


def masked_prediction(predicted: Tensor, target: Tensor) -> Tensor:
    """2 - 2 cos between what is predicted and the standardised target, (B, M, D) each.

    The target is standardised over each embedding (unbiased variance); the mean over all masked
    patches is taken.
    """
    target = target.float()
    mean, variance = target.mean(dim=2, keepdim=True), target.var(dim=2, keepdim=True)
    target = (target - mean) / (variance + 1e-6).sqrt()
    cosine = (normalize(predicted.float(), dim=2) * normalize(target, dim=2)).sum(dim=2)
    return (2 - 2 * cosine).mean()


def reconstruction(predicted: Tensor, pixels: Tensor) -> Tensor:
    """Mean squared error of (B, M, N) values of masked patches (MAE, MSM-MAE)."""
    return (predicted.float() - pixels).square().mean()


def nt_xent(audio: Tensor, text: Tensor, captioned: Tensor, logit_scale: Tensor) -> Tensor:
    """Symmetric cross entropy of scaled cosines, clip i against caption i.

    audio, text (B, D); captioned (B,) says which clips have a caption: others are neither rows nor
    negatives. Fewer than two captioned clips have nothing to be told from: the loss is 0.
    """
    if int(captioned.sum()) < 2:
        return 0.0 * (audio.sum() + text.sum() + logit_scale)
    audio = normalize(audio[captioned].float(), dim=1)
    text = normalize(text[captioned].float(), dim=1)
    logits = logit_scale.exp() * audio @ text.T
    own = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def effective_rank(embeddings: Tensor) -> float:
    """exp of the entropy of the normalised singular values of (B, D), centred: between 1 and D.

    A measure of collapse that needs no labels (Roy and Vetterli 2007).
    """
    values = torch.linalg.svdvals((embeddings - embeddings.mean(dim=0)).float())
    share = values / values.sum().clamp_min(1e-12)
    return float(torch.exp(-(share * share.clamp_min(1e-12).log()).sum()))
