"""Self-supervised speech models: wav2vec 2.0, HuBERT, WavLM, data2vec."""

from collections.abc import Mapping

from evar.adapter import Adapter
from evar.errors import UserError

from . import _transformers
from ._frontend import zero_pad

_TYPES = {
    "wav2vec2": "wav2vec2",
    "hubert": "hubert",
    "wavlm": "wavlm",
    "data2vec": "data2vec-audio",
}
_SHORTEST = 400  # samples: one step of the convolutions


class Speech(Adapter):
    """A speech model's last layer, or others, averaged over time: 768-d (data2vec large: 1024).

    Baevski et al., NeurIPS 2020; Hsu et al., TASLP 2021; Chen et al., JSTSP 2022; Baevski et al.,
    ICML 2022. `weights` is a transformers folder. Clips have any length and are brought to zero
    mean and unit variance. `layers` chooses one layer (0: before the first block), several, "all"
    or "mean"; several stand side by side, or are averaged with combine="mean". `config` changes
    the network that is built where there is no folder.
    """

    sample_rate = 16000
    frame_seconds = 0.02
    TINY = {
        "config": {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "conv_dim": [8] * 7,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
        }
    }

    def __init__(
        self,
        weights=None,
        *,
        architecture: str = "wav2vec2",
        layers: _transformers.Layers = None,
        combine: str = "stack",
        config: Mapping | None = None,
    ):
        super().__init__(weights)
        if architecture not in _TYPES:
            raise UserError(f"--architecture={architecture}: known are {', '.join(_TYPES)}")
        net = self._network(weights, _TYPES[architecture], config or {})
        self.net = _transformers.steady(net)
        count = self.net.config.num_hidden_layers
        self.layers = _transformers.check_layers(layers, combine, count)
        self.averages = layers == "mean" or combine == "mean"
        parts = len(self.layers) if self.layers and not self.averages else 1
        self.embed_dim = self.net.config.hidden_size * parts

    def _network(self, weights, model_type: str, config: Mapping):
        return _network(weights, model_type, config)

    def encoder_blocks(self):
        return self.net.encoder.layers

    def normalised(self, audio):
        """(B, S) -> (B, S) of zero mean and unit variance, each clip by itself."""
        mean = audio.mean(dim=1, keepdim=True)
        variance = audio.var(dim=1, keepdim=True, correction=0)
        return (audio - mean) / (variance + 1e-7).sqrt()

    def frames(self, audio):
        audio = self.normalised(zero_pad(audio, _SHORTEST))
        output = self.net(audio, output_hidden_states=self.layers is not None)
        return _transformers.choose(output, self.layers, self.averages)


def _network(weights, model_type: str, config: Mapping):
    from transformers import AutoConfig, AutoModel

    if weights is None:
        return AutoModel.from_config(AutoConfig.for_model(model_type, **config))
    net = _transformers.pretrained(AutoModel, weights)
    if net.config.model_type != model_type:
        raise UserError(f"{weights}: holds a {net.config.model_type} model, not {model_type}")
    return net
