"""Files of a pre-training run: checkpoints for evaluation, and one state to resume from.

OUT/<objective>_vit-80x608p16x16/checkpoint-<epoch>.pth is laid out like published checkpoints:
the folder's name gives input and patch size. OUT/last.pt is the state.
"""

import io
from dataclasses import asdict
from pathlib import Path

import torch

from evar import files
from evar.errors import UserError
from evar.model_adapters._m2d_files import newest
from evar.weights import load_checkpoint

from .config import Config

# Settings that change results only by the order of summation.
MACHINE = ("micro_batch", "compile", "workers", "save_steps", "save_epochs")
_NOT_ENCODER = ("decoder_", "target_", "mask_token", "logit_scale", "audio_proj.", "text_proj.")


def folder(out, config: Config) -> Path:
    """Returns the folder of a run's checkpoints, with the name that the m2d adapters parse."""
    (bands, frames), (high, wide) = config.input_size, config.patch_size
    return Path(out) / f"{config.objective}_vit-{bands}x{frames}p{high}x{wide}"


def save(out, config: Config, model: torch.nn.Module, epoch: int, text_encoder: str) -> Path:
    """Writes a checkpoint for evaluation; returns its path."""
    path = folder(out, config) / f"checkpoint-{epoch}.pth"
    content = {
        "model": {name: t.detach().cpu() for name, t in model.state_dict().items()},
        "config": asdict(config) | {"text_encoder": text_encoder},
        "epoch": epoch,
    }
    _write(path, content)
    return path


def save_state(out, state: dict) -> None:
    """Writes the state to resume from: plain values and tensors."""
    _write(Path(out) / "last.pt", state)


def load_state(out, config: Config, about: dict) -> dict | None:
    """Returns the state of an interrupted run; None where there is none.

    about: further conditions of the run, by the words that name a difference in the error. Raises
    UserError where one of them, or the configuration, has changed.
    """
    path = Path(out) / "last.pt"
    if not path.exists():
        return None
    state = load_checkpoint(path)
    remedy = "Give another --out, or remove this file to start over."
    if not isinstance(state.get("config"), dict) or not isinstance(state.get("about"), dict):
        raise UserError(f"{path}: not a state of pre-training. {remedy}")
    now = asdict(config)
    other = [
        f"{name} was {state['config'].get(name)}, is {value}"
        for name, value in now.items()
        if name not in MACHINE and _plain(state["config"].get(name)) != _plain(value)
    ]
    if other:
        raise UserError(f"{path}: a run of another configuration ({'; '.join(other)}). {remedy}")
    other = [words for words, value in about.items() if state["about"].get(words) != value]
    if other:
        raise UserError(f"{path}: a run {other[0]}. {remedy}")
    return state


def tidy(out) -> None:
    """Removes temporary files of a run that was killed while it wrote."""
    for path in [*Path(out).glob(".last.pt.*"), *Path(out).glob("*/.checkpoint-*.pth.*")]:
        path.unlink(missing_ok=True)


def _plain(value):
    return list(value) if isinstance(value, tuple) else value


def initialise(model: torch.nn.Module, path, *, partial: bool) -> bool:
    """Loads the weights of a checkpoint, published or of this program (of a folder, the last).

    Returns whether it holds statistics of the log-mel, which are loaded too. Raises UserError where
    tensors are missing. With `partial`, predictor, target network and projectors may be missing and
    keep their initial values (the target network is a copy of the encoder).
    """
    path = newest(Path(path)) if Path(path).is_dir() else Path(path)
    content = load_checkpoint(path)
    state = content.get("model", content)
    if not isinstance(state, dict) or not all(torch.is_tensor(t) for t in state.values()):
        raise UserError(f"{path}: not a checkpoint: its `model` is not tensors by name")
    own = model.state_dict()
    fixed = ("pos_embed", "decoder_pos_embed", "norm_stats")
    missing = [name for name in own if name not in state and name not in fixed]
    wrong = [n for n, t in state.items() if n in own and t.shape != own[n].shape]
    encoder = [name for name in missing if not name.startswith(_NOT_ENCODER)]
    if wrong or encoder:
        what = [f"{n} has another shape" for n in wrong] + [f"{n} is missing" for n in encoder]
        raise UserError(f"{path}: not a checkpoint of this network: {'; '.join(what[:3])}")
    if missing and not partial:
        raise UserError(
            f"{path}: an encoder alone; {missing[0]} and {len(missing) - 1} more tensors are "
            "missing. "
            "--init_partial initialises them at random."
        )
    model.load_state_dict({n: t for n, t in state.items() if n in own}, strict=False)
    if any(name.startswith("target_") for name in missing):
        _copy_target(model)
    return "norm_stats" in state


def _copy_target(model) -> None:
    with torch.no_grad():
        for target, online in model.target_pairs():
            target.copy_(online)


def _write(path: Path, content: dict[str, object]) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    files.write_atomic(path, buffer.getbuffer())
