"""What training wraps around a network's tensors, taken off; what a file holds, in words."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

# Where trainers keep the network, in the order preferred: Lightning, PyTorch's own examples,
# timm, fairseq, self-distillation. A moving average comes after the weights that it averages.
_CONTAINERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network"),
    *("encoder", "backbone", "weights", "params", "checkpoint"),
    *("model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "ema", "teacher", "student"),
)
# Parts of names that wrappers put first: DataParallel and DDP, torch.compile, Lightning, EMA.
_WRAPPERS = ("module", "_orig_mod", "model", "net", "network", "encoder", "backbone", "ema_model")
# Parts that follow an encoder, first in a name: they are ignored where a network lacks them.
_HEADS = (
    *("head", "heads", "head_dist", "mlp_head", "classifier", "classification_head", "cls_head"),
    *("linear_head", "predictor", "outputlayer", "output_layer"),
)
_LORA = re.compile(r"\.lora_(A|B|down|up|embedding_[AB])\b|\.lora_magnitude_vector\b")
_QUANTISED = re.compile(r"\.(qweight|qzeros|absmax|quant_map|weight_scale|weight_scale_inv|SCB)\b")
_POSITIONS = re.compile(r"pos(ition(al)?)?_?embed")
_BLOCK = re.compile(r"^(.*?\.)(\d+)\.")


def tensors(content: Mapping, container: str = "") -> dict[str, Tensor]:
    """Returns the named tensors of a checkpoint's content, without the wrappers around all of them.

    `container`: the key that a family of checkpoints keeps them under, before all others. Tensors
    of half precision become float32: so is computed with them.
    """
    state = _innermost(content, container)
    state = {
        name.replace("_orig_mod.", ""): _single(value)
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    while state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def _innermost(content: Mapping, container: str) -> Mapping:
    """Returns the dictionary of tensors in dictionaries; of several, the preferred one."""
    inner = {k: v for k, v in content.items() if isinstance(v, Mapping) and _holds_tensors(v)}
    if container in inner:
        return _innermost(inner[container], container)
    if any(isinstance(value, Tensor) for value in content.values()):
        return content  # what lies in dictionaries beside tensors is an optimizer's, or the like
    known = [key for key in _CONTAINERS if key in inner] or list(inner)
    if len(known) == 1 or (known and known[0] in _CONTAINERS):
        return _innermost(inner[known[0]], container)
    return content


def _holds_tensors(content: Mapping, depth: int = 3) -> bool:
    if any(isinstance(v, Tensor) and isinstance(k, str) for k, v in content.items()):
        return True
    inner = (v for v in content.values() if isinstance(v, Mapping))
    return depth > 0 and any(_holds_tensors(v, depth - 1) for v in inner)


def _single(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def fitted(state: Mapping[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """Returns the tensors under a network's names, where wrappers and heads alone differ.

    A prefix made of wrappers' names is taken off where more names agree without it. Classifier
    heads, which an encoder lacks, are left out where everything else is there.
    """
    own, state = set(own), dict(state)
    prefix = max(_prefixes(state), key=lambda p: sum(p + name in state for name in own))
    if prefix and sum(prefix + name in state for name in own) > len(own & set(state)):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    if own <= set(state):
        heads = [n for n in state if n not in own and _first(n) in _HEADS]
        state = {name: value for name, value in state.items() if name not in heads}
    return state


def _prefixes(state: Iterable[str]) -> list[str]:
    """ "", and what wrappers put before names."""
    found = {""}
    for name in state:
        parts = name.split(".")
        for count in range(1, len(parts)):
            if parts[count - 1] not in _WRAPPERS:
                break
            found.add(".".join(parts[:count]) + ".")
    return sorted(found, key=len)


def _first(name: str) -> str:
    return name.partition(".")[0]


def described(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Says what a file holds that does not fit a network, in a sentence or two."""
    return " ".join([*_kinds(state), *_sizes(state, own), _parts(state)])


def _kinds(state: Mapping[str, Tensor]) -> Iterator[str]:
    if any(_LORA.search(name) for name in state):
        yield "These are LoRA adapters without their base: merge them into it and save the whole."
    low = {"int8", "uint8", "float8_e4m3fn", "float8_e5m2"}
    stored = {str(v.dtype).removeprefix("torch.") for n, v in state.items() if "weight" in n}
    if any(_QUANTISED.search(name) for name in state) or stored & low:
        yield "Its weights are quantised: take the file in float32, float16 or bfloat16."
    if any(name.startswith(("exp_avg", "optimizer.")) for name in state):
        yield "It holds an optimizer's state."


def _sizes(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Iterator[str]:
    """Yields other numbers of blocks, positions or channels: a variant of the same network."""
    differing = [n for n in own if n in state and own[n].shape != state[n].shape]
    for name in differing:
        ours, theirs = own[name].shape, state[name].shape
        if _POSITIONS.search(name) and ours[:1] + ours[2:] == theirs[:1] + theirs[2:]:
            yield (
                f"Its positions are {theirs[1]} where this network has {ours[1]}: it was trained "
                "on clips of another length."
            )
    widths = Counter(
        (len(state[name]), len(own[name]))
        for name in differing
        if state[name].ndim == own[name].ndim == 1
    )
    if widths and len(differing) > len(own) // 2:
        width, expected = widths.most_common(1)[0][0]
        yield f"It is of another size: {width} channels where this network has {expected}."
    found, needed = _blocks(state), _blocks(own)
    for prefix in sorted(found.keys() & needed.keys()):
        if found[prefix] != needed[prefix]:
            yield f"It has {found[prefix]} of {prefix}N where this network has {needed[prefix]}."


def _blocks(state: Iterable[str]) -> dict[str, int]:
    found = (match for match in map(_BLOCK.match, state) if match)
    numbers: dict[str, int] = {}
    for match in found:
        numbers[match[1]] = max(numbers.get(match[1], 0), int(match[2]) + 1)
    return numbers


def _parts(state: Mapping[str, Tensor]) -> str:
    if not state:
        return "It holds no tensors with names."
    parts = Counter(_first(name) for name in state).most_common()
    named = ", ".join(f"{part} ({count})" for part, count in parts[:5])
    return f"The file holds {len(state)} tensors: {named}{', ...' if len(parts) > 5 else ''}."
