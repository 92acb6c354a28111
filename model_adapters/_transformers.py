"""transformers' models, loaded without running what a folder holds, and their layers chosen."""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from evar.errors import UserError
from evar.weights import first_line

from . import _hub

Layers = int | str | Sequence[int] | None


def pretrained(cls, source: str | Path, *, unused: str = "masked_spec_embed", **options):
    """`cls.from_pretrained` in float32: every parameter of the encoder must be in the folder.

    `source` is a local folder or a name on the Hugging Face hub (`_hub.pinned`). Code that lies
    beside the weights is never run. `unused`: a part of the names of parameters that may be
    missing; some published files lack the mask of SpecAugment.
    """
    options |= {"dtype": torch.float32, "weights_only": True, "output_loading_info": True}
    options |= {"ignore_mismatched_sizes": True}  # they are refused below, by their names
    model, found = _from_pretrained(cls, source, options)
    differing = {
        "missing": sorted(k for k in found["missing_keys"] if unused not in k),
        "of layers too many": _surplus(model, found["unexpected_keys"]),
        "of another shape": sorted(str(k[0]) for k in found["mismatched_keys"]),
    }
    if any(differing.values()):
        problems = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in differing.items()
            if names
        ]
        raise UserError(
            f"{source}: not a whole {type(model).__name__}: {'; '.join(problems)}. Its weights "
            "and its config.json do not fit together: download the folder again."
        )
    return model


def _surplus(model, unexpected) -> list[str]:
    """Parameters of blocks that the model does not count; heads may be absent from it."""
    rows = [name for name, part in model.named_modules() if isinstance(part, torch.nn.ModuleList)]
    blocks = re.compile(rf"(?:^|\.)(?:{'|'.join(map(re.escape, rows))})\.\d+\.")
    return sorted(name for name in unexpected if rows and blocks.search(name))


def feature_extractor(source: str | Path):
    """The folder's own front end (preprocessor_config.json)."""
    from transformers import AutoFeatureExtractor

    extractor = _from_pretrained(AutoFeatureExtractor, source, {})
    if not isinstance(getattr(extractor, "sampling_rate", None), int):
        raise UserError(f"{source}: its {type(extractor).__name__} does not read audio")
    return extractor


def _from_pretrained(cls, source, options: dict):
    name, revision = _hub.split(_hub.pinned(source))
    options = options | ({"revision": revision} if revision else {})
    try:
        with _quietly():
            return cls.from_pretrained(name, trust_remote_code=False, **options)
    except Exception as error:  # damaged files raise errors of many kinds
        if "trust_remote_code" in str(error):
            remedy = "It holds code of its own, which evar does not run: write an adapter for it."
        elif "Unrecognized configuration class" in str(error):
            remedy = (
                "transformers builds no general model of its kind: give the folder of its audio "
                "encoder, or write an adapter for it."
            )
        elif Path(source).is_dir():
            remedy = "It must hold config.json, preprocessor_config.json and model.safetensors."
        elif Path(source).is_file():
            remedy = "Give the folder that it lies in, with its config.json."
        else:
            remedy = (
                "Without network access, give a local folder: download it where there is one "
                f"(`hf download {name} --local-dir FOLDER`)."
            )
        raise UserError(f"{source}: cannot be loaded ({first_line(error)}). {remedy}") from error


def tokenizer(source: str | Path):
    """The tokenizer of a local folder or of a name on the hub; no code beside it is run."""
    from transformers import AutoTokenizer

    name, revision = _hub.split(_hub.pinned(source))
    options = {"revision": revision} if revision else {}
    return AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)


@contextlib.contextmanager
def _quietly():
    """No progress bar of a second's work, no table of the heads that an encoder does not need."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def steady(model):
    """The model, without layers left out at random and without masks of its own in training.

    Some draw from NumPy's global generator; fine-tuning has its own masks, by its seed, and
    several processes need every layer in every step.
    """
    config = getattr(model, "config", None)
    if config is not None:  # where it lacks the names, models take masking for granted
        config.apply_spec_augment, config.layerdrop = False, 0.0
    for name, value in (("layerdrop", 0.0), ("apply_spec_augment", False)):
        if hasattr(model, name):
            setattr(model, name, value)
    return model


def check_layers(layers: Layers, combine: str, count: int) -> list[int] | None:
    """The chosen layers as numbers from 0 (before the first block) to `count`, or None.

    None means the model's output. "all" and "mean" mean every layer; negative numbers count from
    the last.
    """
    if combine not in ("stack", "mean"):
        raise UserError(f"--combine={combine}: it is stack or mean")
    if layers is None:
        return None
    if layers in ("all", "mean"):
        return list(range(count + 1))
    numbers = list(layers) if isinstance(layers, (list, tuple)) else [layers]
    if not numbers or not all(isinstance(n, int) and -count - 1 <= n <= count for n in numbers):
        raise UserError(
            f"--layers={layers}: the model has layers 0 (before the first block) to {count}; give "
            "one, several (--layers=3,6,9), all or mean"
        )
    return [n % (count + 1) for n in numbers]


def choose(output, numbers: list[int] | None, mean: bool) -> Tensor:
    """A model's output -> (B, T, D) of the chosen layers, side by side or averaged.

    The last layer is `last_hidden_state`: `hidden_states[-1]` may lack the final norm.
    """
    if numbers is None:
        return output.last_hidden_state
    states = [*output.hidden_states[:-1], output.last_hidden_state]
    chosen = [states[n] for n in numbers]
    shapes = {tuple(state.shape) for state in chosen}
    if len(shapes) > 1:
        raise UserError(
            "--layers: layers of this model differ in shape and cannot be combined "
            f"({', '.join(map(str, sorted(shapes)))}); choose one"
        )
    return torch.stack(chosen).mean(dim=0) if mean else torch.cat(chosen, dim=-1)
