"""The contract between the harness and an encoder: the base class of every adapter."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from evar.errors import UserError


def _front_end(features):
    """Wraps `features`: float32 under mixed precision, and augmented during fine-tuning."""

    @functools.wraps(features)
    def wrapped(self, audio):
        with torch.autocast(audio.device.type, enabled=False):
            out = features(self, audio)
            # Augment once, not again when a subclass calls the features() of its base.
            outermost = type(self).features is wrapped
            return self.augment(out) if outermost and self.augment is not None else out

    return wrapped


class Adapter(nn.Module):
    """An audio encoder: float32 waveforms in, embeddings out.

    A subclass sets `sample_rate` (Hz) and `embed_dim` (D), and implements either `frames` or its
    two halves, `features` and `encode` (fine-tuning augments between them). It overrides `embed` if
    a clip embedding is not the mean over frames. Audio-language models also implement `embed_joint`
    and `embed_text`.

    Waveforms are (B, S), mono, in [-1, 1], at `sample_rate`, all of one length; clips shorter than
    the task's segment are padded with silence. The same clip must have the same embedding, alone or
    in any batch.

    >>> import torch
    >>> class Level(Adapter):
    ...     sample_rate, embed_dim = 16000, 1
    ...     def embed(self, audio):  # (B, S) -> (B, 1)
    ...         return audio.square().mean(dim=1, keepdim=True)
    >>> Level().embed(torch.ones(2, 16000)).shape
    torch.Size([2, 1])
    """

    sample_rate: int
    embed_dim: int
    lr: float = 3e-4  # default learning rate of the linear probe
    fit_clips: int = 0  # number of training clips that `fit` needs; 0: nothing is fitted
    joint_dim: int | None = None  # E of an audio-language model's joint space
    whole_clips: bool = False  # zero-shot classification reads clips whole, not cut to the unit
    text_options: tuple[str, ...] = ()  # options whose content `text_identity` covers
    frame_seconds: float | None = None  # hop between frames; None: not uniform
    TINY: dict | None = None  # options of a tiny untrained build, for tests; None: impossible
    blank: float | None = None  # value of masked `features`; None: the mean of each clip
    augment: Callable[[Tensor], Tensor] | None = None  # of (B, F, T) spectrograms, in fine-tuning
    keep: Tensor | None = None  # (K,) or (B, K) patches of `patch_grid` to encode; None: all
    lengths: Tensor | None = None  # (B,) samples before padding, where fine-tuning gives them

    def __init_subclass__(cls, **more):
        """Keeps every front end in float32: a log-mel computed in bfloat16 differs too much."""
        super().__init_subclass__(**more)
        if "features" in vars(cls):
            setattr(cls, "features", _front_end(cls.features))  # noqa: B010  (a method is replaced)

    def __init__(self, weights: Path | None = None):
        super().__init__()
        self.weights = weights

    def features(self, audio: Tensor) -> Tensor:
        """Computes the encoder's input: (B, S) waveforms -> (B, F, T) spectrograms."""
        raise NotImplementedError(f"{type(self).__name__} has no features()")

    def encode(self, features: Tensor) -> Tensor:
        """Encodes spectrograms: (B, F, T) -> (B, T', D) frame embeddings."""
        raise NotImplementedError(f"{type(self).__name__} has no encode()")

    def frames(self, audio: Tensor) -> Tensor:
        """Embeds frames: (B, S) waveforms -> (B, T, D)."""
        return self.encode(self.features(audio))

    def embed(self, audio: Tensor) -> Tensor:
        """Embeds clips: (B, S) waveforms -> (B, D); the mean over frames unless overridden."""
        return self.frames(audio).mean(dim=1)

    def fit(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """Learns statistics, without labels, from up to `fit_clips` training clips.

        `batches` yields (B, S) waveforms. Returns the statistics as plain numbers, which `fitted`
        restores, so that a cached fit needs no audio.
        """
        raise NotImplementedError(f"{type(self).__name__} sets fit_clips but has no fit()")

    def fitted(self, statistics: dict[str, float]) -> None:
        """Restores the statistics that `fit` returned, now or in an earlier run."""
        raise NotImplementedError(f"{type(self).__name__} sets fit_clips but has no fitted()")

    def embed_joint(self, audio: Tensor) -> Tensor:
        """Embeds clips in the space shared with captions: (B, S) waveforms -> (B, E)."""
        raise NotImplementedError(f"{type(self).__name__} is an audio-only model")

    def embed_text(self, captions: list[str]) -> Tensor:
        """Embeds N captions in the space shared with audio: (N, E)."""
        raise NotImplementedError(f"{type(self).__name__} is an audio-only model")

    def text_identity(self) -> dict[str, str]:
        """Returns content hashes of all that `embed_text` depends on beyond the model's weights."""
        return {}

    @property
    def reads_text(self) -> bool:
        """Returns whether this is an audio-language model."""
        return has_both_towers(type(self))

    @property
    def has_features(self) -> bool:
        """Returns whether there is a spectrogram to augment."""
        return type(self).features is not Adapter.features

    def patch_grid(self, features: Tensor) -> tuple[int, int] | None:
        """Returns the number of patches (F', T') of (B, F, T); None if `keep` is not supported."""
        return None

    def encoder_blocks(self) -> Sequence[nn.Module] | None:
        """Returns the blocks from input to output; None: its longest list of modules is taken."""
        return None

    def layer_parameters(self, seconds: float = 1.0) -> list[list[nn.Parameter]]:
        """Returns the layers that fine-tuning trains, from input to output: stem, blocks, the rest.

        These are the parameters that have a gradient in the embedding of a clip of `seconds`
        seconds. Each is in exactly one layer, and no layer is empty; without layers, nothing can be
        trained. Call this before `augment` and `keep` are set.
        """
        used, calls = _used(self, seconds)
        known = set(used)
        blocks, taken, begin = [], set(), len(calls)
        for block in blocks_of(self, known):
            blocks.append([p for p in block.parameters() if p in known and p not in taken])
            taken.update(blocks[-1])
            begin = min([begin, *(calls[m] for m in block.modules() if m in calls)])
        others = {p: call for p, call in used.items() if p not in taken}
        stem = [p for p, call in others.items() if call < begin]
        tail = [p for p, call in others.items() if call >= begin]
        return [layer for layer in (stem, *blocks, tail) if layer]


def has_both_towers(cls: type[Adapter]) -> bool:
    """Returns whether a class embeds audio and text into one space."""
    own = cls.embed_text is not Adapter.embed_text
    return own and cls.embed_joint is not Adapter.embed_joint


def _used(adapter: Adapter, seconds: float) -> tuple[dict[nn.Parameter, int], dict[nn.Module, int]]:
    """Returns the parameters with a gradient in the embedding of noise, and the order of calls.

    A module's number is that of its first call, a parameter's number that of its module. Parameters
    are sorted by it; those whose modules are never called (usually tokens and positions) come
    first, with -1.
    """
    owners = {p: m for m in adapter.modules() for p in m.parameters(recurse=False)}
    if not owners:
        return {}, {}
    parameters = list(owners)
    generator = torch.Generator().manual_seed(0)
    try:
        with _differentiable(adapter) as calls:
            samples = int(seconds * adapter.sample_rate)
            noise = 0.1 * torch.randn(1, samples, generator=generator)
            out = adapter.embed(noise.to(parameters[0].device))
            if not out.requires_grad:
                return {}, {}
            found = torch.autograd.grad(out.sum(), parameters, allow_unused=True)
    except RuntimeError as error:
        raise UserError(
            f"{type(adapter).__name__}.embed cannot be differentiated ({error}): this model can be "
            "evaluated, but not fine-tuned"
        ) from error
    used = [p for p, gradient in zip(parameters, found, strict=True) if gradient is not None]
    order = {p: calls.get(owners[p], -1) for p in used}
    return {p: order[p] for p in sorted(used, key=order.__getitem__)}, calls


@contextlib.contextmanager
def _differentiable(adapter: Adapter) -> Iterator[dict[nn.Module, int]]:
    """Enables gradients of all parameters in evaluation mode; restores everything afterwards.

    Yields a dictionary that is filled with each module's first call, as a running number.
    """
    calls: dict[nn.Module, int] = {}

    def called(module: nn.Module, _) -> None:
        calls.setdefault(module, len(calls))

    hooks = [m.register_forward_pre_hook(called) for m in adapter.modules()]
    flags = [(p, p.requires_grad) for p in adapter.parameters()]
    modes = [(m, m.training) for m in adapter.modules()]
    try:
        adapter.eval().requires_grad_(True)
        with torch.inference_mode(False), torch.enable_grad():
            yield calls
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode


def blocks_of(adapter: Adapter, used: set[nn.Parameter]) -> Sequence[nn.Module]:
    """Returns the encoder's blocks: those it names, else its longest list of used modules."""
    return adapter.encoder_blocks() or _longest(adapter, used)


def _longest(adapter: Adapter, used: set[nn.Parameter]) -> list[nn.Module]:
    """Returns the used children of the module list that has the most of them."""
    lists = [m for m in adapter.modules() if isinstance(m, (nn.ModuleList, nn.Sequential))]
    children = [[c for c in m if not used.isdisjoint(c.parameters())] for m in lists]
    return max(children, key=len, default=[])
