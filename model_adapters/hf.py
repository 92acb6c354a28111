"""Any audio model of transformers, from a folder or the hub: the model name `hf:ORG/NAME`."""

import hashlib
import inspect
import json

import torch

from evar.adapter import Adapter
from evar.errors import UserError

from . import _transformers
from ._frontend import zero_pad

# Where a model with several towers, or with a decoder, keeps the one that hears.
_TOWERS = ("audio_model", "audio_encoder", "audio_tower")
_SHORTEST = 0.1  # seconds: enough for the first convolutions and filter banks of all families
_SAYS_NOTHING = ("_name_or_path", "transformers_version", "dtype")  # of what is computed
_FILLS = ("n_samples", "nb_max_samples")  # samples that Whisper's and CLAP's extractors fill up to


class HfModel(Adapter):
    """A transformers model's last hidden state, or other layers, averaged over time.

    The folder's own feature extractor is the front end. Where that takes clips of a limited
    length (Whisper, CLAP, AST), longer ones are taken in windows of it, or of `seconds`; frames
    that answer to padding are cut off as far as the extractor marks it. Silence follows clips
    below 0.1 s where the extractor does not fill them up itself. `layers` chooses one
    layer (0: before the first block), several, "all" or "mean"; several stand side by side, or
    are averaged with combine="mean". pooling="pooler" takes the model's own pooled output.
    """

    TINY = None  # there is no model without a folder

    def __init__(
        self,
        source: str,
        *,
        layers: _transformers.Layers = None,
        combine: str = "stack",
        pooling: str = "mean",
        seconds: float | None = None,
    ):
        super().__init__()
        if pooling not in ("mean", "pooler"):
            raise UserError(f"--pooling={pooling}: it is mean or pooler")
        if seconds is not None and not (isinstance(seconds, (int, float)) and seconds >= _SHORTEST):
            raise UserError(f"--seconds={seconds}: it is a number of {_SHORTEST} or more")
        from transformers import AutoModel

        self.extractor = _transformers.feature_extractor(source)
        self.sample_rate = self.extractor.sampling_rate
        self.window = round(seconds * self.sample_rate) if seconds else _window(self.extractor)
        self.net = _transformers.steady(_tower(_transformers.pretrained(AutoModel, source))).eval()
        # Part of what identifies the model: files of the folder that are no weights.
        self.register_buffer("settings", _digest(self.extractor, self.net.config))
        self.reads = set(inspect.signature(self.net.forward).parameters)
        self.pools, self.averages = pooling == "pooler", layers == "mean" or combine == "mean"
        self.layers = None
        count = self._probe(source, layers is not None)
        self.layers = _transformers.check_layers(layers, combine, count)
        with torch.no_grad():
            self.embed_dim = self.embed(self._second()).shape[1]

    def _second(self):
        generator = torch.Generator().manual_seed(0)
        return 0.1 * torch.randn(1, self.sample_rate, generator=generator)

    @torch.no_grad()  # not inference_mode: what a model keeps of it must do for training
    def _probe(self, source: str, hidden: bool) -> int:
        """How many blocks the model has; UserError where it does not work as others do."""
        try:
            output, _ = self._output(self._second(), hidden)
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise UserError(
                f"{source}: {type(self.net).__name__} does not take what "
                f"{type(self.extractor).__name__} gives ({error}). Write an adapter for it."
            ) from error
        if not isinstance(getattr(output, "last_hidden_state", None), torch.Tensor):
            raise UserError(f"{source}: {type(self.net).__name__} returns no hidden states")
        if self.pools and getattr(output, "pooler_output", None) is None:
            raise UserError(
                f"{source}: {type(self.net).__name__} has no pooler: leave --pooling out"
            )
        return len(getattr(output, "hidden_states", None) or [0]) - 1

    def _output(self, audio, hidden: bool):
        """(B, S) -> the model's output, and which share of its frames is the clip's: (n, of)."""
        clips = [clip.numpy() for clip in audio.float().cpu()]
        inputs = self.extractor(
            clips, sampling_rate=self.sample_rate, return_tensors="pt", return_attention_mask=True
        )
        if "is_longer" in inputs:
            # CLAP's extractor marks one clip of a batch at random where none is long.
            inputs["is_longer"] = torch.zeros_like(torch.as_tensor(inputs["is_longer"]))
        mask = inputs.get("attention_mask")
        share = (1, 1) if mask is None else (int(mask[0].sum()), mask.shape[1])
        inputs = {k: v.to(audio.device) for k, v in inputs.items() if k in self.reads}
        return self.net(**inputs, output_hidden_states=hidden), share

    def _windows(self, audio):
        size = self.window or audio.shape[1]
        for window in audio.split(size, dim=1):
            if not any(hasattr(self.extractor, name) for name in _FILLS):
                window = zero_pad(window, round(_SHORTEST * self.sample_rate))
            yield self._output(window, self.layers is not None)

    def frames(self, audio):
        windows = []
        for output, (own, of) in self._windows(audio):
            states = _transformers.choose(output, self.layers, self.averages)
            if states.ndim == 4:  # (B, D, F, T), of CLAP
                states = states.mean(dim=2).transpose(1, 2)
            windows.append(states[:, : -(-own * states.shape[1] // of)])
        return torch.cat(windows, dim=1)

    def embed(self, audio):
        if not self.pools:
            return self.frames(audio).mean(dim=1)
        return torch.stack([output.pooler_output for output, _ in self._windows(audio)]).mean(dim=0)


def _tower(model):
    for name in _TOWERS:
        if hasattr(model, name):
            return getattr(model, name)
    return model.get_encoder() if model.config.is_encoder_decoder else model


def _window(extractor) -> int | None:
    """How many samples the extractor takes before it cuts a clip; None: any number."""
    if type(extractor).__name__ == "ASTFeatureExtractor":
        return 400 + (extractor.max_length - 1) * 160  # Kaldi's frames: 25 and 10 ms at 16 kHz
    for name in _FILLS:
        if isinstance(getattr(extractor, name, None), int):
            return getattr(extractor, name)
    return None


def _digest(extractor, config) -> torch.Tensor:
    """(32,) bytes: SHA-256 of what the front end and the network are told to do."""
    told = [
        {k: v for k, v in part.to_dict().items() if k not in _SAYS_NOTHING}
        for part in (extractor, config)
    ]
    text = json.dumps(told, sort_keys=True, default=str)
    return torch.frombuffer(bytearray(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)
