"""MERT: HuBERT's network trained on music (Li et al., ICLR 2024)."""

import json
from collections.abc import Mapping
from pathlib import Path

from evar.errors import UserError
from evar.weights import first_line, load_checkpoint

from . import _published, _transformers
from .speech import Speech

# torch's weight normalisation, as the published files and as this version of it call its parts.
_RENAMED = (
    ("conv.weight_g", "conv.parametrizations.weight.original0"),
    ("conv.weight_v", "conv.parametrizations.weight.original1"),
)
# What MERT's own code can do and HuBERT's cannot.
_FOREIGN = ("feature_extractor_cqt", "deepnorm")


class Mert(Speech):
    """MERT's last layer, or others, averaged over time: 768-d (330M: 1024).

    Li et al., "MERT: Acoustic music understanding model with large-scale self-supervised training",
    ICLR 2024. `weights` is the published folder. Its network is HuBERT's, so that transformers'
    own class computes it; the code in the folder is never run. Whether clips are brought to zero
    mean and unit variance is what the folder's preprocessor_config.json says. `layers`, `combine`
    and `config` are as in `speech`.
    """

    sample_rate = 24000
    frame_seconds = 320 / 24000

    def __init__(
        self,
        weights=None,
        *,
        layers: _transformers.Layers = None,
        combine: str = "stack",
        config: Mapping | None = None,
    ):
        super().__init__(
            weights, architecture="hubert", layers=layers, combine=combine, config=config
        )
        self.normalises = True
        if weights is not None and (Path(weights) / "preprocessor_config.json").is_file():
            front = _json(Path(weights) / "preprocessor_config.json")
            self.normalises = bool(front.get("do_normalize", True))

    def normalised(self, audio):
        return super().normalised(audio) if self.normalises else audio

    def _network(self, weights, model_type: str, config: Mapping):
        from transformers import HubertConfig, HubertModel

        if weights is not None:
            config = _json(Path(weights) / "config.json")
            if config.get("model_type") not in ("mert_model", "hubert"):
                raise UserError(f"{weights}: holds a {config.get('model_type')} model, not MERT")
            if foreign := [name for name in _FOREIGN if config.get(name)]:
                raise UserError(
                    f"{weights}: a MERT with {' and '.join(foreign)}, which HuBERT's network does "
                    "not have"
                )
            known = set(HubertConfig().to_dict()) - {"model_type", "dtype", "architectures"}
            config = {k: v for k, v in config.items() if k in known}
        net = HubertModel(HubertConfig(**config))
        if weights is not None:
            state = _published.tensors(load_checkpoint(weights))
            for old, new in _RENAMED:
                state = {name.replace(old, new): value for name, value in state.items()}
            ignore = ["final_proj.", "label_embs_concat"]  # of pre-training
            if hasattr(net, "masked_spec_embed"):  # of training alone: it may be absent
                state.setdefault("masked_spec_embed", net.masked_spec_embed.detach())
            else:
                ignore.append("masked_spec_embed")
            _published.load(net, state, weights, ignore=ignore)
        return net


def _json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({first_line(error)}). Give the published folder, with its "
            "config.json and its weights."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a configuration")
    return content
