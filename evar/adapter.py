"""What an encoder must do to be evaluated: the base class of every adapter."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from evar.errors import UserError


def _front_end(features):
    """`features` in float32, and augmented where fine-tuning asks for it."""

    @functools.wraps(features)
    def wrapped(self, audio):
        with torch.autocast(audio.device.type, enabled=False):
            out = features(self, audio)
            # Once: not where a subclass calls the features() of its base.
            outermost = type(self).features is wrapped
            return self.augment(out) if outermost and self.augment is not None else out

    return wrapped


class Adapter(nn.Module):
    """An audio encoder: float32 waveforms in, embeddings out.

    A subclass sets `sample_rate` (Hz) and `embed_dim` (D), and writes either `frames` or the two
    halves of it, `features` and `encode` (fine-tuning augments between them). It may write `embed`
    where a clip embedding is not the mean of its frames.

    Waveforms are (B, S), mono, in [-1, 1], at `sample_rate`, all of one length; silence pads what
    is shorter than the task's unit. The same clip must give the same embedding, alone or in any
    batch. Audio-language models also write `embed_joint` and `embed_text`.
    """

    sample_rate: int
    embed_dim: int
    lr: float = 3e-4  # of the linear probe, where the configuration names none
    fit_clips: int = 0  # training clips that `fit` wants to see; 0: nothing is fitted
    joint_dim: int | None = None  # E of an audio-language model's joint space
    text_options: tuple[str, ...] = ()  # options whose content `text_identity` has
    frame_seconds: float | None = None  # from a frame to the next; None: no even steps
    TINY: dict | None = None  # options of a tiny untrained build, for tests; None: impossible
    blank: float | None = None  # nothing, in `features`; None: the mean of each clip's
    augment: Callable[[Tensor], Tensor] | None = None  # of (B, F, T) spectrograms, in fine-tuning
    keep: Tensor | None = None  # (K,) or (B, K) patches of `patch_grid` to encode; None: all
    lengths: Tensor | None = None  # (B,) samples before padding, where fine-tuning gives them

    def __init_subclass__(cls, **more):
        """Keep every front end in float32: a log-mel computed in bfloat16 is another log-mel."""
        super().__init_subclass__(**more)
        if "features" in vars(cls):
            cls.features = _front_end(cls.features)

    def __init__(self, weights: Path | None = None):
        super().__init__()
        self.weights = weights

    def features(self, audio: Tensor) -> Tensor:
        """(B, S) waveforms -> (B, F, T) spectrogram as the encoder wants it."""
        raise NotImplementedError(f"{type(self).__name__} has no features()")

    def encode(self, features: Tensor) -> Tensor:
        """(B, F, T) spectrogram -> (B, T', D) frame embeddings."""
        raise NotImplementedError(f"{type(self).__name__} has no encode()")

    def frames(self, audio: Tensor) -> Tensor:
        """(B, S) waveforms -> (B, T, D) frame embeddings."""
        return self.encode(self.features(audio))

    def embed(self, audio: Tensor) -> Tensor:
        """(B, S) waveforms -> (B, D) clip embeddings: the mean over time unless overridden."""
        return self.frames(audio).mean(dim=1)

    def fit(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """Learn statistics, without labels, from up to `fit_clips` training clips.

        `batches` yields (B, S) waveforms. Returns what was learned as plain numbers; `fitted`
        takes it back, so that a cached fit needs no audio.
        """
        raise NotImplementedError(f"{type(self).__name__} sets fit_clips but has no fit()")

    def fitted(self, statistics: dict[str, float]) -> None:
        """Take the statistics that `fit` returned, now or in an earlier run."""
        raise NotImplementedError(f"{type(self).__name__} sets fit_clips but has no fitted()")

    def embed_joint(self, audio: Tensor) -> Tensor:
        """(B, S) waveforms -> (B, E) embeddings in the space shared with captions."""
        raise NotImplementedError(f"{type(self).__name__} is an audio-only model")

    def embed_text(self, captions: list[str]) -> Tensor:
        """N captions -> (N, E) embeddings in the space shared with audio."""
        raise NotImplementedError(f"{type(self).__name__} is an audio-only model")

    def text_identity(self) -> dict[str, str]:
        """What `embed_text` depends on beyond this model's own weights, as hashes of content."""
        return {}

    @property
    def reads_text(self) -> bool:
        """Whether this is an audio-language model."""
        return has_both_towers(type(self))

    @property
    def has_features(self) -> bool:
        """Whether there is a spectrogram that `augment` could change."""
        return type(self).features is not Adapter.features

    def patch_grid(self, features: Tensor) -> tuple[int, int] | None:
        """(F', T'): how many patches (B, F, T) is cut into; None where `keep` is not heeded."""
        return None

    def encoder_blocks(self) -> Sequence[nn.Module] | None:
        """The encoder's blocks, from input to output; None: its longest list of modules."""
        return None

    def layer_parameters(self, seconds: float = 1.0) -> list[list[nn.Parameter]]:
        """What fine-tuning trains, from input to output: the stem, each block, what follows.

        The parameters that the embedding of a clip of so many seconds depends on, without those
        that pre-training held fixed; each stands in one layer, and no layer is empty. No layers:
        nothing can be trained. Set `augment` and `keep` afterwards.
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
    """Whether a class embeds audio and text into one space."""
    own = cls.embed_text is not Adapter.embed_text
    return own and cls.embed_joint is not Adapter.embed_joint


def _used(adapter: Adapter, seconds: float) -> tuple[dict[nn.Parameter, int], dict[nn.Module, int]]:
    """The parameters that the embedding of a clip of noise has a gradient for, and all calls.

    The number of a module is that of its first call, a parameter's is its module's. Parameters
    come in that order; before them, at -1, those whose modules are never called (tokens and
    positions, as a rule).
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
            "evaluated, but not be fine-tuned"
        ) from error
    used = [p for p, gradient in zip(parameters, found, strict=True) if gradient is not None]
    order = {p: calls.get(owners[p], -1) for p in used}
    return {p: order[p] for p in sorted(used, key=order.__getitem__)}, calls


@contextlib.contextmanager
def _differentiable(adapter: Adapter) -> Iterator[dict[nn.Module, int]]:
    """Evaluation mode, a gradient for every parameter; all is as before afterwards.

    Yields what modules are put into when they are first called, with the number of that call.
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
    """The encoder's blocks: those it names, else its longest list, by parameters in `used`."""
    return adapter.encoder_blocks() or _longest(adapter, used)


def _longest(adapter: Adapter, used: set[nn.Parameter]) -> list[nn.Module]:
    """The children with parameters in `used` of the list of modules that has the most of them."""
    lists = [m for m in adapter.modules() if isinstance(m, (nn.ModuleList, nn.Sequential))]
    children = [[c for c in m if not used.isdisjoint(c.parameters())] for m in lists]
    return max(children, key=len, default=[])
