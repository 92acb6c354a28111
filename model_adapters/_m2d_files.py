"""Checkpoints of the M2D family: sizes from the names of their folders, and their tensors."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from evar.errors import UserError
from evar.weights import load_checkpoint

from . import _m2d_clap, _published

_FINE_TUNED = "ar.runtime.backbone."
_ENCODERS = {  # text encoders, by their letter in folder names
    "A": "thenlper/gte-base",
    "B": "google-bert/bert-base-uncased",
    "N": "nvidia/NV-Embed-v2",
}


@dataclass(frozen=True)
class Published:
    """The parts of a published folder's name."""

    input_size: tuple[int, int]  # mel bands, frames
    patch_size: tuple[int, int]
    sample_rate: int
    text_encoder: str  # hub name of the sentence encoder used in training
    text_included: bool  # whether the file contains that encoder

    @classmethod
    def parse(cls, name: str) -> "Published":
        """Parses `m2d_clap_vit_base-80x608p16x16p32kpA-...`: 80 x 608, 16 x 16, 32 kHz, GTE-base.

        After the sizes: p16k (the default) or p32k; pA for GTE-base (the default), pB for BERT or
        pN for NV-Embed-v2; TI if the text encoder is included. Raises UserError for any other name.
        """
        found = re.fullmatch(r"(?:\w+-)?(\d+)x(\d+)p(\d+)x(\d+)([^-_]*)(?:[-_].*)?", name)
        if not found:
            raise UserError(
                f"--weights in a folder named {name!r}: the folder's name gives the input and "
                "patch size of an M2D checkpoint, as in m2d_vit_base-80x608p16x16-221006-mr7; keep "
                "its published name"
            )
        bands, frames, high, wide = (int(found[i]) for i in range(1, 5))
        rest = re.fullmatch(r"(?:p(16|32)k)?(?:p([ABN]))?(p?TI)?", found[5])
        if not rest:
            raise UserError(
                f"{name}: unknown part {found[5]} after the patch size; M2D folder names have "
                "p16k or p32k, pA, pB or pN, pTI"
            )
        if not (high and wide) or bands % high or frames < wide:
            raise UserError(
                f"{name}: patches of {high} x {wide} do not fill an input of {bands} x {frames}"
            )
        rate, letter, included = rest.groups()
        encoder = _ENCODERS[letter or "A"]
        return cls((bands, frames), (high, wide), int(rate or 16) * 1000, encoder, bool(included))


def newest(path: Path) -> Path:
    """Returns the checkpoint file: the path itself, or the latest epoch in a published folder."""
    path = path.absolute()  # the folder's name is parsed, also for "."
    if path.is_file():
        return path
    files = [*path.glob("*.pth"), *path.glob("*.safetensors")]
    if not files:
        raise UserError(f"{path}: no .pth or .safetensors in this folder (--weights)")
    return max(files, key=lambda f: (_epoch(f.stem), f.name))


def _epoch(stem: str) -> int:
    digits = re.search(r"(\d+)$", stem)
    return int(digits[1]) if digits else -1


def read(file: Path) -> tuple[dict[str, Tensor], dict]:
    """Returns the checkpoint's tensors and its configuration.

    The prefix that fine-tuning adds to names is removed. Checkpoints of this project's pre-training
    record sizes and text encoder under `config`; published ones have no configuration.
    """
    content = load_checkpoint(file)
    config = content.get("config")
    state = _published.tensors(content, "model")
    return _m2d_clap.below(state, _FINE_TUNED) or state, config if isinstance(config, dict) else {}


def steps_of(state: dict[str, Tensor], published: Published) -> int:
    """Returns the number of patches along time that the network has positions for.

    The folder's name determines it if the input is a whole number of patches; 1,001 frames may be
    62 or 63 patches of 16, and the checkpoint's positions decide.
    """
    frames, wide = published.input_size[1], published.patch_size[1]
    rows = published.input_size[0] // published.patch_size[0]
    up = -(-frames // wide)
    table = state.get("pos_embed", torch.empty(0))
    return up if table.shape[1:2] == (1 + rows * up,) else frames // wide


def joined(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Joins the separate query and value biases of the first MSM-MAE; its keys have none."""
    state = dict(state)
    for block in [n.removesuffix("q_bias") for n in state if n.endswith(".q_bias")]:
        if f"{block}v_bias" in state:  # else strict loading names the odd one
            q, v = state.pop(f"{block}q_bias"), state.pop(f"{block}v_bias")
            state[f"{block}qkv.bias"] = torch.cat([q, torch.zeros_like(q), v])
    return state
