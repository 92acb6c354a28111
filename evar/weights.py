"""Finds and reads checkpoints without running code from them."""

import argparse
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from evar import options, unwrap
from evar.errors import UserError

if TYPE_CHECKING:
    from evar.models import Weights

# Classes of what published checkpoints hold besides tensors: arguments and NumPy numbers. Reading
# them runs no code.
_SAFE = [
    argparse.Namespace,
    np._core.multiarray.scalar,  # type: ignore[attr-defined]  # private: named in pickles
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")),
]
_IN_FOLDER = (  # where a folder keeps its weights, in the order of transformers
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_PART = re.compile(r"-\d{5}-of-(\d{5})(?=\.)")
_PICKLE = b"\x80"  # first byte of a bare pickle; torch.save writes a zip archive


def weights_folder() -> Path:
    """Returns the folder of checkpoints: $EVAR_WEIGHTS, else ./weights."""
    return Path(os.environ.get("EVAR_WEIGHTS", "weights"))


def find(model: str, published: "Weights | None", given) -> Path | None:
    """Returns the path of the weights that a model is built with; None: untrained, or it has none.

    given: a path, "random", or None for the published file, which is downloaded where it has an
    address. Raises UserError for weights that are missing or damaged.
    """
    if given == "random":
        return None
    if given is not None:
        found = options.path("weights", given)
        if not found.exists():
            raise UserError(f"{given}: no such weights file or folder (--weights)")
        return found
    if published is None:
        return None
    from evar.data import download

    path = weights_folder() / published.file
    if path.exists():
        if path.is_file():
            download.verify(path, published)
        return path
    if published.url:
        from tqdm import tqdm

        def bar(total=None, initial=0):
            return tqdm(
                desc=f"download {path.name}",
                total=total,
                initial=initial,
                unit="B",
                unit_scale=True,
                leave=False,
            )

        return download.fetch(published, weights_folder(), progress=bar)
    raise UserError(
        f"{model}: weights not found at {path}. {published.how}, put it there, or give its "
        "path with --weights=PATH (--weights=random evaluates the untrained model)."
    )


def load_checkpoint(path, *, part: str = "") -> dict:
    """Reads a checkpoint (safetensors, or PyTorch with weights_only=True) onto the CPU.

    `path`: a file; or, of a model in parts, its folder or its `*.index.json`. What the file holds
    is returned as it is: `load_strict` takes off what training wrapped around the tensors, and
    `evar.unwrap.tensors` gives them alone. `part`: only tensors with this in their names
    (`audio_tower.`); of a large model in safetensors, nothing else is read. Raises UserError where
    the file is missing, damaged, or holds objects that only unpickling (that is: running code from
    the file) could make.
    """
    path = _weights_file(Path(path))
    if path.name.endswith(".index.json"):
        return _joined(path, part)
    content = _read(path, part)
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not named tensors.")
    return content


def _weights_file(path: Path) -> Path:
    """The file to read: of a folder as transformers saves it, and of one part of several."""
    if path.is_dir():
        found = (path / name for name in _IN_FOLDER)
        file = next((file for file in found if file.is_file()), None)
        if file is None:
            raise UserError(f"{path}: holds none of {', '.join(_IN_FOLDER)}")
        return file
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file")
    if part := _PART.search(path.name):
        index = path.with_name(f"{path.name[: part.start()]}{path.suffix}.index.json")
        if not index.is_file():
            raise UserError(
                f"{path}: one part of {int(part[1])}, without {index.name}, which names the "
                "others: download the whole folder."
            )
        return index
    return path


def _joined(index: Path, part: str) -> dict[str, Tensor]:
    """The tensors of all parts that an index names; each tensor from the part that it names."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        places = {key: place for key, place in places.items() if part in key}
        names = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: not an index of weights ({first_line(error)})") from error
    if any(not isinstance(n, str) or Path(n).name != n for n in names):
        raise UserError(f"{index}: names a part outside of its folder")
    state: dict[str, Tensor] = {}
    for name in names:
        file = index.with_name(name)
        if not file.is_file():
            raise UserError(f"{file}: no such file, but {index.name} names it: download it too.")
        content = _read(file, part)
        wanted = [key for key, place in places.items() if place == name]
        if absent := [key for key in wanted if key not in content]:
            raise UserError(f"{file}: lacks {absent[0]}, which {index.name} says is in it.")
        state |= {key: content[key] for key in wanted}
    return state


def _read(path: Path, part: str):
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys() if part in name}  # noqa: SIM118
        with torch.serialization.safe_globals(_SAFE):
            content = torch.load(path, map_location="cpu", weights_only=True)
        if part and isinstance(content, dict):
            return {n: v for n, v in unwrap.tensors(content).items() if part in n}
        return content
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


def first_line(error: Exception) -> str:
    """Returns an error's first line, without PyTorch's advice to load the file unsafely."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.partition(" In PyTorch")[0].partition(" Re-running")[0]


def load_strict(
    module: nn.Module, state: Mapping[str, Tensor], path, *, ignore: Iterable[str] = ()
) -> None:
    """Loads `state` into `module`; every name and shape must match.

    `state`: named tensors, or what `load_checkpoint` read: dictionaries of trainers, prefixes of
    wrappers (`module.`, `model.`, `_orig_mod.`) and classifier heads are taken off. Half precision
    becomes that of the module. `ignore`: prefixes of other names in the checkpoint that the encoder
    has no use for (tables it computes itself). Raises UserError that names what differs.
    """
    ignore = tuple(ignore)
    state = unwrap.fitted(_named(state), module.state_dict())
    state = {n: value for n, value in state.items() if not (ignore and n.startswith(ignore))}
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
            f"{unwrap.described(state, own)} Give a file of this very model with --weights=PATH."
        )
    module.load_state_dict(state)


def _named(content: Mapping) -> dict[str, Tensor]:
    """The tensors of a checkpoint; beside tensors, what is none keeps its name and fits nowhere."""
    if not any(isinstance(value, Tensor) for value in content.values()):
        return unwrap.tensors(content)
    others = {n: torch.empty(0, 0, 0) for n, v in content.items() if isinstance(v, Mapping)}
    return unwrap.tensors(content) | others


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
