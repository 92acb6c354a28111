"""Checks that an adapter fulfils its contract: `python -m evar.check MODEL`."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from evar import fingerprint, models, opened_files
from evar.adapter import Adapter
from evar.embedding import layers
from evar.errors import described

TOLERANCE = 1e-4  # relative error between a clip alone and the same clip in a batch
_UNITS = 2.5  # seconds: clips of most checks
_LONG = 31.0  # seconds: longer than the input of any encoder
_CAPTIONS = ["a dog barks", "rain", "a pianist plays in a large and empty hall"]


@dataclass(frozen=True)
class Finding:
    """The result of one check: what was checked, and what is wrong and how to fix it."""

    name: str
    problem: str = ""  # empty: the check passed
    remedy: str = ""

    @property
    def ok(self) -> bool:
        return not self.problem

    def __str__(self) -> str:
        if self.ok:
            return f"ok      {self.name}"
        return f"FAILED  {self.name}: {self.problem}" + (f". {self.remedy}" if self.remedy else "")


class _Failure(Exception):
    """Raised by a single check, with the problem and its remedy."""


def check(adapter: Adapter) -> list[Finding]:
    """Runs all checks on synthetic clips; returns one Finding per check, in order.

    The adapter must be in evaluation mode, as `evar.models.load` returns it. If its attributes are
    wrong or it cannot embed at all, later checks are skipped. An adapter with `fit_clips` is fitted
    to noise.
    """
    findings = []
    with torch.inference_mode():
        for name, needed, function in _checks(adapter):
            findings.append(_try(name, function, adapter))
            if needed and not findings[-1].ok:
                break
    return findings


def check_model(model: "str | type[Adapter]", *, weights=None, **options) -> list[Finding]:
    """Runs the checks of `check` on a model, and those of its identity; it is built twice.

    Arguments and errors are those of `evar.models.load`.
    """
    loaded = models.load(model, weights=weights, **options)
    identity, seen = _seen(loaded)
    findings = check(loaded.adapter)
    del loaded  # two of the large ones may not fit into memory
    again, _ = _seen(models.load(model, weights=weights, **options))
    of_identity = (
        ("what embed() computes and reads is part of the model's identity", _is_complete),
        ("built again, it is the same model", functools.partial(_is_same, again)),
    )
    return [*findings, *(_try(n, functools.partial(f, seen), identity) for n, f in of_identity)]


def _seen(loaded: models.Model) -> tuple[dict, dict[str, str]]:
    """Returns a model's identity, with what it computes, and files that its first embed() reads."""
    reading = opened_files.Recording()
    with reading.on():
        embeds = fingerprint.of(loaded.adapter)
    return {**loaded.identity, "embeds": embeds}, opened_files.by_name(reading.files)


def _is_complete(seen: Mapping[str, str], identity: dict) -> None:
    unknown = {name: h for name, h in seen.items() if identity.get("opened", {}).get(name) != h}
    if unknown:
        raise _Failure(
            f"embed() reads {', '.join(unknown)}, which its identity does not have",
            "Read it in __init__, or leave `verified` out of the model's YAML",
        )
    if not identity["embeds"]:
        raise _Failure(
            "embed() fails on clips of 1 s and of 10 s, so that a state that lies outside of "
            "parameters, buffers, options and files is not seen",
            "Pad short clips with silence, and read long ones in windows",
        )


_REMEDIES = {
    "opened": "Read files whose names and content do not change from build to build",
    "values": "Its attributes must follow from its options: no times, counters, or random numbers",
    "embeds": "Draw random numbers from torch, which is seeded, or from a generator with a seed",
    "weights": "Draw random numbers from torch, which is seeded, or from a generator with a seed",
}


def _is_same(again: dict, _, identity: dict) -> None:
    differing = [key for key in (*again, *identity) if again.get(key) != identity.get(key)]
    if differing:
        key = differing[0]
        raise _Failure(
            f"its identity differs in {', '.join(dict.fromkeys(differing))}: no run would find the "
            "embeddings of another",
            _REMEDIES.get(key, "It must be the same in each build"),
        )


def _checks(adapter: Adapter) -> Iterator[tuple[str, bool, Callable[[Adapter], None]]]:
    """Yields (what is checked, whether later checks depend on it, the check)."""
    yield "sample_rate, embed_dim and lr have plausible values", True, _attributes
    if adapter.fit_clips:
        yield "fit() returns numbers that fitted() restores", True, _fit
    yield "embed() turns (B, S) into (B, D) float32, all finite", True, _embeds
    yield "embed() leaves the waveform unchanged", False, _untouched
    yield "the same clips give the same bytes twice", False, _deterministic
    yield "a clip has the same embedding alone and in a batch", False, _alone
    yield "different clips have different embeddings", False, _hears
    yield "a clip of 10 ms", False, lambda a: _finite(a, _noise(a, 0.01, 2))
    yield "a clip of 60 s", False, lambda a: _finite(a, _noise(a, 60, 1))
    yield "silence", False, lambda a: _finite(a, torch.zeros(2, _samples(a, _UNITS)))
    if _has_frames(adapter):
        yield "frames() turns (B, S) into (B, T, D'), all finite", False, _frames
        if adapter.frame_seconds is not None:
            yield "frames() returns a frame every frame_seconds", False, _pace
    yield "a clip of half a minute, twice, alone and in a batch", False, _long
    if layers.may_have_blocks(adapter):
        yield "every layer of the encoder: steady, finite, the last one is embed()", False, _layers
    if adapter.reads_text:
        yield "embed_joint() and embed_text() share a space of joint_dim", False, _joint
        yield "embed_joint() of the same clips, twice, alone and in a batch", False, _joint_steady
        yield "a caption has the same embedding alone and among others", False, _captions


