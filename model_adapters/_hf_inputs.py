"""What goes from a transformers feature extractor into an encoder: inputs, masks, frames."""

import inspect
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from evar.errors import UserError

# Where a model that reads text, or has a decoder, keeps the part that hears.
_TOWERS = ("audio_model", "audio_encoder", "audio_tower", "speech_encoder", "encoder")
# Masks that are 1 where others are 0: on padding.
_INVERTED = ("audio_mel_mask",)
# Encoders that hand their mask to attention as it is: what is added to the scores, made by the
# language model around them.
_ADDITIVE = ("qwen2_audio_encoder",)
MASKS = ("given", "bool", "none")  # in which form an encoder may take one, in the order tried


def extract(extractor, clips: Sequence) -> dict[str, Tensor]:
    """The extractor's tensors for clips of one length; it gets the arguments that it names."""
    offered = {
        "sampling_rate": extractor.sampling_rate,
        "return_tensors": "pt",
        "return_attention_mask": True,
    }
    named = inspect.signature(type(extractor).__call__).parameters
    with np.errstate(divide="ignore", invalid="ignore"):  # silence divided by its deviation, below
        inputs = extractor(clips, **{k: v for k, v in offered.items() if k in named})
    # Beside arrays there may be numbers of chunks, or None for each clip.
    inputs = {k: torch.as_tensor(v) for k, v in inputs.items() if _is_numeric(v)}
    main = main_input(inputs)
    if len(main) != len(clips):
        raise ValueError(f"{len(clips)} clips became {len(main)} pieces")
    # In silence, features brought to unit variance are 0/0, or a rounding error divided by zero.
    heard = main.nan_to_num(0.0, 0.0, 0.0)
    inputs = {k: heard if v is main else v for k, v in inputs.items()}
    if "is_longer" in inputs:
        # CLAP's extractor marks one clip of a batch at random where none is long.
        inputs["is_longer"] = torch.zeros_like(inputs["is_longer"])
    return inputs


def _is_numeric(value) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_is_numeric, value))
    return isinstance(value, (Tensor, np.ndarray, int, float))


def mask_of(inputs: Mapping[str, Tensor]) -> Tensor | None:
    """(B, T) of the main input's steps: 1 for the clip, 0 for what the extractor filled up."""
    steps = main_input(inputs).shape[1:]
    masks = (value for name, value in inputs.items() if name.endswith("mask"))
    return next((m for m in masks if m.ndim == 2 and m.shape[1] in steps), None)


def main_input(inputs: Mapping[str, Tensor]) -> Tensor:
    """The waveforms or the spectrograms among the extractor's tensors."""
    for name, value in inputs.items():
        if not name.endswith("mask") and value.is_floating_point() and value.ndim > 1:
            return value
    raise ValueError(f"no waveform and no spectrogram among {', '.join(inputs)}")


def arguments(net: nn.Module, inputs: Mapping[str, Tensor], mask_form: str) -> dict[str, Tensor]:
    """The encoder's keyword arguments: names it shares with the extractor, main input and mask."""
    parameters = named_parameters(net)
    chosen = {k: v for k, v in inputs.items() if k in parameters and not k.endswith("mask")}
    main = main_input(inputs)
    if not any(value is main for value in chosen.values()):
        chosen[parameters[0]] = main
    mask = mask_of(inputs)
    names = [
        p for p in parameters if p.endswith("mask") and not p.startswith(("output", "decoder"))
    ]
    if mask is None or not names or mask_form == "none":
        return chosen
    name = next((n for n in names if n in inputs), names[0])
    if name in _INVERTED:
        mask = ~mask.bool()
    elif model_type(net) in _ADDITIVE:
        mask = _additive(mask, net.config.max_source_positions)
    elif mask_form == "bool":
        mask = mask.bool()
    return chosen | {name: mask}


def with_states(output, rows: int, time_last: bool):
    """The output with `last_hidden_state` (B, T, D), and whether padding is cut off already.

    Codecs give latents, some as (B, D, T) (`time_last`); packed encoders the frames of all clips
    in one row.
    """
    latents = output if isinstance(output, Tensor) else getattr(output, "latents", None)
    if latents is not None:
        states = latents.transpose(1, 2) if time_last else latents
        return SimpleNamespace(last_hidden_state=states), False
    states = getattr(output, "last_hidden_state", None)
    if not isinstance(states, Tensor) or states.ndim != 2:
        return output, False
    if len(states) % rows:
        raise ValueError(f"{len(states)} frames in one row for {rows} clips of one length")
    output.last_hidden_state = states.unflatten(0, (rows, -1))
    return output, True


def _additive(mask: Tensor, steps: int) -> Tensor:
    """(B, T) mask -> (B, 1, steps, steps): what is added to attention scores."""
    own = -(-mask.sum(dim=1) * steps // mask.shape[1])
    padding = torch.arange(steps, device=mask.device) >= own[:, None]
    added = torch.zeros(len(mask), 1, steps, steps, device=mask.device)
    return added.masked_fill(padding[:, None, None], -torch.inf)


def named_parameters(net: nn.Module) -> list[str]:
    """The arguments that an encoder's forward names, in their order."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in inspect.signature(net.forward).parameters.values() if p.kind in kinds]


def takes_any(net: nn.Module) -> bool:
    """Whether forward has **kwargs, among which transformers' models take output_hidden_states."""
    kinds = (p.kind for p in inspect.signature(net.forward).parameters.values())
    return inspect.Parameter.VAR_KEYWORD in kinds


def model_type(net: nn.Module) -> str:
    return getattr(getattr(net, "config", None), "model_type", "")


def tower(model: nn.Module, source: str) -> nn.Module:
    """The part of a model that hears: the model itself, or the audio tower or encoder in it."""
    part = model
    while named_parameters(part)[0] == "input_ids":
        name = next((n for n in _TOWERS if isinstance(getattr(part, n, None), nn.Module)), None)
        if name is None:
            raise UserError(
                f"{source}: {type(part).__name__} reads text, and no part that hears was found in "
                f"it ({', '.join(_TOWERS)}). Give the folder of its audio encoder, or write an "
                "adapter for it."
            )
        part = getattr(part, name)
    if part is not model:
        return part
    heard = next((getattr(model, n) for n in _TOWERS[:3] if hasattr(model, n)), None)
    if heard is not None:
        return heard
    if model.config.is_encoder_decoder:
        return model.get_encoder()
    if hasattr(model, "acoustic_encoder"):
        raise UserError(
            f"{source}: {type(model).__name__} hears with two encoders and joins them in its codes "
            "only: there are no frames to take. Write an adapter for it."
        )
    # Codecs and recognisers: what comes before the codes or the letters.
    codec = hasattr(model, "quantizer") or hasattr(model, "decoder")
    headed = codec or "For" in type(model).__name__
    inner = getattr(model, "encoder", None)
    return inner if headed and isinstance(inner, nn.Module) else model
