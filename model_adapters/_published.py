"""Brings published checkpoints into the form that strict loading expects."""

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor, nn

from evar import unwrap
from evar.weights import load_checkpoint, load_strict

# Tables and counters that a module computes itself; not every published file has them.
_COMPUTED = ("num_batches_tracked", "relative_position_index")


def read(path: Path, container: str = "") -> dict[str, Tensor]:
    """Reads the named tensors of a checkpoint: those under `container`, or of the file itself."""
    return tensors(load_checkpoint(path), container)


def tensors(content: dict, container: str = "") -> dict[str, Tensor]:
    """Returns the named tensors of a checkpoint that has been read already."""
    return unwrap.tensors(content, container)


def load(module: nn.Module, state: dict[str, Tensor], path, *, ignore: Iterable[str] = ()) -> None:
    """Loads strictly, except that computed tables may be absent from the checkpoint."""
    state = unwrap.fitted(state, (n for n in module.state_dict() if not n.endswith(_COMPUTED)))
    computed = {k: v for k, v in module.state_dict().items() if k.endswith(_COMPUTED)}
    load_strict(module, {**computed, **state}, path, ignore=ignore)