def _try(name: str, function: Callable, of) -> Finding:
    try:
        function(of)
    except _Failure as failure:
        return Finding(name, *failure.args)
    except Exception as error:  # the adapter's code may raise anything: it is shown
        return Finding(name, described(error), "Fix the adapter there")
    return Finding(name)


def _attributes(adapter: Adapter) -> None:
    for name, low, high in (("sample_rate", 1000, 400_000), ("embed_dim", 1, 10**7)):
        value = getattr(adapter, name, None)
        if type(value) is not int or not low <= value <= high:
            raise _Failure(
                f"{name} is {value!r} ({type(value).__name__})",
                f"Set it to a whole number from {low} to {high}, in the class or in __init__",
            )
    if not isinstance(adapter.lr, float) or not 0 < adapter.lr < 10:
        raise _Failure(f"lr is {adapter.lr!r}", "Set it to the probe's learning rate, e.g. 3e-4")
    if type(adapter.fit_clips) is not int or adapter.fit_clips < 0:
        raise _Failure(f"fit_clips is {adapter.fit_clips!r}", "Set it to a whole number, or to 0")
    if adapter.reads_text and type(adapter.joint_dim) is not int:
        raise _Failure(
            f"joint_dim is {adapter.joint_dim!r}", "Set it to the dimension of the joint space"
        )
    if adapter.training:
        raise _Failure("the adapter is in training mode", "Call .eval() on it first")


def _fit(adapter: Adapter) -> None:
    statistics = adapter.fit(iter([_noise(adapter, _UNITS, 2), _noise(adapter, _UNITS, 2, seed=1)]))
    numbers = isinstance(statistics, dict) and all(
        isinstance(k, str) and isinstance(v, (int, float)) and math.isfinite(v)
        for k, v in statistics.items()
    )
    if not numbers:
        raise _Failure(
            f"fit() returned {statistics!r:.100}", "Return a dict of names and finite numbers"
        )
    adapter.fitted(statistics)


def _embeds(adapter: Adapter) -> None:
    _finite(adapter, _noise(adapter, _UNITS, 3))


def _finite(adapter: Adapter, audio: Tensor) -> None:
    """Checks shape, dtype and values of embeddings."""
    _require(adapter.embed(audio), (len(audio), adapter.embed_dim), "embed()")


def _require(out: object, shape: tuple, what: str, size: str = "embed_dim") -> None:
    if not isinstance(out, Tensor):
        raise _Failure(f"{what} returned a {type(out).__name__}", "Return a torch tensor")
    if tuple(out.shape) != shape:
        raise _Failure(
            f"{what} returned shape {tuple(out.shape)}, expected {shape}",
            f"Pool over time, and set {size} to the dimension of the result",
        )
    if out.dtype != torch.float32:
        raise _Failure(f"{what} returned {out.dtype}", "Return .float()")
    if not torch.isfinite(out).all():
        count = int((~torch.isfinite(out)).any(dim=-1).sum())
        raise _Failure(
            f"{what} returned NaN or infinity in {count} of {out.shape[0]} rows",
            "Look for log(0) and for divisions by a standard deviation or norm of zero",
        )


def _untouched(adapter: Adapter) -> None:
    audio = _noise(adapter, _UNITS, 2)
    before = audio.clone()
    adapter.embed(audio)
    if not torch.equal(audio, before):
        raise _Failure(
            "embed() changed its input", "Replace in-place operations (x *= 2) by x = x * 2"
        )


def _deterministic(adapter: Adapter) -> None:
    _require_same(adapter.embed, _noise(adapter, _UNITS, 3))


def _require_same(embed: Callable[[Tensor], Tensor], audio: Tensor) -> None:
    # On two copies: another check covers changes of the input.
    if not torch.equal(embed(audio.clone()), embed(audio.clone())):
        raise _Failure(
            "two calls with the same clips differ",
            "Look for dropout or random crops in evaluation mode: check self.training, or derive "
            "the crop from the clip's samples",
        )


def _alone(adapter: Adapter) -> None:
    _require_apart(adapter.embed, _noise(adapter, _UNITS, 4))


def _long(adapter: Adapter) -> None:
    # Encoders split long clips into chunks: random crops and mixed-up clips show here only.
    audio = _noise(adapter, _LONG, 2)
    _require_same(adapter.embed, audio)
    _require_apart(adapter.embed, audio)


