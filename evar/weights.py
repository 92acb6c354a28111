"""Finds and reads checkpoints without running code from them."""

import argparse
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from evar.errors import UserError

# Classes of what published checkpoints hold besides tensors: arguments and NumPy numbers. Reading
# them runs no code.
_SAFE = [
    argparse.Namespace,
    np._core.multiarray.scalar,  # type: ignore[attr-defined]  # private: named in pickles
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")),
]
_PICKLE = b"\x80"  # first byte of a bare pickle; torch.save writes a zip archive


def weights_folder() -> Path:
    """Returns the folder of checkpoints: $EVAR_WEIGHTS, else ./weights."""
    return Path(os.environ.get("EVAR_WEIGHTS", "weights"))


def load_checkpoint(path) -> dict:
    """Reads a checkpoint (safetensors, or PyTorch with weights_only=True) onto the CPU.

    Raises UserError if the file is missing or damaged, or holds objects that only unpickling could
    create, which would run code from the file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals(_SAFE):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # every reader has errors of its own; all mean the same to a user
        reason = f"{type(error).__name__}: {first_line(error)}"
        pickled = path.suffix != ".safetensors" and path.open("rb").read(1) == _PICKLE
        if "GLOBAL" in str(error) or pickled:
            raise UserError(
                f"{path}: refused: it holds objects that could run code when unpickled. If you "
                "trust its source, convert it once by hand and give the result: "
                "docs/models.md, 'Converting a checkpoint'."
            ) from error
        raise UserError(
            f"{path}: not a readable checkpoint ({reason}). Download it again, or convert it "
            "to safetensors."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not named tensors.")
    return content


def first_line(error: Exception) -> str:
    """Returns an error's first line, without PyTorch's advice to load the file unsafely."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.partition(" In PyTorch")[0].partition(" Re-running")[0]


def load_strict(
    module: nn.Module, state: Mapping[str, Tensor], path, *, ignore: Iterable[str] = ()
) -> None:
    """Loads `state` into `module`; every name and shape must match.

    `ignore`: prefixes of tensors in the checkpoint that the encoder does not need (classifier
    heads, tables it computes itself). Raises UserError, which names the differences.
    """
    ignore = tuple(ignore)
    state = {
        name: value if isinstance(value, Tensor) else torch.empty(0, 0, 0)  # fits nowhere
        for name, value in state.items()
        if not (ignore and name.startswith(ignore))
    }
    own = module.state_dict()
    missing = sorted(set(own) - set(state))
    unexpected = sorted(set(state) - set(own))
    differing = [
        f"{k} is {tuple(state[k].shape)}, expected {tuple(own[k].shape)}"
        for k in sorted(set(own) & set(state))
        if own[k].shape != state[k].shape
    ]
    problems = [
        f"{len(found)} {what} ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''})"
        for what, found in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", differing),
        )
        if found
    ]
    if problems:
        raise UserError(
            f"{path}: not a checkpoint of {type(module).__name__}: {'; '.join(problems)}. "
            "Give a file of this very model with --weights=PATH."
        )
    module.load_state_dict(state)


def state_hash(module: nn.Module) -> str:
    """Returns the SHA-256 of all parameters and buffers (names, shapes, dtypes, bytes), 16 digits.

    It identifies the weights themselves: the same tensors in another file format are the same
    model, and another random initialisation is another model.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
