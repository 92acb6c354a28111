"""Embeddings of every layer of an encoder, from one pass through its blocks.

A layer's clip embedding is what the adapter itself would return, were its last block's output that
of this layer: the blocks run once and are recorded, then `Adapter.embed` runs once more for each
layer with every block replaced by the recording, so that its own norm and pooling are applied. The
last layer is therefore the adapter's embedding. Where that is impossible, since a layer has another
shape than the last one (convolutions, stages), it is the mean over tokens. Letters: B clips, S
samples, T tokens, D embedding, L layers.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from evar.adapter import Adapter, blocks_of
from evar.errors import UserError
from evar.models import Model

VERSION = 1  # raise it when the embedding of a layer changes
Pooling = Literal["own", "mean"]


@dataclass(frozen=True)
class Layer:
    """One layer: its number (0: the input of the first block), pooling, and width D."""

    number: int
    pooling: Pooling
    width: int


class Columns(Sequence):
    """The layers in embeddings of all of them, values (V, D_0 + D_1 + ...): columns[i] is (V, D_i).

    Each is copied out when it is asked for, so that one layer is in memory at a time.
    """

    def __init__(self, values: NDArray, layers: Sequence[Layer]):
        self.values = values
        self.ends = np.cumsum([layer.width for layer in layers])
        self.widths = [layer.width for layer in layers]

    def __len__(self) -> int:
        return len(self.widths)

    def __getitem__(self, number: int) -> NDArray:  # type: ignore[override]  # no slices
        end = int(self.ends[number])
        return np.ascontiguousarray(self.values[:, end - self.widths[number] : end])


class EveryLayer(Adapter):
    """All layers of an adapter, as an adapter: embed() returns (B, D_0 + D_1 + ...).

    layers: what these are, in order. Raises UserError for an adapter without blocks.
    """

    def __init__(self, adapter: Adapter, *, seconds: float = 1.0):
        super().__init__()
        self.adapter = adapter
        self.sample_rate, self.fit_clips = adapter.sample_rate, adapter.fit_clips
        self.text_options = adapter.text_options
        self.blocks = [_Block(adapter, block) for block in encoder_blocks(adapter, seconds)]
        self.layers: tuple[Layer, ...] = ()
        samples = max(1, int(seconds * adapter.sample_rate))
        noise = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            found = self._every(noise.to(_device(adapter)))
        self.layers = tuple(
            Layer(number, pooling, out.shape[1]) for number, (pooling, out) in found.items()
        )
        self.embed_dim = sum(layer.width for layer in self.layers)

    def fit(self, batches: Iterable[Tensor]) -> dict[str, float]:
        return self.adapter.fit(batches)

    def fitted(self, statistics: dict[str, float]) -> None:
        self.adapter.fitted(statistics)

    def embed(self, audio: Tensor) -> Tensor:
        return torch.cat([out for _, out in self._every(audio).values()], dim=1)

    def _every(self, audio: Tensor) -> dict[int, tuple[Pooling, Tensor]]:
        """(B, S) -> of every layer its pooling and its embedding (B, D)."""
        with _recording(self.adapter, self.blocks) as tape:
            last = self.adapter.embed(audio)
        inputs, outputs = tape.inputs, tape.outputs
        if not inputs or not all(outputs):
            raise UserError(
                f"{type(self.adapter).__name__}: a block of its encoder was not called as a module "
                "(block(x)), so that there is no output of this layer"
            )
        count = len(self.blocks)
        kinds = {layer.number: layer.pooling for layer in self.layers}
        found: dict[int, tuple[Pooling, Tensor]] = {}
        for number in range(count):
            tokens = inputs if number == 0 else outputs[number - 1]
            pooling = kinds.get(number) if self.layers else None
            if self.layers and pooling is None:
                continue  # layer 0 of an encoder whose first block has no tokens
            out = None
            if pooling != "mean":
                out = self._as_last(audio, tape, tokens, last)
            if out is None and (number or _tensor(tokens[0]).ndim == 3):
                pooling, out = "mean", _mean_over_tokens(tokens, len(audio))
            if out is not None:
                found[number] = (pooling or "own", out)
        found[count] = ("own", last)
        return found

    def _as_last(self, audio: Tensor, tape: "_Tape", tokens: list, last: Tensor) -> Tensor | None:
        """The adapter's embedding with these tokens as its last block's; None where none is."""
        final = tape.outputs[-1]
        same = len(tokens) == len(final) and all(
            _tensor(a).shape == _tensor(b).shape for a, b in zip(tokens, final, strict=True)
        )
        if not same:
            return None
        replayed = [_like(b, _tensor(a)) for a, b in zip(tokens, final, strict=True)]
        with _replaying(self.adapter, self.blocks, tape, replayed):
            out = self.adapter.embed(audio)
        return out if out.shape == last.shape else None


def every_layer(model: Model, seconds: float) -> Model:
    """Returns a model whose embedding is that of every layer; `adapter.layers` says which.

    seconds: of the clips that will be embedded. Raises UserError for an encoder without blocks.
    """
    adapter = EveryLayer(model.adapter, seconds=seconds).eval()
    identity = {**model.identity, "output": f"every layer, version {VERSION}"}
    return replace(model, adapter=adapter, identity=identity)


class NoBlocks(UserError):
    """An encoder without blocks has no layers."""


def may_have_blocks(adapter: Adapter) -> bool:
    """Returns whether there is a list of modules that could be the blocks of an encoder."""
    lists = (m for m in adapter.modules() if isinstance(m, (nn.ModuleList, nn.Sequential)))
    return bool(adapter.encoder_blocks()) or any(len(found) > 1 for found in lists)


def encoder_blocks(adapter: Adapter, seconds: float = 1.0) -> Sequence[nn.Module]:
    """Returns the blocks of an encoder, from input to output; NoBlocks where there are none.

    Those that the adapter names, else its longest list of modules on which the embedding of a clip
    of so many seconds depends.
    """
    blocks = list(adapter.encoder_blocks() or ())
    if not blocks:
        used = {p for layer in adapter.layer_parameters(seconds) for p in layer}
        blocks = list(blocks_of(adapter, used))
    if not blocks:
        raise NoBlocks(
            f"{type(adapter).__name__} has no blocks, so that it has no layers: a list of modules "
            "(nn.ModuleList, nn.Sequential) or encoder_blocks() would name them"
        )
    return blocks


class _Block:
    """One block of an encoder, and the modules of the encoder that it consists of.

    A slice of an nn.Sequential is no module of the encoder: its members are.
    """

    def __init__(self, adapter: Adapter, block: nn.Module):
        inside = any(block is module for module in adapter.modules())
        self.modules = [block] if inside else list(block.children())


@dataclass
class _Tape:
    """What went through an encoder: each list has one entry for each call.

    inputs: of the first block. outputs: of each block. features: of the adapter's front end.
    """

    inputs: list[Tensor]
    outputs: list[list]
    features: list[Tensor]


@contextlib.contextmanager
def _recording(adapter: Adapter, blocks: Sequence[_Block]) -> Iterator[_Tape]:
    """Records what goes through the blocks and the front end while the block of code runs."""
    tape = _Tape([], [[] for _ in blocks], [])
    hooks = [
        block.modules[-1].register_forward_hook(
            lambda _, __, out, own=own: own.append(_copied(out))
        )
        for block, own in zip(blocks, tape.outputs, strict=True)
    ]
    hooks.append(
        blocks[0]
        .modules[0]
        .register_forward_pre_hook(
            lambda _, given, named: tape.inputs.append(_first(given, named).clone()),
            with_kwargs=True,
        )
    )
    front_end = adapter.features

    def features(audio: Tensor) -> Tensor:
        out = front_end(audio)
        tape.features.append(out.clone())
        return out

    vars(adapter)["features"] = features
    try:
        yield tape
    finally:
        del adapter.features
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def _replaying(
    adapter: Adapter, blocks: Sequence[_Block], tape: _Tape, outputs: list
) -> Iterator[None]:
    """Lets every block return recorded outputs, call by call, and the front end its own."""
    replaced: list[nn.Module] = []
    for block in blocks:
        for module in block.modules:
            vars(module)["forward"] = _in_turn(outputs)
            replaced.append(module)
    vars(adapter)["features"] = _in_turn(tape.features)
    try:
        yield
    finally:
        del adapter.features
        for module in replaced:
            del module.forward


def _in_turn(recorded: list) -> Callable:
    """Returns a function that ignores its arguments and returns copies of these, one per call."""
    calls = iter(recorded)

    def replay(*_, **__):
        return _copied(next(calls))

    return replay


def _copied(out):
    """A copy of a block's output: what follows may change it in place."""
    return _like(out, _tensor(out).clone())


def _tensor(out) -> Tensor:
    """The hidden states of a block's output: the first of several."""
    return out if isinstance(out, Tensor) else out[0]


def _like(out, tensor: Tensor):
    """A block's output with other hidden states."""
    return tensor if isinstance(out, Tensor) else type(out)([tensor, *out[1:]])


def _first(given: tuple, named: dict) -> Tensor:
    return given[0] if given else next(v for v in named.values() if isinstance(v, Tensor))


def _mean_over_tokens(calls: list, clips: int) -> Tensor:
    """The mean over tokens and calls: (B', T, D) or (B', D, F, T) -> (B, D) float32.

    B' is B or, where an encoder makes several windows of a clip, a multiple of it.
    """
    means = []
    for out in map(_tensor, calls):
        out = out.float()
        over = {2: (), 3: (1,), 4: (2, 3)}[out.ndim]
        out = out.mean(dim=over) if over else out
        means.append(out.unflatten(0, (clips, -1)).mean(dim=1))
    return torch.stack(means).mean(dim=0)


def _device(adapter: Adapter) -> torch.device:
    return next(
        (t.device for t in (*adapter.parameters(), *adapter.buffers())), torch.device("cpu")
    )