def _joint_steady(adapter: Adapter) -> None:
    for seconds in (_UNITS, _LONG):
        audio = _noise(adapter, seconds, 2)
        _require_same(adapter.embed_joint, audio)
        _require_apart(adapter.embed_joint, audio)
    _require_different(adapter.embed_joint(_noise(adapter, _UNITS, 2)))
    silence = torch.zeros(2, _samples(adapter, _UNITS))
    _require(adapter.embed_joint(silence), (2, adapter.joint_dim), "embed_joint()", "joint_dim")


def _require_apart(embed: Callable[[Tensor], Tensor], audio: Tensor) -> None:
    # Clips differ in loudness, which reveals statistics over the batch.
    audio = audio * torch.logspace(-1.7, 0.7, len(audio))[:, None]
    together = embed(audio.clone())
    alone = torch.cat([embed(clip[None].clone()) for clip in audio])
    error = max(_error(a, b) for a, b in zip(alone, together, strict=True))
    if error > TOLERANCE:
        raise _Failure(
            f"relative difference {error:.1g}, above {TOLERANCE:g}",
            "Look for a mean, maximum or normalisation over the whole batch (AmplitudeToDB's "
            "top_db, batch normalisation in training mode), or for reshapes that mix clips",
        )


def _hears(adapter: Adapter) -> None:
    _require_different(adapter.embed(_noise(adapter, _UNITS, 2)))


def _require_different(embeddings: Tensor) -> None:
    first, second = embeddings
    if torch.equal(first, second):
        raise _Failure("two different clips have one embedding", "Does the audio reach the model?")


def _pace(adapter: Adapter) -> None:
    shorter, longer = (adapter.frames(_noise(adapter, s, 1)).shape[1] for s in (_UNITS, 2 * _UNITS))
    step = adapter.frame_seconds or 0.0
    grown = longer - shorter  # 0 if the input has a fixed length
    if grown and abs(grown * step - _UNITS) > step:
        raise _Failure(
            f"{_UNITS} s have {shorter} frames and {2 * _UNITS} s {longer}, which contradicts "
            f"frame_seconds = {step}",
            "Set it to the seconds between frames, or to None",
        )


def _has_frames(adapter: Adapter) -> bool:
    kind = type(adapter)
    return kind.frames is not Adapter.frames or kind.encode is not Adapter.encode


def _frames(adapter: Adapter) -> None:
    try:
        out = adapter.frames(_noise(adapter, _UNITS, 3))
    except NotImplementedError:
        return  # such as a HEAR module without timestamps
    if not isinstance(out, Tensor) or out.ndim != 3 or len(out) != 3 or not out.shape[1]:
        shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise _Failure(f"frames() returned {shape} for 3 clips", "Return (B, T, D)")
    _require(out, tuple(out.shape), "frames()")


def _layers(adapter: Adapter) -> None:
    try:
        every = layers.EveryLayer(adapter, seconds=_UNITS).eval()
    except layers.NoBlocks:
        return  # its lists of modules have no part in embed()
    audio = _noise(adapter, _UNITS, 3)
    _require(every.embed(audio), (3, every.embed_dim), "every layer")
    _require_same(every.embed, audio)
    _require_apart(every.embed, audio)
    if not torch.equal(every.embed(audio)[:, -adapter.embed_dim :], adapter.embed(audio)):
        raise _Failure(
            "looking at the layers changes the embedding",
            "Let the blocks be called as modules, block(x), and the same way each time",
        )


def _joint(adapter: Adapter) -> None:
    audio = adapter.embed_joint(_noise(adapter, _UNITS, 2))
    _require(audio, (2, adapter.joint_dim), "embed_joint()", "joint_dim")
    text = adapter.embed_text(_CAPTIONS)
    _require(text, (3, adapter.joint_dim), "embed_text()", "joint_dim")


def _captions(adapter: Adapter) -> None:
    together = adapter.embed_text(_CAPTIONS)
    alone = torch.cat([adapter.embed_text([caption]) for caption in _CAPTIONS])
    error = max(_error(a, b) for a, b in zip(alone, together, strict=True))
    if error > TOLERANCE:
        raise _Failure(
            f"relative difference {error:.1g}, above {TOLERANCE:g}",
            "Pass the attention mask to the text encoder, and leave padding out of the mean",
        )


def _error(ours: Tensor, reference: Tensor) -> float:
    """Returns the relative error ||ours - reference|| / ||reference||."""
    return float((ours - reference).norm() / reference.norm().clamp(min=1e-12))


def _samples(adapter: Adapter, seconds: float) -> int:
    return max(1, round(seconds * adapter.sample_rate))


def _noise(adapter: Adapter, seconds: float, clips: int, seed: int = 0) -> Tensor:
    """Returns (clips, S): quiet noise and a tone, of another pitch in each clip."""
    generator = torch.Generator().manual_seed(seed)
    samples = _samples(adapter, seconds)
    pitch = 200 * (1 + torch.rand(clips, 1, generator=generator))
    phase = 2 * math.pi * pitch * torch.arange(samples) / adapter.sample_rate
    return 0.1 * phase.sin() + 0.03 * torch.randn(clips, samples, generator=generator)


if __name__ == "__main__":
    from evar.cli import run

    run("check")
